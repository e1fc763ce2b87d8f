"""Alerts held against days that are known: `python -m benchmarks.monitoring_day`.

A day of a made-up deployment and a made-up training passes on a clock of its own, and the built-in
rules are asked every half minute what they make of it:

    requests    about 22,000, four times as many at noon as at night; two arms; sessions whose
                requests are alike; answers 0.15 sd longer in the evening than in the morning;
                0.3 % fail, 6 % of what retrieval is asked is refused; slower where there are more
    training    a step every 4 s, an evaluation every 100, a loss with noise that falls
    machine     memory that comes and goes, a disk that fills slowly, temperatures of a day

    clean       nothing is wrong: whatever is raised is a false alarm
    faults      one is planted, for a while: its rule raises once, soon, and resolves once

What is read here is what the monitor reads, after its files: `Request`s and rows. Prints the table,
writes it to --json=FILE and --report=FILE, and exits with 1 where a target is missed. 200 days take
half an hour; --days=2 --trials=1 shows that it works.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import app, flags

from coderllm_jax.config.monitoring import DriftSection
from coderllm_jax.monitoring.alerts import Alert, AlertBook, Subject
from coderllm_jax.monitoring.request_fields import Request, RequestReader
from coderllm_jax.monitoring.rules import load_rules
from coderllm_jax.monitoring.run_health import RunHealth
from coderllm_jax.monitoring.subjects import traffic_subjects
from coderllm_jax.monitoring.traffic import TrafficWatch

DAY_S = 86400.0
LOOK_EVERY_S = 30.0
STEP_S = 4.0
_REQUESTS_A_DAY = 22_000
_SESSION = 3.0
_BEGAN = 1.8e9

# Goals: a clean day raises nothing; a shift of one standard deviation is found in 500 requests.
MAX_DRIFT_REQUESTS = 500


@dataclasses.dataclass
class Day:
    """Columns of the requests and rows, to be spoiled before they are watched. times from 0."""

    times: np.ndarray
    is_rag: np.ndarray
    figures: dict[str, np.ndarray]
    status: np.ndarray
    rows: dict[str, np.ndarray]
    memory: np.ndarray
    disk: np.ndarray
    temperature: np.ndarray

    def between(self, start_s: float, end_s: float) -> np.ndarray:
        """Which requests came then."""
        return (self.times >= start_s) & (self.times < end_s)

    def rows_between(self, start_s: float, end_s: float) -> np.ndarray:
        """Which rows were written then."""
        return (self.rows["time"] >= start_s) & (self.rows["time"] < end_s)

    def looks_between(self, start_s: float, end_s: float) -> slice:
        """Which looks at the machine were then."""
        return slice(int(start_s / LOOK_EVERY_S), int(end_s / LOOK_EVERY_S))


def draw_day(generator: np.random.Generator, *, length_s: float = DAY_S) -> Day:
    """A clean day that begins at any hour."""
    begins = generator.uniform(0, DAY_S)

    def hour(times: np.ndarray) -> np.ndarray:
        return 2 * np.pi * (times + begins) / DAY_S

    num_sessions = round(_REQUESTS_A_DAY / _SESSION * length_s / DAY_S * 1.6)
    starts = np.sort(generator.uniform(0, length_s, num_sessions))
    busy = (1 + 0.6 * np.sin(hour(starts))) / 1.6
    starts = starts[generator.random(num_sessions) < busy]
    sizes = generator.geometric(1 / _SESSION, len(starts))
    session = np.repeat(np.arange(len(starts)), sizes)
    times = starts[session] + generator.exponential(40.0, len(session))
    order = np.argsort(times)
    times, session = times[order], session[order]
    kept = times < length_s
    times, session = times[kept], session[kept]
    count = len(times)

    def alike(share: float) -> np.ndarray:
        """Standard normal, with a part that a session's requests have in common."""
        common = generator.standard_normal(len(starts))[session]
        own = generator.standard_normal(count)
        return np.sqrt(share) * common + np.sqrt(1 - share) * own

    load = (1 + 0.6 * np.sin(hour(times))) / 1.6
    is_rag = (generator.random(len(starts)) < 0.4)[session]
    length = alike(0.3) + 0.15 * np.sin(hour(times) - 1)
    tokens = np.clip(np.round(np.exp(4.3 + 0.6 * length)), 1, 512)
    per_token_s = 0.03 * (1 + 0.5 * load) * np.exp(0.15 * generator.standard_normal(count))
    queue_s = generator.exponential(0.02 + 0.3 * load**3, count)
    ttft_s = queue_s + 0.2 * np.exp(0.2 * generator.standard_normal(count))
    refused = is_rag & (generator.random(count) < 0.06)
    figures = {
        "prompt_tokens": np.round(np.exp(3.2 + 0.4 * alike(0.3))),
        "completion_tokens": np.where(refused, 12, tokens),
        "queue_s": queue_s,
        "ttft_s": ttft_s,
        "time_per_token_s": per_token_s,
        "total_s": ttft_s + tokens * per_token_s,
        "num_sources": np.where(is_rag & ~refused, 4.0, 0.0),
        "retrieval_s": np.where(is_rag, 0.003, np.nan),
        "top_score": np.where(is_rag, 0.6 + 0.1 * alike(0.3), np.nan),
        "mean_logprob": -0.8 + 0.2 * alike(0.3),
        "refused": refused.astype(float),
    }
    chance = generator.random(count)
    status = np.where(chance < 0.003, 500, np.where(chance < 0.005, 429, 200))
    num_looks = int(length_s / LOOK_EVERY_S)
    looks = np.arange(num_looks) * LOOK_EVERY_S
    return Day(
        times,
        is_rag,
        figures,
        status,
        _draw_rows(generator, length_s),
        memory=0.55 + 0.15 * np.sin(hour(looks)) + 0.05 * generator.standard_normal(num_looks),
        disk=0.5 + 0.2 * looks / DAY_S,
        temperature=70 + 8 * np.sin(hour(looks)) + 2 * generator.standard_normal(num_looks),
    )


def _draw_rows(generator: np.random.Generator, length_s: float) -> dict[str, np.ndarray]:
    num_steps = int(length_s / STEP_S)
    steps = np.arange(1, num_steps + 1)
    falling = 1.2 + 2.5 / (1 + steps / 300)
    step_time_s = STEP_S * 0.9 * np.exp(0.1 * generator.standard_normal(num_steps))
    waits = np.where(generator.random(num_steps) < 0.01, 0.5, 0.01)
    evaluated = steps % 100 == 0
    eval_loss = falling + 0.1 + 0.02 * generator.standard_normal(num_steps)
    return {
        "step": steps,
        "time": steps * STEP_S,
        "loss": falling + 0.25 * generator.standard_normal(num_steps),
        "grad_norm": np.exp(0.4 * generator.standard_normal(num_steps)),
        "step_time_s": step_time_s,
        "data_wait_s": waits * step_time_s,
        "eval_loss": np.where(evaluated, eval_loss, np.nan),
    }


def watch_day(day: Day) -> list[Alert]:
    """Everything that the built-in rules raise and resolve in the day; times from 0."""
    log = TrafficWatch(
        Path("simulated/requests.jsonl"),
        reader=RequestReader(()),
        window_s=300.0,
        drift=DriftSection(),
        max_rows=10_000,
        state={},
    )
    book, health = AlertBook(load_rules(""), {}), RunHealth()
    requests, rows = _requests(day), _rows(day)
    changed: list[Alert] = []
    next_request = next_row = 0
    last_row_s = 0.0
    for look in range(len(day.memory)):
        now = (look + 1) * LOOK_EVERY_S
        end = next_request
        while end < len(requests) and requests[end].time - _BEGAN <= now:
            end += 1
        log.add(requests[next_request:end])
        log.tick(_BEGAN + now)
        next_request = end
        while next_row < len(rows) and rows[next_row]["time"] <= now:
            health.add(rows[next_row], is_fresh=True)
            last_row_s = rows[next_row]["time"]
            next_row += 1
        run = {**health.figures(), "stalled": float(now - last_row_s > 120), "failed": 0.0}
        # As RunWatch does: at the end of its schedule every run stands still.
        if now > 0.75 * len(day.memory) * LOOK_EVERY_S:
            run["plateau_fraction"] = 0.0
        machine = {
            "memory_used_fraction": float(day.memory[look]),
            "temperature_c": float(day.temperature[look]),
        }
        changed += book.evaluate(
            [
                Subject("run", "run", "run", run),
                Subject("machine", "machine", "machine", machine),
                Subject("disk", "disk", "disk", {"used_fraction": float(day.disk[look])}),
                *traffic_subjects(log, _BEGAN + now),
            ],
            now,
        )
    return changed


def _requests(day: Day) -> list[Request]:
    columns = {
        name: [None if np.isnan(value) else value for value in values.tolist()]
        for name, values in day.figures.items()
    }
    return [
        Request(
            time=_BEGAN + time,
            arm="rag" if is_rag else "trained",
            model_version="",
            finish="stop",
            is_answered=status == 200,
            is_error=status >= 500,
            is_rejected=status == 429,
            is_turned_away=status == 429,
            prompt_tokens=columns["prompt_tokens"][i],
            completion_tokens=columns["completion_tokens"][i],
            queue_s=columns["queue_s"][i],
            ttft_s=columns["ttft_s"][i],
            time_per_token_s=columns["time_per_token_s"][i],
            total_s=columns["total_s"][i],
            num_sources=columns["num_sources"][i],
            retrieval_s=columns["retrieval_s"][i],
            top_score=columns["top_score"][i],
            mean_logprob=columns["mean_logprob"][i],
            refused=bool(columns["refused"][i]),
            judged_score=None,
        )
        for i, (time, is_rag, status) in enumerate(
            zip(day.times.tolist(), day.is_rag.tolist(), day.status.tolist(), strict=True)
        )
    ]


def _rows(day: Day) -> list[dict[str, Any]]:
    names = [name for name in day.rows if name != "eval_loss"]
    rows: list[dict[str, Any]] = []
    for values in zip(*(day.rows[name].tolist() for name in day.rows), strict=True):
        row = dict(zip(day.rows, values, strict=True))
        eval_loss = row["eval_loss"]
        rows.append({name: _null(row[name]) for name in names})
        if not np.isnan(eval_loss):
            rows.append({"step": row["step"], "time": row["time"], "eval_loss": eval_loss})
    return rows


def _null(value: float) -> float | None:
    """As JSON has it."""
    return value if np.isfinite(value) else None


class Fault(NamedTuple):
    """A fault: the rule that must tell of it, and how it spoils a day between two times.

    num_told: of how many figures and arms, each of which is an alert of its own.
    """

    name: str
    rule: str
    spoil: Callable[[Day, float, float], None]
    lasts_s: float = 3600.0
    num_told: int = 1


def _shift(figure: str, *, arm_is_rag: bool | None = None, log: bool = False) -> Any:
    """One standard deviation on one figure (of its logarithm, where it is a length)."""

    def spoil(day: Day, start_s: float, end_s: float) -> None:
        values = day.figures[figure]
        here = day.between(start_s, end_s)
        if arm_is_rag is not None:
            here &= day.is_rag == arm_is_rag
        if log:
            values[here] *= np.exp(np.nanstd(np.log(values)))
        else:
            values[here] += np.nanstd(values)

    return spoil


def _refuse(day: Day, start_s: float, end_s: float) -> None:
    """One standard deviation of a rate of 6 %: 30 % of what retrieval is asked."""
    here = day.between(start_s, end_s) & day.is_rag
    here &= np.random.default_rng(1).random(len(here)) < 0.255
    day.figures["refused"][here], day.figures["num_sources"][here] = 1.0, 0.0


def _errors(day: Day, start_s: float, end_s: float) -> None:
    here = day.between(start_s, end_s)
    day.status[here & (np.random.default_rng(1).random(len(here)) < 0.3)] = 500


def _slow(day: Day, start_s: float, end_s: float) -> None:
    for name in ("total_s", "ttft_s", "time_per_token_s"):
        day.figures[name][day.between(start_s, end_s)] *= 4.0


def _not_finite(day: Day, start_s: float, end_s: float) -> None:
    day.rows["loss"][day.rows_between(start_s, end_s)] = np.nan


def _diverge(day: Day, start_s: float, end_s: float) -> None:
    here = day.rows_between(start_s, end_s)
    day.rows["loss"][here] *= np.linspace(1.0, 3.0, int(here.sum()))


def _stand_still(day: Day, start_s: float, end_s: float) -> None:
    kept = ~day.rows_between(start_s, end_s)
    for name, values in day.rows.items():
        day.rows[name] = values[kept]


def _starve(day: Day, start_s: float, end_s: float) -> None:
    here = day.rows_between(start_s, end_s)
    day.rows["data_wait_s"][here] = 0.6 * day.rows["step_time_s"][here]


def _overfit(day: Day, start_s: float, end_s: float) -> None:
    here = day.rows_between(start_s, end_s)
    day.rows["eval_loss"][here] *= 1.25
    day.rows["loss"][here] *= 0.9


def _machine(part: str, value: float) -> Any:
    def spoil(day: Day, start_s: float, end_s: float) -> None:
        getattr(day, part)[day.looks_between(start_s, end_s)] = value

    return spoil


FAULTS = (
    Fault("loss is NaN", "not_finite", _not_finite, 300),
    Fault("loss triples in an hour", "divergence", _diverge),
    Fault("evaluation loss 25 % up, training loss down", "overfitting", _overfit),
    Fault("no rows", "stall", _stand_still, 900),
    Fault("60 % of a step is waiting", "starvation", _starve, 900),
    Fault("disk at 97 %", "disk", _machine("disk", 0.97), 900),
    Fault("memory at 98 %", "memory", _machine("memory", 0.98), 900),
    Fault("machine at 99 °C", "temperature", _machine("temperature", 99.0), 900),
    Fault("30 % of requests fail", "errors", _errors, 900),
    Fault("answers take 4 times as long", "latency", _slow, 1800),
    Fault("prompts 1 sd longer (both arms)", "drift", _shift("prompt_tokens", log=True), 10_000, 2),
    Fault(
        "answers 1 sd longer",
        "drift",
        _shift("completion_tokens", arm_is_rag=False, log=True),
        10_000,
    ),
    Fault("confidence 1 sd up", "drift", _shift("mean_logprob", arm_is_rag=False), 10_000),
    Fault("retrieval scores 1 sd up", "drift", _shift("top_score", arm_is_rag=True), 10_000),
    Fault("refusals 1 sd up, answers without sources", "drift", _refuse, 10_000, 2),
)


class Trial(NamedTuple):
    """One planted fault. delay_s, delay_requests: to its first alert; of the spoiled arm's own.

    raised, resolved: alerts of its rule; others: names of rules that also told of something.
    """

    raised: int
    resolved: int
    delay_s: float
    delay_requests: float
    resolved_after_s: float
    others: Sequence[str]


def plant(fault: Fault, generator: np.random.Generator) -> Trial:
    """Half a day and more with the fault in it."""
    length_s = DAY_S
    start_s = 0.5 * DAY_S
    day = draw_day(generator, length_s=length_s)
    fault.spoil(day, start_s, start_s + fault.lasts_s)
    every = watch_day(day)
    changed = [alert for alert in every if alert.rule == fault.rule]
    others = {alert.rule for alert in every} - {fault.rule}
    raised = [alert for alert in changed if alert.resolved is None]
    resolved = [alert for alert in changed if alert.resolved is not None]
    first_s = raised[0].raised if raised else float("nan")
    arm = day.is_rag if "rag" in (raised[0].subject_name if raised else "") else ~day.is_rag
    here = day.between(start_s, first_s) & (arm if fault.rule == "drift" else True)
    return Trial(
        len(raised),
        len(resolved),
        first_s - start_s,
        float(here.sum()) if raised else float("nan"),
        resolved[0].resolved - start_s - fault.lasts_s
        if resolved and resolved[0].resolved is not None
        else float("nan"),
        sorted(others),
    )


def define_flags() -> None:
    """When it is run: a module that defines flags cannot be imported twice."""
    flags.DEFINE_string("json", "", "Also write the figures to this file.")
    flags.DEFINE_string("report", "", "Also write the table to this file (Markdown).")
    flags.DEFINE_integer("days", 200, "Clean days.", lower_bound=1)
    flags.DEFINE_integer("trials", 10, "Days for each fault.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Draws the days.")


def main(argv: list[str]) -> None:
    """Simulates, prints and writes; exits with 1 where a target is missed."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    values = flags.FLAGS
    false_alarms: list[tuple[int, str]] = []
    num_requests = 0
    for number in range(values.days):
        day = draw_day(np.random.default_rng([values.seed, number]))
        num_requests += len(day.times)
        raised = [alert for alert in watch_day(day) if alert.resolved is None]
        false_alarms += [(number, f"{alert.rule}: {alert.message}") for alert in raised]
        if number % 10 == 9:
            print(f"{number + 1} days, {len(false_alarms)} false alarms", file=sys.stderr)
    trials: dict[str, list[Trial]] = {}
    for fault in FAULTS:
        print(f"{fault.name} …", file=sys.stderr)
        trials[fault.name] = [
            plant(fault, np.random.default_rng([values.seed, 1_000_000 + number]))
            for number in range(values.trials)
        ]
    text = table(values.days, num_requests, false_alarms, trials)
    print(text)
    if values.report:
        what = (__doc__ or "").split("\n\n", 1)[0]
        Path(values.report).write_text(f"# A monitor's days, simulated\n\n{what}\n\n{text}\n")
    if values.json:
        content = {
            "days": values.days,
            "requests": num_requests,
            "false_alarms": false_alarms,
            "faults": {name: [t._asdict() for t in each] for name, each in trials.items()},
        }
        Path(values.json).write_text(json.dumps(content, indent=1) + "\n")
    if false_alarms or missed(trials):
        sys.exit(1)


def is_told_once(fault: Fault, trial: Trial) -> bool:
    """Whether everything that the fault touches was raised once and resolved once."""
    return trial.raised == trial.resolved == fault.num_told


def missed(trials: dict[str, list[Trial]]) -> list[str]:
    """Faults that were not raised once and resolved once each time, or drifts found too late."""
    faults = {fault.name: fault for fault in FAULTS}
    return [
        name
        for name, each in trials.items()
        if not all(is_told_once(faults[name], trial) for trial in each)
        or (
            faults[name].rule == "drift"
            and any(trial.delay_requests > MAX_DRIFT_REQUESTS for trial in each)
        )
    ]


def table(
    days: int,
    num_requests: int,
    false_alarms: Sequence[tuple[int, str]],
    trials: dict[str, list[Trial]],
) -> str:
    """The figures for people."""
    lines = [
        f"{days} clean days, {num_requests:,} requests: {len(false_alarms)} false alarms",
        *(f"  day {day}: {message}" for day, message in false_alarms),
        "",
        "| fault | raised once, resolved once | delay, median (most) | requests of the arm | "
        "resolved after | also raised |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    faults = {fault.name: fault for fault in FAULTS}
    for name, each in trials.items():
        right = sum(is_told_once(faults[name], trial) for trial in each)
        delay = [trial.delay_s for trial in each]
        requests = [trial.delay_requests for trial in each]
        after = [trial.resolved_after_s for trial in each]
        others = sorted({other for trial in each for other in trial.others})
        lines.append(
            f"| {name} | {right} of {len(each)} | {np.median(delay):.0f} s ({max(delay):.0f}) | "
            f"{np.median(requests):.0f} ({max(requests):.0f}) | {np.median(after):.0f} s | "
            f"{', '.join(others)} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    define_flags()
    app.run(main)
