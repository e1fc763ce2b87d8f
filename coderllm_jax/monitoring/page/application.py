"""The page's addresses: one ASGI application over a feed.

    /                  the page; /static/NAME its files
    /events            server-sent events: `overview` (sections that changed), `series` (new points)
        ?want={"lora-1f0c": ["loss"]}&points=1200
    /api/overview      everything at this moment, as JSON
    /api/series        ?id=lora-1f0c&name=loss&name=eval_loss&since=400&until=500&points=2000
    /metrics           the same for Prometheus
    /health            alive; needs no token

Only GET is answered, and nothing that is asked changes what is watched. Who may ask is
`web.guard`'s business.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any

from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from coderllm_jax.monitoring.columns import MAX_NAMES
from coderllm_jax.monitoring.exposition import registry
from coderllm_jax.monitoring.page.assets import Asset, load_assets
from coderllm_jax.monitoring.page.feed import SECTIONS, Feed, to_json

if TYPE_CHECKING:
    from coderllm_jax.monitoring.watching import Watch

HEALTH = "/health"
# Shorter than what proxies wait for.
_KEEP_ALIVE_S = 15.0
_RETRY_MS = 1000
_MAX_WATCHERS = 64
# Of one thing no more series than it has, of no more things than a page shows.
_MAX_WANTED, _MAX_NAMES = 64, MAX_NAMES
_POINTS = (50, 20_000)


class Page:
    """The application and what it needs to end well: `app` is served, `drain` ends its streams."""

    def __init__(self, watch: Watch, *, poll_s: float) -> None:
        self._watch, self._poll_s = watch, poll_s
        self._assets = load_assets()
        self._feed: Feed | None = None
        self._num_watchers = 0
        self._is_draining = False
        self.app = Starlette(
            routes=[
                Route("/", self._index),
                Route("/static/{name}", self._static),
                Route("/events", self._events),
                Route("/api/overview", self._overview),
                Route("/api/series", self._series),
                Route("/metrics", self._show_metrics),
                Route(HEALTH, self._health),
            ],
            lifespan=self._live,
        )

    async def drain(self) -> None:
        """Ends the streams; browsers connect again to whoever comes after."""
        self._is_draining = True
        while self._num_watchers and self._feed is not None:
            await self._feed.wake()
            await asyncio.sleep(0.02)

    @contextlib.asynccontextmanager
    async def _live(self, _: Starlette) -> AsyncIterator[None]:
        self._feed = Feed(self._watch, poll_s=self._poll_s)
        polling = asyncio.create_task(self._feed.keep_going())
        try:
            yield
        finally:
            polling.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await polling
            await self._feed.close()

    async def _index(self, request: Request) -> Response:
        return _send(self._assets["index.html"], request)

    async def _static(self, request: Request) -> Response:
        asset = self._assets.get(request.path_params["name"])
        return _missing("file") if asset is None else _send(asset, request)

    async def _health(self, _: Request) -> Response:
        return JSONResponse({"status": "draining" if self._is_draining else "ok"})

    async def _overview(self, _: Request) -> Response:
        assert self._feed is not None
        await self._feed.refresh()
        return _json(_sections(self._feed, {}))

    async def _series(self, request: Request) -> Response:
        assert self._feed is not None
        query = request.query_params
        names = query.getlist("name")[:_MAX_NAMES]
        since, points = _number(query, "since", -1), _points(query)
        until = _number(query, "until", 0) if "until" in query else None

        def look(watch: Watch) -> dict[str, Any]:
            return watch.series(
                query.get("id", ""),
                names,
                since_step=since,
                until_step=until,
                max_points=points,
            )

        try:
            return _json(to_json(await self._feed.ask(look)))
        except KeyError:
            return _missing("run, log or machine")

    async def _show_metrics(self, _: Request) -> Response:
        assert self._feed is not None
        text = await self._feed.ask(lambda watch: generate_latest(registry(watch)).decode())
        return Response(text, headers={"content-type": CONTENT_TYPE_PLAIN_0_0_4})

    async def _events(self, request: Request) -> Response:
        if self._num_watchers >= _MAX_WATCHERS or self._is_draining:
            busy = {"error": {"message": "too many pages are open, or the monitor is ending"}}
            return JSONResponse(busy, 503, {"retry-after": "5"})
        stream = self._stream(
            _wanted(request.query_params.get("want", "{}")),
            request.headers.get("last-event-id", ""),
            _points(request.query_params),
        )
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        return StreamingResponse(stream, media_type="text/event-stream", headers=headers)

    async def _stream(
        self, wanted: Mapping[str, list[str]], last_id: str, points: int
    ) -> AsyncIterator[str]:
        """Events until the client leaves or the server drains; every write is one tick's."""
        assert self._feed is not None
        feed, versions = self._feed, dict[str, int]()
        seen = feed.load_seen(last_id)
        self._num_watchers += 1
        try:
            yield f"retry: {_RETRY_MS}\n\n"
            tick = -1
            while not self._is_draining:
                tick = await feed.wait_past(tick, timeout_s=_KEEP_ALIVE_S)
                pieces = [_event("overview", told)] if (told := _sections(feed, versions)) else []
                news = await feed.news(wanted, seen, max_points=points)
                if news:
                    pieces.append(_event("series", to_json(news), id=feed.dump_seen(seen)))
                yield "".join(pieces) or ": nothing new\n\n"
        finally:
            self._num_watchers -= 1


def _sections(feed: Feed, versions: dict[str, int]) -> str:
    """The sections that are newer than `versions`, which is brought up to date, as one object."""
    changed = [
        name
        for name in SECTIONS
        if name in feed.sections and versions.get(name) != feed.sections[name].version
    ]
    versions |= {name: feed.sections[name].version for name in changed}
    parts = [f'"{name}":{feed.sections[name].text}' for name in changed]
    return f'{{"time":{feed.time!r},{",".join(parts)}}}' if parts else ""


def _event(name: str, data: str, *, id: str = "") -> str:
    return (f"id: {id}\n" if id else "") + f"event: {name}\ndata: {data}\n\n"


def _wanted(text: str) -> dict[str, list[str]]:
    """Which series of what; nonsense is nothing."""
    try:
        things = json.loads(text)
        pairs = list(things.items())[:_MAX_WANTED]
        return {str(key): [str(name) for name in names][:_MAX_NAMES] for key, names in pairs}
    except (ValueError, TypeError, AttributeError, RecursionError):
        return {}


def _points(query: Mapping[str, str]) -> int:
    low, high = _POINTS
    return min(max(_number(query, "points", 2000), low), high)


def _number(query: Mapping[str, str], name: str, default: int) -> int:
    try:
        return int(query.get(name, default))
    except ValueError:
        return default


def _send(asset: Asset, request: Request) -> Response:
    headers = {"etag": asset.etag, "cache-control": "no-cache"}
    if request.headers.get("if-none-match") == asset.etag:
        return Response(status_code=304, headers=headers)
    return Response(asset.body, media_type=asset.media_type, headers=headers)


def _json(text: str) -> Response:
    return Response(text, media_type="application/json")


def _missing(what: str) -> Response:
    return JSONResponse({"error": {"message": f"there is no such {what}"}}, 404)
