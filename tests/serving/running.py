"""A server over `tiny` on a real port, in threads of this process, and the official client."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import openai

from coderllm_jax.config.serving import LimitsSection
from coderllm_jax.data.prompts import PromptStyle
from coderllm_jax.data.tokenizer import ByteTokenizer
from coderllm_jax.generation.answering import LocalAnswerer
from coderllm_jax.generation.engine import Engine
from coderllm_jax.model.architecture import TINY
from coderllm_jax.model.forward import ForwardOptions
from coderllm_jax.records import Answerer
from coderllm_jax.serving.app import make_app
from coderllm_jax.serving.arms import Opened, ServedModel
from coderllm_jax.serving.desk import Desk
from coderllm_jax.serving.request_log import RequestLog
from coderllm_jax.serving.service import Service
from coderllm_jax.serving.tickets import Lane, Progress
from coderllm_jax.serving.warm_up import compile_engine
from coderllm_jax.web.guard import LOOPBACK_NAMES, Access, guarded
from tests.model.tiny_model import tiny_weights
from tests.web.served import served

SLOTS, LENGTH = 4, 128
ACCESS = Access(LOOPBACK_NAMES, None, 1 << 20, 5.0, ("/health", "/ready"))
LIMITS = LimitsSection(deadline_s=60, default_tokens=16, drain_s=20)


class Running(NamedTuple):
    url: str
    service: Service
    log: Path | None
    server: Any
    clients: contextlib.ExitStack

    def client(self, **options: Any) -> openai.OpenAI:
        """As users make it, but for retries; closed when the server has ended."""
        options = {"api_key": "none", "max_retries": 0, "timeout": 60} | options
        return self.clients.enter_context(openai.OpenAI(base_url=f"{self.url}v1", **options))


def new_engine() -> Engine:
    """Warm. An engine belongs to one thread, so every server has its own, and so have tests."""
    engine = Engine(
        TINY,
        ByteTokenizer(),
        tiny_weights(),
        options=ForwardOptions(),
        num_slots=SLOTS,
        max_length=LENGTH,
    )
    _compile_once(engine)
    return engine


_compiled: list[int] = []


def _compile_once(engine: Engine) -> None:
    """Programs are compiled for a shape, and all of these engines have the same shapes."""
    if not _compiled:
        _compiled.append(compile_engine(engine))


def local() -> LocalAnswerer:
    """An answerer over an engine of its own."""
    return LocalAnswerer(new_engine(), name="tiny", style=PromptStyle(), model={"name": "tiny"})


@functools.cache
def reference() -> LocalAnswerer:
    """The generator in the test's own thread, which served answers are held to."""
    return local()


def lane_of(answerer: LocalAnswerer, arms: Mapping[str, Answerer] | None = None) -> Lane:
    """`base` alone, or the arms that are given, of which the last is polled."""
    arms = arms or {"base": answerer}

    def progress(id: str) -> Progress | None:
        found = answerer.completion(id)
        if found is None:
            return None
        return Progress(len(found.request.prompt), found.num_generated, found.logprobs)

    return Lane(arms, list(arms.values())[-1], SLOTS, progress)


def opened(*lanes: Lane) -> Opened:
    """Lanes with a model for each arm."""
    models = {
        arm: ServedModel("0" * 12, arm == "rag", lambda token: ByteTokenizer().decode([token]))
        for lane in lanes
        for arm in lane.arms
    }
    return Opened(tuple(lanes), models)


@contextlib.contextmanager
def running(
    *lanes: Lane,
    folder: Path | None = None,
    access: Access = ACCESS,
    open_at_once: bool = True,
    keeps_text: bool = False,
    keeps_confidence: bool = False,
    **limits: Any,
) -> Iterator[Running]:
    """A server; `limits` over LIMITS. The log is in `folder`."""
    lanes = lanes or (lane_of(local()),)
    section = dataclasses.replace(LIMITS, **limits)
    desk = Desk(max_waiting=section.max_waiting, deadline_s=section.deadline_s)
    log = folder / "requests.jsonl" if folder else None
    service = Service(
        desk,
        arms=[arm for lane in lanes for arm in lane.arms],
        limits=section,
        max_length=LENGTH,
        log=RequestLog(log, max_bytes=1 << 20, num_kept=2) if log else None,
        keeps_text=keeps_text,
        keeps_confidence=keeps_confidence,
    )
    if open_at_once:
        service.open(opened(*lanes))
    thread = threading.Thread(target=desk.run, name="desk")
    thread.start()
    app = guarded(make_app(service), access)
    try:
        with (
            contextlib.ExitStack() as clients,
            served(app, on_drain=service.drain, drain_s=section.drain_s) as server,
        ):
            yield Running(server.url, service, log, server, clients)
    finally:
        desk.stop()
        thread.join(30)
        assert not thread.is_alive()
