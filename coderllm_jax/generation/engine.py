"""Continuous batching: requests wait, take a slot as soon as one is free, and leave when they end.

    submit ─► waiting ─► prefill in pieces ─► slot ─► a token a step ─► Event(finish) ─► free

One call of `step` hands the device the next token of every slot, and looks at the tokens before it
while the device works: a request's end is noticed one step late and its slot idles for that step.
Where a prompt breaks prefill, by the memory it needs for one, `step` raises and the request waits
as before: whoever serves cancels it, or tries again.

The engine is a plain object without threads: whoever serves owns the loop. Nothing here knows what
a question is; prompts are token ids, made by `data.prompts`.
"""

from __future__ import annotations

import collections
import dataclasses
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
import numpy.typing as npt

from coderllm_jax.data.tokenizer import Tokenizer
from coderllm_jax.errors import ConfigError, DataError
from coderllm_jax.generation import program
from coderllm_jax.generation.detokenize import TextStream
from coderllm_jax.generation.network import DecodeWeights, split_layers
from coderllm_jax.generation.sampling import SamplingArrays
from coderllm_jax.generation.screen import make_screen
from coderllm_jax.generation.weight_format import choose_screen, decode_rows
from coderllm_jax.model.architecture import Architecture
from coderllm_jax.model.forward import ForwardOptions
from coderllm_jax.model.lora import Adapters, merge_adapters
from coderllm_jax.model.sharding import active_mesh, fetch, row_multiple
from coderllm_jax.records import GREEDY, Finish, Sampling, TokenLogprob

Ids = npt.NDArray[np.int32]

_SMALLEST_PIECE, _LARGEST_PIECE = 32, 512
# Prompts that wait must not keep those who are being answered waiting for longer than this takes.
_PREFILL_TOKENS_A_STEP = 1024
# A prefix that is shorter costs less to compute than to look up.
_SHORTEST_PREFIX = 32
_PREFIXES_KEPT = 8


@dataclasses.dataclass(frozen=True)
class Request:
    """One prompt and how it is to be answered. `id` must be new; `stop` are texts that end it.

    logprobs: whether the chosen tokens' log-probabilities, and the likeliest others, are wanted.
    """

    id: str
    prompt: Ids
    max_new_tokens: int
    sampling: Sampling = GREEDY
    stop: tuple[str, ...] = ()
    logprobs: bool = False


class Event(NamedTuple):
    """What happened to a request: text that is certain by now, and at its end, how it ended."""

    id: str
    text: str
    finish: Finish = ""


@dataclasses.dataclass
class Completion:
    """One request's answer: without its stop token, text and ids. Times are perf_counter's."""

    request: Request
    submitted_s: float
    ids: list[int] = dataclasses.field(default_factory=list)
    text: str = ""
    finish: Finish = ""
    logprobs: list[TokenLogprob] = dataclasses.field(default_factory=list)
    started_s: float = 0.0
    first_token_s: float = 0.0
    finished_s: float = 0.0
    num_generated: int = 0  # with the stop token, which is computed like any other

    @property
    def id(self) -> str:
        """The request's."""
        return self.request.id


class Engine:
    """Answers requests from one set of weights."""

    def __init__(
        self,
        architecture: Architecture,
        tokenizer: Tokenizer,
        weights: dict[str, Any],
        adapters: Adapters | None = None,
        *,
        options: ForwardOptions,
        num_slots: int = 16,
        max_length: int = 1024,
        merge: bool = True,
        head: Literal["auto", "whole", "screened"] = "auto",
        cache_dir: str | Path | None = None,
    ) -> None:
        """`weights` and `adapters` are the stacked trees; the caller may drop them afterwards.

        max_length: tokens of prompt and answer together. merge: adapters are added to the weights,
        which saves their products at every token; kept apart, they are exact in their own format.
        head: how greedy tokens are found, by all logits or through `screen`; auto is the faster one
        by measurement, which `cache_dir` keeps.
        """
        adapters = adapters or {}
        if merge and adapters:
            blocks = merge_adapters(weights["blocks"], adapters, scale=options.lora_scale)
            weights, adapters = {**weights, "blocks": blocks}, {}
        self.architecture, self.tokenizer = architecture, tokenizer
        self.num_slots, self.max_length = num_slots, max_length
        self._weights = split_layers(weights, adapters, architecture=architecture)
        self._static: dict[str, Any] = {"architecture": architecture, "options": options}
        mesh = active_mesh()
        self._rows = row_multiple(mesh) if mesh is not None else 1
        if num_slots % self._rows:
            raise ConfigError(
                f"num_slots is {num_slots}; expected a multiple of {self._rows}, so that the mesh "
                "splits the slots evenly"
            )
        self._stops = (tokenizer.end_of_turn_id, tokenizer.eos_id)
        self._num_rows = decode_rows(num_slots, options.precision)
        self._screen = None
        if head == "auto" and mesh is None:
            self._screen = choose_screen(
                self._weights, num_rows=self._num_rows, cache_dir=cache_dir, **self._static
            )
        elif head == "screened":
            self._screen = make_screen(self._weights.embedding, precision=options.precision)
        self._state = program.new_slots(
            architecture,
            num_slots=self._num_rows,
            max_length=max_length,
            # Not the operands': XLA's CPU backend updates bfloat16 by converting the whole array.
            dtype=options.precision.carried,
        )
        self._waiting: collections.deque[Completion] = collections.deque()
        self._free = list(range(num_slots))[::-1]
        self._running: dict[int, _Running] = {}
        self._cancelled: set[int] = set()
        self._in_flight: tuple[program.Decoded, dict[int, _Running]] | None = None
        self._prefixes: collections.OrderedDict[bytes, Any] = collections.OrderedDict()

    # ------------------------------------------------------------------------------ requests

    @property
    def weights(self) -> DecodeWeights:
        """What it answers from, for those who score texts with the same weights."""
        return self._weights

    @property
    def options(self) -> ForwardOptions:
        """How its forward pass is computed."""
        return self._static["options"]

    @property
    def setting(self) -> dict[str, Any]:
        """What answers are equal under, as JSON; two settings may differ by rounding."""
        return {
            "num_slots": self.num_slots,
            "max_length": self.max_length,
            "precision": self.options.precision.name,
            "head": "whole" if self._screen is None else "screened",
            "platform": jax.default_backend(),
        }

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do."""
        return not (self._waiting or self._running or self._in_flight)

    @property
    def num_waiting(self) -> int:
        """Requests without a slot."""
        return len(self._waiting)

    def submit(self, request: Request) -> Completion:
        """Takes a request; the completion fills as `step` is called.

        Raises DataError where the prompt is empty or leaves no room for an answer.
        """
        if not len(request.prompt):
            raise DataError(
                f"request {request.id}: the prompt has no tokens; expected at least one"
            )
        if request.max_new_tokens < 1:
            raise DataError(f"request {request.id}: max_new_tokens is {request.max_new_tokens}")
        if len(request.prompt) >= self.max_length:
            raise DataError(
                f"request {request.id}: the prompt has {len(request.prompt)} tokens, and prompt "
                f"and answer may have {self.max_length}; shorten it or raise max_length"
            )
        completion = Completion(request, submitted_s=time.perf_counter())
        self._waiting.append(completion)
        return completion

    def cancel(self, id: str) -> bool:
        """Ends a request where it is; what it has said so far stays. False where none is going."""
        for completion in self._waiting:
            if completion.id == id:
                self._waiting.remove(completion)
                self._end(completion, "cancelled")
                return True
        for slot, running in list(self._running.items()):
            if running.completion.id == id:
                self._release(slot, running, "cancelled")
                return True
        return False

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """All of them to their end, in the order given. What all prompts share is computed once."""
        self.share_prefix([request.prompt for request in requests])
        completions = [self.submit(request) for request in requests]
        while not self.is_idle:
            self.step()
        return completions

    def step(self) -> list[Event]:
        """Moves everything on by one token and tells what the step before has brought."""
        self._admit()
        dispatched = self._dispatch() if self._running else None
        before, self._in_flight = self._in_flight, dispatched
        return list(self._read(*before)) if before else []

    # ------------------------------------------------------------------------------- prefixes

    def share_prefix(self, prompts: Sequence[Ids]) -> int:
        """Computes once what all `prompts` begin with, if that is worth it; returns its length."""
        if len(prompts) < 2:
            return 0
        shortest = min(len(prompt) for prompt in prompts) - 1  # the last token is decoded
        same = np.all([p[:shortest] == prompts[0][:shortest] for p in prompts], axis=0)
        length = int(np.argmin(same)) if not same.all() else shortest
        if length < _SHORTEST_PREFIX:
            return 0
        prefix = prompts[0][:length]
        if prefix.tobytes() not in self._prefixes:
            self._prefixes[prefix.tobytes()] = self._prefill(prefix, None, start=0)
            if len(self._prefixes) > _PREFIXES_KEPT:
                self._prefixes.popitem(last=False)
        return length

    def _known_prefix(self, prompt: Ids) -> tuple[int, Any]:
        """The longest prefix kept that `prompt` begins with, and its caches."""
        found, kept = 0, None
        for key, caches in self._prefixes.items():
            prefix = np.frombuffer(key, np.int32)
            if found < len(prefix) < len(prompt) and (prompt[: len(prefix)] == prefix).all():
                found, kept = len(prefix), caches
        return found, kept

    # ------------------------------------------------------------------------------- the device

    def _admit(self) -> None:
        """Gives free slots to those who wait, as far as that does not hold up the others."""
        room = _PREFILL_TOKENS_A_STEP
        while self._waiting and self._free and (room > 0 or not self._running):
            completion, slot = self._waiting[0], self._free[-1]  # theirs only once it has begun
            completion.started_s = time.perf_counter()
            request = completion.request
            known, held = self._known_prefix(request.prompt)
            held = self._prefill(request.prompt[known:-1], held, start=known)
            room -= len(request.prompt) - known
            seen = np.zeros(self.architecture.vocabulary, bool)
            seen[request.prompt] = True
            budget = min(request.max_new_tokens, self.max_length - len(request.prompt))
            self._state = program.start(
                self._state,
                held,
                program.Start(
                    slot=np.int32(slot),
                    token=request.prompt[-1],
                    position=np.int32(len(request.prompt) - 1),
                    budget=np.int32(budget),
                    seen=seen,
                    sampling=SamplingArrays.of(request.sampling),
                ),
            )
            self._waiting.popleft()
            self._free.pop()
            self._cancelled.discard(slot)
            stream = TextStream(self.tokenizer, stops=request.stop)
            self._running[slot] = _Running(completion, stream)

    def _prefill(self, ids: Ids, held: Any, *, start: int) -> Any:
        """What a prompt holds with `ids` from position `start` on; `held`: what it held before."""
        while len(ids):
            piece = ids[:_LARGEST_PIECE]
            # On a mesh rows are split evenly: the others hold nothing.
            padded = np.zeros((self._rows, _bucket(len(piece))), np.int32)
            padded[0, : len(piece)] = piece
            none = [0] * (self._rows - 1)
            held = program.prefill(
                self._weights,
                held,
                program.Piece(
                    padded,
                    start=np.array([start, *none], np.int32),
                    length=np.array([len(piece), *none], np.int32),
                ),
                max_length=self.max_length,
                **self._static,
            )
            ids, start = ids[len(piece) :], start + len(piece)
        return held

    def _dispatch(self) -> tuple[program.Decoded, dict[int, _Running]]:
        cancelled = np.zeros(self._num_rows, bool)
        cancelled[list(self._cancelled)] = True
        self._cancelled.clear()
        asked = [running.completion.request for running in self._running.values()]
        self._state, decoded = program.decode(
            self._weights,
            self._state,
            cancelled,
            self._screen,
            stops=self._stops,
            samples=not all(request.sampling.is_greedy for request in asked),
            logprobs=any(request.logprobs for request in asked),
            **self._static,
        )
        return decoded, dict(self._running)

    # ------------------------------------------------------------------------------- answers

    def _read(self, decoded: program.Decoded, asked: dict[int, _Running]) -> Iterator[Event]:
        fetched = program.Decoded(*map(fetch, decoded))
        now = time.perf_counter()
        for slot, running in asked.items():
            completion = running.completion
            if completion.finish or not fetched.active[slot]:
                continue
            token = int(fetched.token[slot])
            completion.num_generated += 1
            completion.first_token_s = completion.first_token_s or now
            finish: Finish = ""
            if token in self._stops:
                finish = "stop"
            else:
                completion.ids.append(token)
                if completion.request.logprobs:
                    completion.logprobs.append(_logprob(fetched, slot, token))
                if running.stream.push(token):
                    finish = "stop"
                elif fetched.finished[slot]:
                    finish = "length"
            if finish:
                self._release(slot, running, finish)
            text = running.stream.take(final=bool(finish))
            completion.text += text
            if text or finish:
                yield Event(completion.id, text, finish)

    def _release(self, slot: int, running: _Running, finish: Finish) -> None:
        self._end(running.completion, finish)
        del self._running[slot]
        self._free.append(slot)
        self._cancelled.add(slot)

    def _end(self, completion: Completion, finish: Finish) -> None:
        completion.finish, completion.finished_s = finish, time.perf_counter()


@dataclasses.dataclass
class _Running:
    """A request in its slot."""

    completion: Completion
    stream: TextStream


def _bucket(length: int) -> int:
    """The smallest power of two that holds a piece: so many prefill programs there are at most."""
    return max(_SMALLEST_PIECE, 1 << (length - 1).bit_length())


def _logprob(decoded: program.Decoded, slot: int, token: int) -> TokenLogprob:
    assert decoded.logprob is not None
    assert decoded.alternatives is not None
    tokens, values = (array[slot].tolist() for array in decoded.alternatives)
    return TokenLogprob(
        token, float(decoded.logprob[slot]), tuple(zip(tokens, values, strict=True))
    )
