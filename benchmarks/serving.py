"""A server's throughput and a soak: one table, and whether the goals are met.

    python -m benchmarks.serving
    python -m benchmarks.serving --parts=throughput --rounds=5 --json=serving.json
    python -m benchmarks.serving --parts=soak --model=tiny --soak_requests=1000

    throughput    the same texts, one stream after another and sixteen at a time, in turn; server
                  and client share the machine's cores, as on a laptop
    soak          requests of mixed lengths in bursts beyond the server's room, 5 % that leave and
                  5 % that are malformed: no hang, no growth, every answer the generator's own

The server is `python -m coderllm_jax.serve` in a process of its own, asked over HTTP by OpenAI's
client. Its memory is the resident set of that process.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import openai
import psutil
from absl import app, flags

from benchmarks.goals import Ratio, ratio_lines
from benchmarks.serving_soak import Outcome, Planned, find_wrong, make_plan, run_soak

_JSON = flags.DEFINE_string("json", "", "Also write the figures to this file.", allow_override=True)
_REPORT = flags.DEFINE_string(
    "report", "", "Also write the table as Markdown to this file.", allow_override=True
)
_PARTS = flags.DEFINE_list(
    "parts", ["throughput", "soak"], "throughput, soak, or both.", allow_override=True
)
_MODEL = flags.DEFINE_string(
    "model", "gemma3_270m", "The model that is served.", allow_override=True
)
_ROUNDS = flags.DEFINE_integer(
    "rounds", 5, "Passes of one stream and of sixteen, in turn.", lower_bound=1, allow_override=True
)
_TOKENS = flags.DEFINE_integer(
    "tokens", 64, "New tokens for each text.", lower_bound=2, allow_override=True
)
_SOAK_REQUESTS = flags.DEFINE_integer(
    "soak_requests", 1000, "Requests of the soak.", lower_bound=20, allow_override=True
)

_STREAMS = 16
# Texts of one pass by one stream: enough that their mean is the sixteen's.
_ALONE = 4
_SOAK_LENGTH, _SOAK_WAITING = 256, 8
# Memory is looked at from here on: what is cached and compiled has been by then.
_SETTLED = 200
_READY_TIMEOUT_S = 1800.0
_TEXTS = tuple(
    f"def {name}(values):\n    \"\"\"Returns {what} of the values.\"\"\"\n"
    for name, what in (
        ("mean", "the mean"), ("median", "the median"), ("largest", "the largest"),
        ("smallest", "the smallest"), ("spread", "the spread"), ("total", "the sum"),
        ("product", "the product"), ("variance", "the variance"), ("mode", "the mode"),
        ("count", "the number"), ("unique", "the different ones"), ("ordered", "a sorted list"),
        ("even", "the even ones"), ("odd", "the odd ones"), ("squares", "the squares"),
        ("running", "the running sums"),
    )
)  # fmt: skip


class Server(NamedTuple):
    """A running one."""

    url: str
    process: psutil.Process
    log: Path
    ready_s: float

    @property
    def memory_bytes(self) -> int:
        """Its resident set."""
        return int(self.process.memory_info().rss)


class Pass(NamedTuple):
    """The texts once: seconds, tokens that came, and each stream's wait for its first."""

    seconds: float
    num_tokens: int
    first_s: tuple[float, ...]

    @property
    def tokens_per_s(self) -> float:
        """Of all streams together."""
        return self.num_tokens / self.seconds


class Throughput(NamedTuple):
    """Passes in turn: by one stream, and by sixteen."""

    one: tuple[Pass, ...]
    sixteen: tuple[Pass, ...]
    ready_s: float
    memory_bytes: int

    @property
    def ratio(self) -> float:
        """Sixteen streams' tokens a second over one's; median over the rounds."""
        pairs = zip(self.one, self.sixteen, strict=True)
        return statistics.median(b.tokens_per_s / a.tokens_per_s for a, b in pairs)


class Soak(NamedTuple):
    """A soak's counts. memory: at the 200th request and at the end."""

    requests: int
    answered: int
    cancelled: int
    malformed: int
    turned_away: int
    wrong: tuple[int, ...]
    log_lines: int
    idle_at_end: bool
    seconds: float
    memory_settled_bytes: int
    memory_end_bytes: int


@contextlib.contextmanager
def serving(model: str, folder: Path, *options: str) -> Iterator[Server]:
    """`model` as `base`, ready; ended by SIGTERM, and by force where that does not end it."""
    log = folder / "requests.jsonl"
    command = [sys.executable, "-m", "coderllm_jax.serve", "--config.arms=base"]
    command += [f"--config.base_model={model}", "--config.port=0", f"--config.log.path={log}"]
    command += options
    started = time.perf_counter()
    errors = (folder / "errors.txt").open("w")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
    assert process.stdout is not None
    try:
        url = process.stdout.readline().partition(": ")[2].strip()
        while not url or httpx.get(f"{url}ready", timeout=60).status_code != 200:
            if process.poll() is not None or time.perf_counter() - started > _READY_TIMEOUT_S:
                raise SystemExit(f"error: no server: {(folder / 'errors.txt').read_text()[-500:]}")
            time.sleep(0.25)
        ready_s = time.perf_counter() - started
        yield Server(url, psutil.Process(process.pid), log, ready_s)
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
        errors.close()


def measure_throughput(folder: Path) -> Throughput:
    """One stream and sixteen in turn, after one of each that does not count."""
    one, sixteen = [], []
    with serving(_MODEL.value, folder) as server:
        for number in range(1 + _ROUNDS.value):
            alone = asyncio.run(_pass(server.url, _TEXTS[:_ALONE], at_once=1))
            together = asyncio.run(_pass(server.url, _TEXTS, at_once=_STREAMS))
            _tell(f"{alone.tokens_per_s:.1f} and {together.tokens_per_s:.1f} tokens/s")
            if number:
                one.append(alone)
                sixteen.append(together)
        return Throughput(tuple(one), tuple(sixteen), server.ready_s, server.memory_bytes)


async def _pass(url: str, texts: Sequence[str], *, at_once: int) -> Pass:
    places = asyncio.Semaphore(at_once)
    async with openai.AsyncOpenAI(
        base_url=f"{url}v1", api_key="none", max_retries=0, timeout=600
    ) as client:

        async def stream(text: str) -> tuple[float, int]:
            async with places:
                started = time.perf_counter()
                first_s, num_tokens = 0.0, 0
                async for chunk in await client.completions.create(
                    model="base",
                    prompt=text,
                    max_tokens=_TOKENS.value,
                    temperature=0,
                    stream=True,
                    stream_options={"include_usage": True},
                ):
                    first_s = first_s or time.perf_counter() - started
                    num_tokens = chunk.usage.completion_tokens if chunk.usage else num_tokens
                return first_s, num_tokens

        started = time.perf_counter()
        found = await asyncio.gather(*(stream(text) for text in texts))
    seconds = time.perf_counter() - started
    return Pass(seconds, sum(each[1] for each in found), tuple(each[0] for each in found))


def measure_soak(folder: Path) -> Soak:
    """Sends the plan, watches memory, and holds every answer to the generator's."""
    options = [
        f"--config.generation.max_length={_SOAK_LENGTH}",
        f"--config.limits.max_waiting={_SOAK_WAITING}",
        "--config.limits.default_tokens=16",
        "--config.prompt.style=chat",
    ]
    plan = make_plan(_SOAK_REQUESTS.value, seed=0, longest_prompt=120, most_tokens=48)
    memory: dict[int, int] = {}
    with serving(_MODEL.value, folder, *options) as server:

        def on_ended(count: int) -> None:
            memory[count] = server.memory_bytes
            _tell(f"{count} of {len(plan)}, {memory[count] / 1e6:.0f} MB")

        started = time.perf_counter()
        at_once = _STREAMS + 2 * _SOAK_WAITING
        outcomes = asyncio.run(run_soak(server.url, plan, most_at_once=at_once, on_ended=on_ended))
        seconds = time.perf_counter() - started
        time.sleep(2)  # those who left
        figures = httpx.get(f"{server.url}metrics", timeout=60).text.splitlines()
        idle = {"coderllm_num_requests_running 0.0", "coderllm_num_requests_waiting 0.0"}
        lines = len(server.log.read_text().splitlines())
        memory[len(plan)] = server.memory_bytes
    settled = next((m for count, m in sorted(memory.items()) if count >= _SETTLED), 0)
    return Soak(
        len(plan),
        *(
            sum(each.kind == kind for each in plan)
            for kind in ("answered", "cancelled", "malformed")
        ),
        sum(outcome.num_turned_away for outcome in outcomes),
        tuple(_check(plan, outcomes)),
        lines,
        idle <= set(figures),
        seconds,
        settled or memory[len(plan)],
        memory[len(plan)],
    )


def _check(plan: Sequence[Planned], outcomes: Sequence[Outcome]) -> list[int]:
    from coderllm_jax.config.generation import GenerationSection, PromptSection
    from coderllm_jax.config.training import ModelSection
    from coderllm_jax.generation.opening import open_local

    _tell("asking the generator in this process")
    reference = open_local(
        _MODEL.value,
        generation=GenerationSection(max_length=_SOAK_LENGTH),
        prompt=PromptSection(style="chat"),
        cache_dir=ModelSection().cache_dir,
    )
    return find_wrong(plan, outcomes, reference)


def _tell(line: str) -> None:
    print(f"  {line} (load {os.getloadavg()[0]:.1f})", file=sys.stderr)


# --- telling ------------------------------------------------------------------------------------


def compare(throughput: Throughput | None, soak: Soak | None) -> list[Ratio]:
    """The goals, as far as they were measured."""
    ratios = []
    if throughput is not None:
        ratios.append(Ratio("tokens/s, 16 streams / 1 stream", throughput.ratio, at_least=2.5))
    if soak is not None:
        growth = soak.memory_end_bytes / soak.memory_settled_bytes
        ratios.append(Ratio("soak: memory, last request / 200th", growth, at_most=1.05))
        ratios.append(Ratio("soak: wrong answers", len(soak.wrong), at_most=0))
    return ratios


def lines_of(throughput: Throughput | None, soak: Soak | None) -> list[str]:
    """What was measured, for a person."""
    lines = []
    if throughput is not None:
        for name, passes in (("1 stream", throughput.one), ("16 streams", throughput.sixteen)):
            rate = statistics.median(each.tokens_per_s for each in passes)
            first = statistics.median(value for each in passes for value in each.first_s)
            lines.append(
                f"{name:<11}{rate:>8.1f} tokens/s, first token after {first:.2f} s (median)"
            )
        lines.append(
            f"ready after {throughput.ready_s:.0f} s, "
            f"{throughput.memory_bytes / 1e9:.2f} GB resident"
        )
    if soak is not None:
        lines.append(
            f"soak: {soak.requests} requests in {soak.seconds:.0f} s: "
            f"{soak.answered} answered, {soak.cancelled} that left, {soak.malformed} malformed, "
            f"turned away and come again {soak.turned_away} times"
        )
        lines.append(
            f"{len(soak.wrong)} ended otherwise than they should; {soak.log_lines} lines in the "
            f"log; {'idle' if soak.idle_at_end else 'NOT IDLE'} at the end; "
            f"{soak.memory_settled_bytes / 1e6:.0f} MB at the 200th, "
            f"{soak.memory_end_bytes / 1e6:.0f} MB at the end"
        )
    return lines


def as_json(
    throughput: Throughput | None, soak: Soak | None, *, conditions: Mapping[str, Any]
) -> dict[str, Any]:
    """The same figures for programs."""
    return {
        "conditions": dict(conditions),
        "throughput": None
        if throughput is None
        else {
            "one": [each._asdict() for each in throughput.one],
            "sixteen": [each._asdict() for each in throughput.sixteen],
            "ready_s": throughput.ready_s,
            "memory_bytes": throughput.memory_bytes,
        },
        "soak": None if soak is None else soak._asdict(),
        "ratios": [ratio.as_json() for ratio in compare(throughput, soak)],
    }


def main(argv: list[str]) -> None:
    """Measures, prints and writes what came out."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    if unknown := set(_PARTS.value) - {"throughput", "soak"}:
        raise app.UsageError(f"--parts names {min(unknown)!r}; expected throughput, soak")
    for name in ("httpx", "httpx2", "openai"):  # a line a request
        logging.getLogger(name).setLevel(logging.WARNING)
    started, load_before = time.perf_counter(), os.getloadavg()
    throughput = soak = None
    with tempfile.TemporaryDirectory() as name:
        for part in ("throughput", "soak"):
            (Path(name) / part).mkdir()
        if "throughput" in _PARTS.value:
            throughput = measure_throughput(Path(name) / "throughput")
        if "soak" in _PARTS.value:
            soak = measure_soak(Path(name) / "soak")
    conditions = {
        "model": _MODEL.value,
        "tokens": _TOKENS.value,
        "rounds": _ROUNDS.value,
        "cores": os.cpu_count(),
        "load_before": load_before,
        "load_after": os.getloadavg(),
        "wall_s": time.perf_counter() - started,
    }
    text = "\n".join([*lines_of(throughput, soak), "", ratio_lines(compare(throughput, soak))])
    head = (
        f"{_MODEL.value}, {_TOKENS.value} new tokens, {conditions['cores']} cores, load "
        f"{load_before[0]:.1f} before, {conditions['wall_s'] / 60:.0f} min"
    )
    print(f"{head}\n\n{text}")
    if _REPORT.value:
        Path(_REPORT.value).write_text(f"# Serving\n\n{head}\n\n```\n{text}\n```\n")
    if _JSON.value:
        figures = as_json(throughput, soak, conditions=conditions)
        Path(_JSON.value).write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    app.run(main)
