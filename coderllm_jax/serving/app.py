"""The routes: OpenAI's interface under /v1, what keeps a server running, and a page to try it.

    POST /v1/chat/completions   POST /v1/completions   GET /v1/models   GET /v1/models/{model}
    GET  /health    200 while the process is worth keeping, 503 when it should be started anew
    GET  /ready     200 while requests are taken, 503 while loading and draining
    GET  /metrics   for Prometheus
    GET  /          the page

A stream's status is sent with its first token, so what is refused, late or broken before that has
the right status; after it, an error comes as an event. Who may ask is `web.guard`'s business.
"""

from __future__ import annotations

import asyncio
import collections
import logging
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from coderllm_jax.serving.blotting import blot
from coderllm_jax.serving.page import page_routes
from coderllm_jax.serving.refusals import CLIENT_LEFT, Refusal
from coderllm_jax.serving.replies import DONE, Reply, event, model_entry, models_page, usage_of
from coderllm_jax.serving.requests import Operation, parse_body, read_request
from coderllm_jax.serving.service import Exchange, Heard, Service

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

# Of a reader who takes nothing for so long nobody knows whether it is still there.
_WRITE_TIMEOUT_S = 30.0


def make_app(service: Service) -> Starlette:
    """The application, without the guard."""

    async def chat(request: Request) -> Any:
        return await _answer(service, request, "chat")

    async def completions(request: Request) -> Any:
        return await _answer(service, request, "completion")

    async def models(request: Request) -> Response:
        versions = {name: model.version for name, model in service.models.items()}
        return JSONResponse(models_page(service.arms, versions, service.started))

    async def model(request: Request) -> Response:
        name = request.path_params["model"]
        if name not in service.arms:
            raise Refusal(404, "no such model is served here", "model_not_found", param="model")
        version = service.models[name].version if name in service.models else ""
        return JSONResponse(model_entry(name, version, service.started))

    async def health(request: Request) -> Response:
        is_healthy = service.is_healthy
        status = "alive" if is_healthy else "stuck or broken; start it anew"
        return JSONResponse({"status": status}, 200 if is_healthy else 503)

    async def ready(request: Request) -> Response:
        state = service.desk.state
        is_ready = state == "ready" and service.is_healthy
        return JSONResponse({"status": state}, 200 if is_ready else 503)

    async def metrics(request: Request) -> Response:
        page, kind = service.metrics.page(request.headers.get("accept", ""))
        return Response(page, headers={"content-type": kind})

    return Starlette(
        routes=[
            Route("/v1/chat/completions", chat, methods=["POST"]),
            Route("/v1/completions", completions, methods=["POST"]),
            Route("/v1/models", models, methods=["GET"]),
            Route("/v1/models/{model}", model, methods=["GET"]),
            Route("/health", health, methods=["GET"]),
            Route("/ready", ready, methods=["GET"]),
            Route("/metrics", metrics, methods=["GET"]),
            *page_routes(),
        ],
        exception_handlers={
            Refusal: _refuse,
            HTTPException: _refuse_route,
            Exception: _refuse_bug,
        },
    )


async def _answer(service: Service, request: Request, operation: Operation) -> Any:
    exchange = Exchange(service, operation)
    try:
        if not _is_json(request.headers.get("content-type", "")):
            raise Refusal(
                415,
                "the body's type is another one; expected Content-Type: application/json",
                "unsupported_media_type",
            )
        body = parse_body(await request.body())
        asked = read_request(body, operation, service.reading)
        reply = exchange.begin(asked)
    except Refusal as refusal:
        exchange.refuse(refusal)
        return _refused(refusal, exchange.id)
    leaving = asyncio.get_running_loop().create_task(_await_leaving(request, exchange))
    is_handed_on = False
    try:
        heard = await exchange.hear()
        if asked.streams and not (heard.refusal or heard.has_left):
            is_handed_on = True
            return _EventStream(exchange, reply, heard, leaving)
        while not (heard.is_over or heard.has_left):
            heard = await exchange.hear()
    finally:
        if not is_handed_on:
            leaving.cancel()
    if heard.has_left:  # nobody reads it
        return Response(status_code=CLIENT_LEFT)
    if heard.refusal is not None:
        return _refused(heard.refusal, exchange.id)
    whole = reply.whole(exchange.answers(), looks_up=exchange.looks_up)
    return JSONResponse(whole, headers={"x-request-id": exchange.id})


class _EventStream:
    """A reply in pieces: an ASGI application that answers one request."""

    def __init__(
        self, exchange: Exchange, reply: Reply, first: Heard, leaving: asyncio.Task[None]
    ) -> None:
        self._exchange, self._reply, self._first, self._leaving = exchange, reply, first, leaving
        self._opened: set[int] = set()
        self._counts: dict[int, tuple[int, int]] = {}
        self._offsets: dict[int, int] = collections.defaultdict(int)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {
            "content-type": "text/event-stream; charset=utf-8",
            "x-accel-buffering": "no",  # proxies that would wait for more
            "x-request-id": self._exchange.id,
        }
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        try:
            await send({"type": "http.response.start", "status": 200, "headers": raw})
            heard = self._first
            while not heard.has_left:
                async with asyncio.timeout(_WRITE_TIMEOUT_S):
                    await send(
                        {
                            "type": "http.response.body",
                            "body": self._written(heard),
                            "more_body": not heard.is_over,
                        }
                    )
                if heard.is_over:
                    return
                heard = await self._exchange.hear()
        except (TimeoutError, OSError):
            self._exchange.leave()
        finally:
            self._leaving.cancel()

    def _written(self, heard: Heard) -> bytes:
        """The events for what was heard; with the end, what ends a stream."""
        events = []
        for news in heard.news:
            if news.choice not in self._opened:
                self._opened.add(news.choice)
                events.append(self._reply.opening(news.choice))
            self._counts[news.choice] = (news.num_prompt_tokens, news.num_new_tokens)
            usage = self._usage()
            # The server may want log-probabilities, for its log, where the client does not.
            logprobs = news.logprobs if self._reply.asked.num_alternatives is not None else ()
            if news.text or logprobs:
                offset = self._offsets[news.choice]
                events.append(
                    self._reply.piece(news.choice, news.text, logprobs, offset=offset, usage=usage)
                )
                self._offsets[news.choice] += self._reply.spelled_length(logprobs)
            if news.answer is not None:
                looks_up = self._exchange.looks_up
                events.append(
                    self._reply.ending(news.choice, news.answer, looks_up=looks_up, usage=usage)
                )
        if heard.is_over and heard.refusal is not None:
            events.append(heard.refusal.as_json())
        elif heard.is_over and self._reply.asked.includes_usage:
            events.append(self._reply.counted(self._exchange.answers()))
        written = b"".join(event(each) for each in events if each is not None)
        return written + DONE if heard.is_over else written

    def _usage(self) -> dict[str, int]:
        prompts = {
            index // self._reply.asked.n: counts[0] for index, counts in self._counts.items()
        }
        return usage_of(sum(prompts.values()), sum(counts[1] for counts in self._counts.values()))


async def _await_leaving(request: Request, exchange: Exchange) -> None:
    """Until the client is gone. The body was read, so nothing else can come."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    exchange.leave()


def _is_json(content_type: str) -> bool:
    return content_type.partition(";")[0].strip().lower() == "application/json"


def _refused(refusal: Refusal, id: str = "") -> Response:
    headers = {**refusal.headers, **({"x-request-id": id} if id else {})}
    return JSONResponse(refusal.as_json(), refusal.status, headers=headers)


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return _refused(error)


async def _refuse_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        refusal = Refusal(405, "this address takes another method", "method_not_allowed")
    else:
        refusal = Refusal(error.status_code, "there is nothing at this address", "not_found")
    return JSONResponse(refusal.as_json(), refusal.status, headers=error.headers)


async def _refuse_bug(request: Request, error: Exception) -> Response:
    logging.getLogger(__name__).error("a request failed: %s", blot(repr(error)))
    return _refused(Refusal(500, "the server made a mistake on this request", "internal_error"))
