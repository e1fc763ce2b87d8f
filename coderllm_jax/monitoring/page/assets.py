"""The page's files, read once: no folder is served, so no path leads out of one.

    "app.js" ──► Asset(body, media_type, etag)

The chart library is dygraphs, from the package of that name: a Python wrapper whose import would
bring much else, so its JavaScript is read without importing it.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import importlib.util
from pathlib import Path
from typing import NamedTuple

from coderllm_jax.errors import UserError

CHARTS = "dygraph.js"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


class Asset(NamedTuple):
    """One file as it is sent."""

    body: bytes
    media_type: str
    etag: str


def load_assets() -> dict[str, Asset]:
    """By name. Raises UserError where the chart library is not installed."""
    folder = importlib.resources.files("coderllm_jax.monitoring.page") / "static"
    found = {
        file.name: _asset(file.name, file.read_bytes())
        for file in folder.iterdir()
        if Path(file.name).suffix in _TYPES
    }
    return found | {CHARTS: _asset(CHARTS, _chart_library())}


def _chart_library() -> bytes:
    spec = importlib.util.find_spec("dygraphs")
    for place in (spec and spec.submodule_search_locations) or ():
        file = Path(place) / "assets" / "dygraph-combined.js"
        if file.is_file():
            return file.read_bytes()
    raise UserError(
        "the chart library is missing; expected the package dygraphs with "
        "assets/dygraph-combined.js; install it with: pip install 'coderllm-jax[monitoring]'"
    )


def _asset(name: str, body: bytes) -> Asset:
    etag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
    return Asset(body, _TYPES[Path(name).suffix], etag)
