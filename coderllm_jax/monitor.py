"""`python -m coderllm_jax.monitor`: a live page over runs, served traffic and this machine.

configs/monitoring.py ──► Watch (reads, judges, notifies) ──► page on http://127.0.0.1:8765/

It writes to nothing that it watches, and may be stopped and started at any time.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from coderllm_jax import entry
from coderllm_jax.config.monitoring import MonitoringConfig
from coderllm_jax.errors import ConfigError

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
    """Who may look: anybody on this machine, or whoever has the token.

    Raises ConfigError where the page would be open to others without one.
    """
    from coderllm_jax.monitoring.page.application import HEALTH
    from coderllm_jax.web.guard import LOOPBACK_NAMES, Access, is_loopback

    token = os.environ.get(page.token_variable) or None
    if token is None and not is_loopback(page.host):
        raise ConfigError(
            f"page.host is {page.host!r}, which others reach, and {page.token_variable} is not "
            "set; set it to a token of 16 characters or more, or use page.host=127.0.0.1"
        )
    return Access(
        hosts=(*LOOPBACK_NAMES, page.host, *page.hosts),
        token=token,
        max_body_bytes=_MAX_BODY_BYTES,
        body_timeout_s=_BODY_TIMEOUT_S,
        open_paths=(HEALTH,),
    )


if __name__ == "__main__":
    entry.run(main, MonitoringConfig, "configs/monitoring.py")
