"""Verdicts on programs that models wrote: candidate and examiner, each in a sandbox of its own.

       this process                      sandbox 1                     sandbox 2
    program, tests  ── program ──────►  candidate  ◄── calls ──────  examiner  ◄── tests ──┐
          │                                        ── plain values ►     │                 │
          │  ◄──────────────────── verdict ──────────────────────────────┘                 │
          └────────────────────────────────────────────────────────────────────────────────┘

The clock is here. A program has CPU seconds, not wall-clock seconds, so that a busy machine changes
no verdict; the wall-clock limit is several times that, for programs that sleep or wait. Every
time-out is run again, alone, before it counts.

Arguments that the candidate changes are changed in the tests too, as if it ran beside them.

Covers: a program that ends its process, forges replies, patches built-ins, walks frames or searches
memory: expected values are not in its process, and only the examiner has the verdict's pipe.
Does not cover: tests that compute what they expect by calling the candidate (HumanEval/33 does in
part) or from an argument after the candidate had it.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, NamedTuple

from coderllm_jax.errors import DataError
from coderllm_jax.evaluation import sandbox
from coderllm_jax.evaluation.observations import split_tests
from coderllm_jax.evaluation.sandbox import Limits, Sandboxed
from coderllm_jax.evaluation.tasks import CodeTask, imported_libraries
from coderllm_jax.evaluation.trial import why_refused

VerdictName = Literal["passed", "failed", "error", "timeout", "refused"]
Cause = Literal["", "wrong answer", "syntax", "exception", "memory", "exit", "timeout", "refused"]

_MAX_VERDICT_BYTES = 64 * 1024
_NUM_STARTS = 3  # a sandbox may fail to start for want of memory or process ids, for a moment
_LAST_WORDS_S = 5.0
_EXAMINER_CPU_S = 30


class Verdict(NamedTuple):
    """One sample's verdict.

    verdict   cause
    passed                   every test held
    failed    wrong answer   a test did not hold
    error     syntax         the program is no Python
              exception      it raised one, or gave what is no plain value to a test that wants one
              memory         out of memory
              exit           its process ended before the tests did
    timeout   timeout        out of CPU seconds, or of patience; twice, the second time alone
    refused   refused        nothing was executed; `reason` says why
    """

    task_id: str
    verdict: VerdictName
    cause: Cause = ""
    reason: str = ""
    wall_s: float = 0.0


class _Outcome(NamedTuple):
    verdict: VerdictName | Literal["unstarted"]
    cause: Cause = ""
    reason: str = ""


def judge_samples(
    tasks: Mapping[str, CodeTask],
    samples: Sequence[Mapping[str, str]],
    *,
    workers: int | None = None,
    timeout_s: int = 3,
    progress: Callable[[int, int], None] | None = None,
) -> list[Verdict]:
    """A verdict for each of `samples` (`{"task_id", "completion"}`), in their order.

    `timeout_s` are CPU seconds. `workers` is how many samples are judged at a time (default: usable
    cores) and changes no verdict. `progress` is called with (judged, all), one call at a time, from
    any thread. Raises DataError for a sample that names no task, or tests that are none.
    """
    for number, sample in enumerate(samples, 1):
        if not isinstance(sample.get("completion"), str) or sample.get("task_id") not in tasks:
            raise DataError(
                f"sample {number}: expected a known 'task_id' and a 'completion' (a string), "
                f"found {_shown(sample)}; drop the row or name its task"
            )
    if reason := why_refused():
        return [Verdict(sample["task_id"], "refused", "refused", reason) for sample in samples]
    exams = {i: _exam(tasks[i]) for i in dict.fromkeys(s["task_id"] for s in samples)}
    done, counting = 0, threading.Lock()

    def judge(sample: Mapping[str, str]) -> Verdict:
        nonlocal done
        task = tasks[sample["task_id"]]
        verdict = _judge(task, exams[task.task_id], sample["completion"], timeout_s)
        with counting:
            done += 1
            if progress:
                progress(done, len(samples))
        return verdict

    with ThreadPoolExecutor(workers or len(os.sched_getaffinity(0))) as pool:
        try:
            verdicts = list(pool.map(judge, samples))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    for number, (sample, verdict) in enumerate(zip(samples, verdicts, strict=True)):
        if verdict.verdict == "timeout":
            task = tasks[sample["task_id"]]
            verdicts[number] = _judge(task, exams[task.task_id], sample["completion"], timeout_s)
    return verdicts


def count_verdicts(verdicts: Sequence[Verdict]) -> dict[str, int]:
    """How many there are of each, most frequent first."""
    return dict(collections.Counter(verdict.verdict for verdict in verdicts).most_common())


class _Exam(NamedTuple):
    """A task's part of both jobs."""

    candidate: dict[str, Any]
    examiner: dict[str, Any]
    libraries: frozenset[str]


def _exam(task: CodeTask) -> _Exam:
    libraries = imported_libraries(task.prompt, task.tests)
    if task.entry_point:
        examiner = {"prompt": task.prompt, "tests": task.tests, "entry_point": task.entry_point}
        return _Exam({}, examiner, libraries)
    split = split_tests(task.tests, name=task.task_id, reference=task.prompt + task.reference)
    checks = {"setup": split.setup, "asserts": [tuple(check) for check in split.checks]}
    return _Exam({"script": split.script}, {"checks": checks}, libraries)


def _judge(task: CodeTask, exam: _Exam, completion: str, timeout_s: int) -> Verdict:
    started_s = time.monotonic()
    program = task.prompt + completion
    outcome = _Outcome("unstarted")
    for _ in range(_NUM_STARTS):
        outcome = _run_exam(exam, program, timeout_s)
        if outcome.verdict != "unstarted":
            break
        time.sleep(1.0)
    wall_s = time.monotonic() - started_s
    if outcome.verdict == "unstarted":
        reason = f"the sandbox failed to start {_NUM_STARTS} times"
        return Verdict(task.task_id, "refused", "refused", reason, wall_s)
    return Verdict(task.task_id, outcome.verdict, outcome.cause, outcome.reason, wall_s)


def _run_exam(exam: _Exam, program: str, timeout_s: int) -> _Outcome:
    """Runs candidate and examiner side by side until there is a verdict or no time left."""
    libraries = imported_libraries(program) | exam.libraries
    limits = limits_for(libraries, timeout_s)
    patient = dataclasses.replace(limits, cpu_s=max(limits.cpu_s, _EXAMINER_CPU_S))
    with contextlib.ExitStack() as running:
        verdict, verdict_end = os.pipe()
        running.callback(os.close, verdict)
        # Ends kept here would hide from each side that the other one is gone.
        with contextlib.ExitStack() as handing_over:
            handing_over.callback(os.close, verdict_end)
            calls, calls_end = _ends(handing_over)
            answers, answers_end = _ends(handing_over)
            started_s = time.monotonic()
            candidate = running.enter_context(
                _running(
                    "candidate",
                    exam.candidate | {"program": program, "libraries": sorted(libraries)},
                    limits,
                    read_from=calls,
                    write_to=answers_end,
                )
            )
            # The candidate may answer with NumPy's numbers where the tests know nothing of NumPy.
            examiner_libraries = exam.libraries | (libraries & {"numpy"})
            examiner = running.enter_context(
                _running(
                    "examiner",
                    exam.examiner | {"libraries": sorted(examiner_libraries)},
                    patient,
                    read_from=answers,
                    write_to=calls_end,
                    verdict_to=verdict_end,
                )
            )
        data = _read_verdict(verdict, started_s + limits.wall_s)
        if data is None:
            return _Outcome("timeout", "timeout", f"{limits.wall_s:.0f} s on the clock")
        if not data:
            return _Outcome("unstarted")
        if not data.strip():
            code = examiner.wait(time.monotonic() + _LAST_WORDS_S)
            return _Outcome(
                "error", "exception", f"its answers ended the examiner ({_ending(code)})"
            )
        said = json.loads(data)
        if said["verdict"] != "ended":
            return _Outcome(said["verdict"], said.get("cause", ""), said.get("reason", ""))
        wall_s = time.monotonic() - started_s
        code = candidate.wait(time.monotonic() + _LAST_WORDS_S)
        if sandbox.is_out_of_time(code, wall_s, limits):
            return _Outcome("timeout", "timeout", f"{limits.cpu_s} s of CPU time")
        return _Outcome("error", "exit", f"the program ended its process ({_ending(code)})")


def limits_for(libraries: frozenset[str], timeout_s: int) -> Limits:
    """Room for what a program imports: JAX reserves gigabytes and compiles for seconds."""
    if libraries <= {"numpy"}:
        return Limits(cpu_s=timeout_s, wall_s=4.0 * timeout_s + 3.0)
    return Limits(
        cpu_s=10 * timeout_s,
        wall_s=40.0 * timeout_s + 60.0,
        memory_bytes=6 * 2**30,
        threads=1024,
        files=256,
    )


@contextlib.contextmanager
def _running(module: str, job: dict[str, Any], limits: Limits, **ends: int) -> Iterator[Sandboxed]:
    """A started process that is gone when the block ends; `ends` are the descriptors it keeps."""
    process = sandbox.start(module, job | ends, limits=limits, descriptors=tuple(ends.values()))
    try:
        yield process
    finally:
        process.wait()


def _ends(stack: contextlib.ExitStack) -> tuple[int, int]:
    """A pipe's ends, to be closed with `stack`."""
    ends = os.pipe()
    for end in ends:
        stack.callback(os.close, end)
    return ends


def _read_verdict(descriptor: int, deadline_s: float) -> bytes | None:
    """All that the examiner wrote; None where the time is over first."""
    data = b""
    while sandbox.wait_readable(descriptor, deadline_s):
        part = os.read(descriptor, _MAX_VERDICT_BYTES)
        if not part or len(data) > _MAX_VERDICT_BYTES:
            return data
        data += part
    return None


def _ending(exit_code: int) -> str:
    if exit_code >= 0:
        return f"exit code {exit_code}"
    try:
        return signal.Signals(-exit_code).name
    except ValueError:
        return f"signal {-exit_code}"


def _shown(sample: Mapping[str, Any]) -> str:
    text = json.dumps(dict(sample), default=str)
    return text if len(text) <= 120 else text[:117] + "..."
