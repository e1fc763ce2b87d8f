"""How an arm of `benchmarks.generate` is timed: a process of its own, asked for one pass at a time.

    parent     start ────────────────────────► "pass"          "pass"          close
    arm        import, RSS, load, warm-up,     all prompts to   …               tokens, peak memory
               ready                           their last token

A pass is what a user waits for: prompts in, every prompt's new tokens out, as lists. Arms that are
compared are loaded at the same time and take passes in turn, so that whatever else the machine
does hits all of them alike; an arm that waits does not compute. The peak is the largest resident
set of the last pass, weights and libraries included and loading left out.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from benchmarks.measure import peak_memory_bytes, resident_bytes

Prompts = Sequence[npt.NDArray[np.int32]]
# Greedy tokens: `num_new` for each prompt, whatever they are.
Generate = Callable[[Prompts, int], list[list[int]]]


class Job(NamedTuple):
    """What a process is asked to do. `format` is the arm's own word for its weights' format."""

    prompts: str
    num_new: int
    format: str
    model_name: str
    huggingface: str
    times_first_token: bool = False  # each pass also generates one token alone, before


class Loaded(NamedTuple):
    """A program ready to generate, and a function that tells how it does so."""

    generate: Generate
    describe: Callable[[], dict[str, Any]]


class Pass(NamedTuple):
    """One pass. Processor seconds are those of all cores together.

    first_token_s: what one new token for each prompt takes, in a pass of its own; None: not asked.
    """

    seconds: float
    processor_s: float
    first_token_s: float | None = None


class Report(NamedTuple):
    """What an arm tells at its end. `tokens` is a list for each prompt."""

    tokens: list[list[int]]
    num_prompt_tokens: int
    setup_s: float
    memory_before_bytes: int
    memory_peak_bytes: int
    setting: dict[str, Any]


# --- the arm's side -----------------------------------------------------------------------------


def run_job(import_libraries: Callable[[], None], load: Callable[[Job, Prompts], Loaded]) -> None:
    """The body of an arm's process.

    `load` sees the prompts, because programs are made for lengths and numbers of rows.
    """
    started = time.perf_counter()
    reply = _keep_stdout()
    job = Job(**json.loads(sys.argv[1]))
    prompts = load_prompts(Path(job.prompts))
    import_libraries()
    memory_before_bytes = resident_bytes()
    program = load(job, prompts)
    tokens = program.generate(prompts, job.num_new)
    _first_token_s(program, prompts, job)
    setup_s = time.perf_counter() - started
    reply({})
    for _ in sys.stdin:
        forget_peak()
        first_token_s = _first_token_s(program, prompts, job)
        began, began_processor = time.perf_counter(), time.process_time()
        tokens = program.generate(prompts, job.num_new)
        took = Pass(
            time.perf_counter() - began, time.process_time() - began_processor, first_token_s
        )
        reply(took._asdict())
    assert [len(row) for row in tokens] == [job.num_new] * len(prompts), "rows of other lengths"
    report = Report(
        tokens=tokens,
        num_prompt_tokens=sum(map(len, prompts)),
        setup_s=setup_s,
        memory_before_bytes=memory_before_bytes,
        memory_peak_bytes=recent_peak_bytes(),
        setting=program.describe(),
    )
    reply(report._asdict())


def _first_token_s(program: Loaded, prompts: Prompts, job: Job) -> float | None:
    if not job.times_first_token:
        return None
    began = time.perf_counter()
    program.generate(prompts, 1)
    return time.perf_counter() - began


def _keep_stdout() -> Callable[[Mapping[str, Any]], None]:
    """A function that writes one line to this process's stdout; all other output goes to stderr."""
    kept = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def reply(fields: Mapping[str, Any]) -> None:
        kept.write(json.dumps(fields) + "\n")
        kept.flush()

    return reply


def forget_peak() -> None:
    """Lets Linux measure this process's peak memory anew; elsewhere the peak is since its start."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def recent_peak_bytes() -> int:
    """The largest resident set since `forget_peak`."""
    status = Path("/proc/self/status")
    if not status.exists():
        return peak_memory_bytes()
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
    return int(found[1]) * 1024 if found else peak_memory_bytes()


# --- the parent's side --------------------------------------------------------------------------


class RunningArm:
    """An arm's process. Raises ArmError, in one line, where it ended before its time."""

    def __init__(
        self,
        module: str,
        job: Job,
        *,
        environment: Mapping[str, str],
        python: str = sys.executable,
    ) -> None:
        self._stderr = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(
            [python, "-m", module, json.dumps(job._asdict())],
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
        )

    def wait_ready(self) -> None:
        """Returns once everything is loaded and compiled."""
        self._read()

    def take_pass(self) -> Pass:
        """One pass, from asking to answer."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # reading tells why
            self._process.stdin.write("pass\n")
            self._process.stdin.flush()
        return Pass(**self._read())

    def finish(self) -> Report:
        """Ends the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        report = Report(**self._read())
        self._process.wait()
        self._stderr.close()
        return report

    def kill(self) -> None:
        """Ends it now."""
        self._process.kill()
        self._process.wait()
        self._stderr.close()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line:
            return json.loads(line)
        code = self._process.wait()
        self._stderr.seek(0)
        said = self._stderr.read().strip().splitlines()
        if code < 0:
            raise ArmError(f"ended by signal {-code} (too little memory?)")
        raise ArmError(said[-1] if said else f"exit code {code}")


class ArmError(Exception):
    """An arm ended, with the last thing it said."""


# --- prompts ------------------------------------------------------------------------------------


def save_prompts(path: Path, prompts: Prompts) -> None:
    """Writes prompts of any lengths to one file."""
    np.savez(path, **{str(i): prompt for i, prompt in enumerate(prompts)})


def load_prompts(path: Path) -> list[npt.NDArray[np.int32]]:
    """What `save_prompts` wrote."""
    with np.load(path) as arrays:
        return [arrays[str(i)] for i in range(len(arrays.files))]


def padded(
    prompts: Prompts, *, length: int, left: bool = False
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
    """Ids [B, length] and where they are prompts; padding (0) goes to the right, or to the left."""
    ids = np.zeros((len(prompts), length), np.int32)
    mask = np.zeros(ids.shape, np.bool_)
    for row, prompt in enumerate(prompts):
        place = slice(length - len(prompt), None) if left else slice(len(prompt))
        ids[row, place], mask[row, place] = prompt, True
    return ids, mask
