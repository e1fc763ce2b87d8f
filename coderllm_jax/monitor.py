"""`python -m coderllm_jax.monitor`: a live page over runs, served traffic and this machine.

configs/monitoring.py ──► Watch (reads, judges, notifies) ──► page on http://127.0.0.1:8765/

It writes to nothing that it watches, and may be stopped and started at any time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from coderllm_jax import entry
from coderllm_jax.config.monitoring import MonitoringConfig

if TYPE_CHECKING:
    from coderllm_jax.config.monitoring import PageSection
    from coderllm_jax.web.guard import Access

# Questions to the page are addresses; none has a body.
_MAX_BODY_BYTES = 4096
_BODY_TIMEOUT_S = 5.0


def main(config: MonitoringConfig) -> None:
    """Serves the page until a signal."""
    access = page_access(config.page)
    from coderllm_jax.monitoring.page.application import Page
    from coderllm_jax.monitoring.watching import Watch
    from coderllm_jax.web.guard import guarded
    from coderllm_jax.web.server import serve

    page = Page(Watch(config), poll_s=config.poll_s)
    if access.token is not None:
        print(f"the page asks for a token: add ?token= and what {config.page.token_variable} holds")
    serve(
        guarded(page.app, access),
        host=config.page.host,
        port=config.page.port,
        name="monitor",
        on_drain=page.drain,
    )


def page_access(page: PageSection) -> Access:
    """Who may look; ConfigError where the page would be open to others without a token."""
    from coderllm_jax.monitoring.page.application import HEALTH
    from coderllm_jax.web import guard

    return guard.access_of(
        host=page.host,
        hosts=page.hosts,
        token_variable=page.token_variable,
        section="page.",
        max_body_bytes=_MAX_BODY_BYTES,
        body_timeout_s=_BODY_TIMEOUT_S,
        open_paths=(HEALTH,),
    )


if __name__ == "__main__":
    entry.run(main, MonitoringConfig, "configs/monitoring.py")
