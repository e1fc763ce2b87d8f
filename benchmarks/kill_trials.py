"""Killed runs beside an uninterrupted one: `python -m benchmarks.kill_trials`.

One run of `tiny` is left alone. Then, in every trial, the same run is killed with signal 9 one to
three times, at moments chosen by chance (--seed), and started again until it is done:

    whole     start ───────────────────────────────────────────────────── adapter, report
    trial 7   start ───────── kill ┐
                              start └─ load ─ from step 12 ──── kill ┐
                                                                start └─ from step 28 ─ adapter

Every trial's adapter, losses, samples, rows seen and summary must be those of the run that was left
alone, bit for bit; see `benchmarks.killed_runs` for what is compared and what only a clock decides.

Half of the first kills fall anywhere in a run's life, spread evenly over it. The others, and most
later ones, are aimed: into the n-th save, behind the n-th step, into an evaluation, into the
writing of the adapter and the report. Dropout is on, so random keys count; the rows are gone
through three times, so the order of every epoch counts; the best step is an early one, so the
checkpoint that is kept for the end counts.

The 270M is done once, killed in the middle of its second save. Prints a table and exits with 1
where any trial is not equal. `tiny` takes about four minutes on two cores, the 270M one.
"""

from __future__ import annotations

import importlib.metadata
import itertools
import json
import math
import os
import platform
import random
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import app, flags

from benchmarks.killed_runs import (
    Bench,
    Experiment,
    Kill,
    Session,
    SessionError,
    differences,
    num_set_aside,
    read_outcome,
    run_to_end,
    write_inputs,
)
from coderllm_jax.config.training import ModelSection

_COMMON = {
    "data.packing": True,
    "evaluation.max_items": 8,
    "logging.clu": False,
    # Bits are promised on the same device; a CPU is what every machine has.
    "mesh.platform": "cpu",
}
EXPERIMENTS = {
    "tiny": Experiment(
        "tiny",
        num_rows=220,
        options={
            **_COMMON,
            "model_name": "tiny",
            "steps": 60,
            "batch_size": 4,
            "learning_rate": 0.06,
            "optimizer.schedule": "constant",
            "lora.dropout": 0.1,
            "data.sequence_length": 256,
            "checkpoint.every_steps": 4,
            "evaluation.every_steps": 10,
            "evaluation.samples": 1,
            "evaluation.sample_tokens": 4,
        },
    ),
    "gemma3_270m": Experiment(
        "gemma3_270m",
        num_rows=10,
        options={
            **_COMMON,
            "model_name": "gemma3_270m",
            "steps": 6,
            "batch_size": 1,
            "lora.dropout": 0.1,
            "data.sequence_length": 128,
            "checkpoint.every_steps": 2,
            "evaluation.every_steps": 3,
            "evaluation.max_items": 2,
            "evaluation.samples": 0,
        },
    ),
}
# Where the first kills are aimed that are not left to chance, in turn.
_AIMS = ("saving", "end", "evaluation", "saving", "step")
_LATEST_AIM_S = {"saving": 0.015, "step": 0.2, "evaluation": 0.04, "end": 0.4}


class Trial(NamedTuple):
    """One run that was killed, and in what it is not the one that was not. Empty: in nothing."""

    sessions: Sequence[Session]
    set_aside: int
    differences: Sequence[str]
    wall_s: float

    @property
    def kills(self) -> list[Session]:
        """The sessions that were killed."""
        return [session for session in self.sessions if session.was_killed]

    def steps_repeated(self, steps: int) -> int:
        """Steps that were computed more than once."""
        return sum(session.num_steps for session in self.sessions) - steps


# --- planning -----------------------------------------------------------------------------------


def plan_trials(number: int, life_s: float, *, steps: int, saves: int, seed: int) -> list[list]:
    """The kills of each trial. `life_s` is how long the run lives that is left alone."""
    chance = random.Random(seed)  # noqa: S311 - moments, not secrets
    num_anywhere = math.ceil(number / 2)
    slots = chance.sample(range(num_anywhere), num_anywhere)
    plans = []
    for trial in range(number):
        if trial % 2 == 0:
            # One in each part of a life: chance alone would leave some of it out.
            part = (slots[trial // 2] + chance.random()) / num_anywhere
            first = Kill("moment", delay_s=part * life_s)
        else:
            first = _aim(_AIMS[trial // 2 % len(_AIMS)], chance, steps=steps, saves=saves)
        kinds = chance.choices(("moment", "saving", "step", "end"), k=chance.randrange(3))
        later = [
            Kill("moment", delay_s=chance.random() * life_s)
            if kind == "moment"
            else _aim(kind, chance, steps=steps // 3, saves=saves // 3)
            for kind in kinds
        ]
        plans.append([first, *later])
    return plans


def _aim(kind: str, chance: random.Random, *, steps: int, saves: int) -> Kill:
    most = {"saving": saves, "step": steps - 1, "evaluation": 3, "end": 1}[kind]
    number = chance.randint(1, max(1, most))
    # Rather soon than late: the adapter is written in the first hundredths, the plot for long.
    return Kill(kind, number=number, delay_s=chance.random() ** 2 * _LATEST_AIM_S[kind])


# --- running ------------------------------------------------------------------------------------


def try_kills(bench: Bench, name: str, kills: Sequence[Kill], expected: Mapping[str, Any]) -> Trial:
    """One run killed as planned, compared with what the uninterrupted one left.

    Where the first kill came too late for this run, a fresh one is killed half as late.
    """
    started, attempt = time.perf_counter(), 0
    while True:
        workdir = bench.folder / f"{name}-{attempt}" if attempt else bench.folder / name
        try:
            sessions = run_to_end(bench, workdir, kills)
        except SessionError as error:
            took_s = time.perf_counter() - started
            return Trial(error.sessions, num_set_aside(workdir), [str(error)], took_s)
        if sessions[0].was_killed or not kills:
            break
        kills = [kills[0]._replace(delay_s=kills[0].delay_s / 2), *kills[1:]]
        attempt += 1
    found = differences(expected, read_outcome(workdir))
    return Trial(sessions, num_set_aside(workdir), found, time.perf_counter() - started)


def prepare(experiment: Experiment, folder: Path) -> Bench:
    """The inputs of an experiment; what is compiled for it is shared by its runs."""
    write_inputs(folder, experiment.num_rows)
    # Converting the 270M takes a minute: its weights are those that training has in its cache.
    is_tiny = experiment.name == "tiny"
    cache_dir = str(folder / "cache") if is_tiny else ModelSection().cache_dir
    return Bench(experiment, folder, cache_dir)


def measure(experiment: Experiment, folder: Path, *, trials: int, seed: int) -> dict[str, Any]:
    """The uninterrupted run and all trials of one experiment."""
    bench = prepare(experiment, folder)
    is_tiny = experiment.name == "tiny"
    if is_tiny:  # where nothing has been compiled yet: it must not matter
        run_to_end(bench, folder / "cold")
    life_s = run_to_end(bench, folder / "whole")[0].after_s
    expected = read_outcome(folder / "whole")
    if is_tiny and (unequal := differences(expected, read_outcome(folder / "cold"))):
        raise SystemExit(f"error: two runs that nobody killed are not equal: {unequal[0]}")
    if is_tiny:
        saves = experiment.steps // int(experiment.options["checkpoint.every_steps"])
        plans = plan_trials(trials, life_s, steps=experiment.steps, saves=saves, seed=seed)
    else:
        plans = [[Kill("saving", number=2)]]
    done = []
    for number, kills in enumerate(plans, start=1):
        done.append(try_kills(bench, f"trial-{number}", kills, expected))
        print(trial_line(number, done[-1], experiment.steps), file=sys.stderr)
    return {"life_s": life_s, "expected": expected, "trials": done, "plans": plans}


# --- telling ------------------------------------------------------------------------------------

_HEAD = f"{'trial':>5}  {'killed while (at step), went on from':<78}{'again':>6}{'aside':>6}  equal"


def trial_line(number: int, trial: Trial, steps: int) -> str:
    """One trial in a line; the first difference under it, where there is one."""
    parts = []
    for session, after in itertools.zip_longest(trial.kills, trial.sessions[1:]):
        came_to = after is not None and after.went_on_from is not None
        origin = f" → {after.went_on_from}" if came_to else ""
        parts.append(f"{session.phase} ({session.step}){origin}")
    again = max(0, trial.steps_repeated(steps))
    line = f"{number:>5}  {'; '.join(parts):<78}{again:>6}{trial.set_aside:>6}  "
    if not trial.differences:
        return line + "yes"
    more = f" (and {len(trial.differences) - 1} more)" if len(trial.differences) > 1 else ""
    return f"{line}NO\n       {trial.differences[0]}{more}"


def table(trials: Sequence[Trial], steps: int) -> str:
    """All trials, as people read them."""
    lines = [trial_line(number, trial, steps) for number, trial in enumerate(trials, start=1)]
    return "\n".join([_HEAD, "-" * len(_HEAD), *lines])


def count_phases(trials: Sequence[Trial]) -> dict[str, int]:
    """How many kills met which phase."""
    counts: dict[str, int] = {}
    for phase in sorted(kill.phase for trial in trials for kill in trial.kills):
        counts[phase] = counts.get(phase, 0) + 1
    return counts


def verdict(name: str, trials: Sequence[Trial]) -> str:
    """One sentence about all of them."""
    kills = [kill for trial in trials for kill in trial.kills]
    equal = sum(not trial.differences for trial in trials)
    mid_save = sum(kill.was_saving for kill in kills)
    trials_mid_save = sum(any(kill.was_saving for kill in trial.kills) for trial in trials)
    return (
        f"{name}: {equal} of {len(trials)} killed runs are equal to the uninterrupted one, bit for "
        f"bit, after {len(kills)} kills (mid-save: {mid_save} of them, in {trials_mid_save} runs)"
    )


def as_json(
    found: Mapping[str, Mapping[str, Any]], conditions: Mapping[str, Any]
) -> dict[str, Any]:
    """The same figures for programs."""
    return {
        "conditions": dict(conditions),
        "models": {
            name: {
                "life_s": result["life_s"],
                "kills_by_phase": count_phases(result["trials"]),
                "trials": [
                    {
                        "planned": [kill._asdict() for kill in kills],
                        "sessions": [session._asdict() for session in trial.sessions],
                        "steps_repeated": trial.steps_repeated(EXPERIMENTS[name].steps),
                        "set_aside": trial.set_aside,
                        "differences": list(trial.differences),
                        "equal": not trial.differences,
                        "wall_s": trial.wall_s,
                    }
                    for kills, trial in zip(result["plans"], result["trials"], strict=True)
                ],
            }
            for name, result in found.items()
        },
    }


def page(text: str, conditions: Mapping[str, Any]) -> str:
    """The Markdown page around what was printed."""
    command = f"python -m benchmarks.kill_trials --trials={conditions['trials']}"
    return (
        "# Killed runs beside an uninterrupted one\n\n"
        f"`{command} --seed={conditions['seed']}`, {conditions['date']}, "
        f"{conditions['cores']} cores, {conditions['machine']}, Python {conditions['python']}, "
        f"jax {conditions['jax']}, orbax-checkpoint {conditions['orbax-checkpoint']}; load "
        f"{conditions['load_before'][0]:.1f} before; {conditions['wall_s'] / 60:.0f} min.\n\n"
        f"```\n{text}\n```\n\n"
        "A number in parentheses is the last step in metrics.jsonl when the process died; the one "
        "behind an arrow is the checkpoint that the next session went on from (none where it died, "
        "too, before it had got there). `again` counts the steps computed more than once, `aside` "
        "the steps found damaged or unfinished. Equal means the adapter byte for byte, and every "
        "loss, sample, row seen and figure of the summary that no clock has measured.\n"
    )


def _conditions() -> dict[str, Any]:
    return {
        "date": time.strftime("%Y-%m-%d"),
        "trials": flags.FLAGS.trials,
        "seed": flags.FLAGS.seed,
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in ("jax", "orbax-checkpoint")},
        "load_before": os.getloadavg(),
    }


def define_flags() -> None:
    """The command's flags; tests import this module beside others that have some of these names."""
    flags.DEFINE_string("json", "", "Also write the figures to this file.")
    flags.DEFINE_string("report", "", "Also write the page to this file (Markdown).")
    flags.DEFINE_list("model", list(EXPERIMENTS), "Which are tried.")
    flags.DEFINE_integer("trials", 20, "Trials of tiny; the 270M gets one.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Chooses the moments.")
    flags.DEFINE_string("folder", "", "Where the runs go, to be kept; default: nowhere.")


def main(argv: list[str]) -> None:
    """Runs what is asked for, prints and writes what came out, exits with 1 on any difference."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    if unknown := [name for name in flags.FLAGS.model if name not in EXPERIMENTS]:
        raise app.UsageError(f"--model names {unknown[0]!r}; expected {', '.join(EXPERIMENTS)}")
    started, conditions = time.perf_counter(), _conditions()
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for name in flags.FLAGS.model:
            folder = Path(flags.FLAGS.folder or temporary).absolute() / name
            if folder.exists():
                raise SystemExit(f"error: {folder} is there already; name another --folder")
            print(f"{name}\n{_HEAD}", file=sys.stderr)
            found[name] = measure(
                EXPERIMENTS[name], folder, trials=flags.FLAGS.trials, seed=flags.FLAGS.seed
            )
    conditions["wall_s"] = time.perf_counter() - started
    parts = []
    for name, result in found.items():
        trials, steps = result["trials"], EXPERIMENTS[name].steps
        phases = ", ".join(f"{phase} {n}" for phase, n in count_phases(trials).items())
        about = (
            f"{name}: {steps} steps, {result['life_s']:.0f} s when left alone; killed in: {phases}"
        )
        parts.append(f"{about}\n\n{table(trials, steps)}\n\n{verdict(name, trials)}")
    text = "\n\n\n".join(parts)
    print(text)
    if flags.FLAGS.json:
        Path(flags.FLAGS.json).write_text(json.dumps(as_json(found, conditions), indent=1) + "\n")
    if flags.FLAGS.report:
        Path(flags.FLAGS.report).write_text(page(text, conditions))
    if any(trial.differences for result in found.values() for trial in result["trials"]):
        raise SystemExit(1)


if __name__ == "__main__":
    define_flags()
    app.run(main)
