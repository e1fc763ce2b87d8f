"""`python -m coderllm_jax.serve`: OpenAI's interface over the models that are here.

    port held ── "serve: http://127.0.0.1:8000/" ── models loaded and compiled ── ready
                                                       │ in the desk's thread
    SIGTERM or Ctrl-C: new requests are turned away (503), those under way end; again: at once

Our own mistakes are told on stderr, with whatever looks like a credential blotted out.
Heavy imports wait until there is something to serve, so that --help answers at once.

Exit codes: 0 ended by a signal, 1 a mistake that a retry would meet again.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from coderllm_jax import entry
from coderllm_jax.config.serving import ServingConfig

if TYPE_CHECKING:
    from coderllm_jax.serving.arms import Plan
    from coderllm_jax.serving.request_log import RequestLog
    from coderllm_jax.serving.service import Service
    from coderllm_jax.web.guard import Access

# The guard's checks come first, and a health check has no token.
_OPEN_PATHS = ("/health", "/ready")
_END_S = 5.0


def main(config: ServingConfig) -> int:
    """Serves until a signal; returns the exit code."""
    from coderllm_jax.training.devices import check_platform, prepare_process

    access = access_of(config)
    prepare_process(platform=config.generation.platform, cache_dir=config.model.cache_dir)
    from coderllm_jax.serving.arms import plan_arms

    plan = plan_arms(config)
    check_platform(config.generation.platform)
    note = entry.Notes()
    for arm, why in plan.missing.items():
        note(f"without {arm}: {why}")
    return serve_plan(config, plan, access, note)


def serve_plan(
    config: ServingConfig, plan: Plan, access: Access, note: Callable[[str], None]
) -> int:
    """Listens at once, loads beside it, and returns when a signal, or a mistake, has ended it."""
    from coderllm_jax.serving.app import make_app
    from coderllm_jax.serving.blotting import blot
    from coderllm_jax.serving.desk import Desk
    from coderllm_jax.serving.service import Service
    from coderllm_jax.web.guard import guarded
    from coderllm_jax.web.server import HttpServer, show_bugs

    desk = Desk(max_waiting=config.limits.max_waiting, deadline_s=config.limits.deadline_s)
    service = Service(
        desk,
        arms=plan.arms,
        limits=config.limits,
        max_length=config.generation.max_length,
        log=_open_log(config),
        keeps_text=config.log.text,
        keeps_confidence=config.log.mean_logprob,
    )
    server = HttpServer(
        guarded(make_app(service), access),
        host=config.host,
        port=config.port,
        drain_s=config.limits.drain_s + _END_S,
        on_drain=service.drain,
    )
    show_bugs(blot)
    print(f"serve: {server.url}", flush=True)
    worker = _Worker(config, plan, service, note, when_failed=server.stop)
    worker.start()
    server.run()
    worker.end()
    return 0


class _Worker(threading.Thread):
    """The desk's thread: loads, compiles, and answers."""

    def __init__(
        self,
        config: ServingConfig,
        plan: Plan,
        service: Service,
        note: Callable[[str], None],
        *,
        when_failed: Callable[[], None],
    ) -> None:
        super().__init__(name="desk", daemon=True)
        self._config, self._plan, self._service = config, plan, service
        self._note, self._when_failed = note, when_failed
        self._error: BaseException | None = None

    def run(self) -> None:
        """Until the desk is stopped, or loading fails."""
        try:
            load(self._config, self._plan, self._service, self._note)
            self._note(f"ready: {', '.join(self._plan.arms)}")
            self._service.desk.run()
        except BaseException as error:  # noqa: BLE001 - raised again by `end`
            self._error = error
            self._when_failed()

    def end(self) -> None:
        """Stops the desk; raises what ended its thread, if anything did."""
        self._service.desk.stop()
        self.join(_END_S)
        if self._error is not None:
            raise self._error
        if self.is_alive():
            # In native code, such as a compiler: Python cannot end it, and would crash trying.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)


def load(config: ServingConfig, plan: Plan, service: Service, note: Callable[[str], None]) -> None:
    """Loads and compiles everything, and opens the desk."""
    from coderllm_jax.serving.arms import open_arms

    service.open(open_arms(config, plan, note))


def access_of(config: ServingConfig) -> Access:
    """Who may ask; ConfigError where everybody might."""
    from coderllm_jax.web import guard

    return guard.access_of(
        host=config.host,
        hosts=config.hosts,
        token_variable=config.token_variable,
        max_body_bytes=config.limits.max_body_bytes,
        body_timeout_s=config.limits.body_timeout_s,
        open_paths=_OPEN_PATHS,
    )


def _open_log(config: ServingConfig) -> RequestLog | None:
    from coderllm_jax.serving.request_log import RequestLog

    if not config.log.path:
        return None
    return RequestLog(
        Path(config.log.path).expanduser(),
        max_bytes=config.log.max_bytes,
        num_kept=config.log.kept,
    )


if __name__ == "__main__":
    entry.run(main, ServingConfig, "configs/serving.py", computes=True)
