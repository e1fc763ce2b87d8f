"""An application behind a real port, in a thread of this process."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

from coderllm_jax.web.server import HttpServer


@contextlib.contextmanager
def served(app: Any, *, host: str = "127.0.0.1", port: int = 0, **kwargs: Any) -> Iterator[Any]:
    """The running server; stopped, and its thread gone, afterwards."""
    server = HttpServer(app, host=host, port=port, **kwargs)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_until(lambda: server.started or not thread.is_alive())
        assert server.started
        yield server
    finally:
        server.stop()
        thread.join(30)
        assert not thread.is_alive()


def wait_until(is_so: Any, timeout_s: float = 30) -> None:
    """Waits until it is so; fails when it never is."""
    deadline_s = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline_s, "it never came to be so"
        time.sleep(0.01)
