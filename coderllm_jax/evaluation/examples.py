"""Whether code that an answer shows would run: executed in the sandbox, and nothing else asked.

    item's reference ── runs? ── no ──► left out: it needs what stood around it in its source
                         │ yes
                         ▼
    the answer's code ── runs? ──► 1 or 0, with the last line of what it said

To run is not to be right. A program that does nothing runs, so an answer without code counts as
not running, and so does one whose code never names what was asked about (`must_name`).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from coderllm_jax.evaluation.asking import AnswerProgress, Kept, read_kept
from coderllm_jax.evaluation.extraction import extract_code
from coderllm_jax.evaluation.judge import limits_for
from coderllm_jax.evaluation.sandbox import run_program
from coderllm_jax.evaluation.tasks import imported_libraries
from coderllm_jax.evaluation.trial import why_refused

_TIMEOUT_S = 3
_LETTERS_SHOWN = 200


class Example(NamedTuple):
    """A reference and an answer to the same request for code."""

    reference: str
    answer: str
    must_name: str = ""


class Outcome(NamedTuple):
    """Whether the answer's code ran; `reason` is the last line of a failure."""

    answer_runs: bool
    reason: str = ""


class Runs(NamedTuple):
    """Outcomes by item, those whose reference does not run left out; notes for a person.

    is_whole: False where nothing could be executed.
    """

    outcomes: dict[str, Outcome]
    notes: tuple[str, ...] = ()
    is_whole: bool = True


def run_examples(
    examples: Mapping[str, Example], path: Path, *, note: Callable[[str], None]
) -> Runs:
    """Executes references and answers; what was executed before is taken from `path`."""
    if not examples:
        return Runs({})
    if reason := why_refused():
        return Runs({}, (f"{len(examples)} examples were not executed: {reason}",), is_whole=False)
    note(f"executing {len(examples)} examples")
    programs = {
        text: extract_code(text)
        for example in examples.values()
        for text in (example.reference, example.answer)
    }
    ran = _run_all(dict.fromkeys(programs.values()), path)
    outcomes = {}
    for name, example in examples.items():
        reference, answer = programs[example.reference], programs[example.answer]
        if not ran[reference].answer_runs:
            continue
        outcome = ran[answer]
        if not answer.strip():
            outcome = Outcome(False, "no code in the answer")
        elif example.must_name and example.must_name not in answer:
            outcome = Outcome(False, f"the code does not use {example.must_name}")
        outcomes[name] = outcome
    left_out = len(examples) - len(outcomes)
    notes = (f"{left_out} examples are left out: their reference does not run by itself",)
    return Runs(outcomes, notes if left_out else ())


def _run_all(programs: Mapping[str, None], path: Path) -> dict[str, Outcome]:
    known = read_kept(path, "outcome")
    keys = {program: _key(program) for program in programs}
    missing = [program for program, key in keys.items() if key not in known]
    progress = AnswerProgress("examples executed")
    with Kept(path, name="outcome") as kept, ThreadPoolExecutor(_workers()) as pool:
        for number, (program, outcome) in enumerate(
            zip(missing, pool.map(_run, missing), strict=True), 1
        ):
            known[keys[program]] = outcome._asdict()
            kept.add(keys[program], known[keys[program]])
            progress(number, len(missing))
    return {program: Outcome(**known[key]) for program, key in keys.items()}


def _run(program: str) -> Outcome:
    libraries = imported_libraries(program)
    limits = limits_for(libraries, _TIMEOUT_S)
    ended = run_program(program, limits=limits, libraries=sorted(libraries))
    if ended.ended == "timeout":  # alone, before it counts: another may have held it up
        ended = run_program(program, limits=limits, libraries=sorted(libraries))
    if ended.ended == "exited" and ended.exit_code == 0:
        return Outcome(True)
    said = ended.output.strip().splitlines()
    reason = said[-1][:_LETTERS_SHOWN] if said else f"exit code {ended.exit_code}"
    return Outcome(False, reason if ended.ended == "exited" else ended.ended)


def _key(program: str) -> str:
    return hashlib.sha256(json.dumps([program, _TIMEOUT_S]).encode()).hexdigest()


def _workers() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
