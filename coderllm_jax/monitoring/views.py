"""What the monitor shows: frozen records of plain values, the contract between watching and page.

    Overview ── runs: RunView …        one for each run that was found
             ├─ traffic: TrafficView … one for each request log
             ├─ machine: MachineView   this computer, now
             ├─ quality: QualityView   scores by version, as evaluations wrote them
             └─ alerts: AlertView …    firing first, then the latest resolved; rules: RuleView …

None always means "not exposed" or "not known yet", never 0. Times are Unix seconds, durations
seconds, fractions 0 to 1. Everything is JSON through `dataclasses.asdict`. Names, samples, reasons
and messages come from files of others: a page must treat them as text.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

RunStatus = Literal["running", "stalled", "finished", "failed", "interrupted", "unknown"]
Severity = Literal["info", "warning", "critical"]


@dataclasses.dataclass(frozen=True)
class Interval:
    """An estimate between bounds that hold it four times out of five."""

    low: float
    expected: float
    high: float


@dataclasses.dataclass(frozen=True)
class RunView:
    """One training run, ours or anybody's with TensorBoard events.

    id: stable over restarts, safe in a URL; what `Watch.series` takes. source: `coderllm_jax` (a
    run's folder of ours) or `tensorboard` (event files only). status: `failed` is a run that
    diverged or whose process is gone without a word; `unknown` where only events are there and
    nobody can tell. status_reason: one sentence for a person. phase: what it is doing in its own
    words. eta_s: seconds from now to its end, evaluations and checkpoints included. latest: the
    newest figure of each series that has one. split: fractions of the time since the run began,
    which sum to 1; keys among compute, data_wait, evaluation, checkpoint, sampling, compile,
    setup, lost (nobody was computing: killed or down, or computed twice), other; empty where
    not known. goodput: the fraction that went into steps that count. series: names that
    `Watch.series` has for this run. num_points: rows read so far. revision: changes when the run's
    file was cut or replaced; a page that sees another one asks for everything anew. samples: the
    latest answers, {"step", "question", "answer", "reference"}.
    """

    id: str
    name: str
    folder: str
    source: Literal["coderllm_jax", "tensorboard"]
    model: str
    status: RunStatus
    status_reason: str
    phase: str
    step: int | None
    num_steps: int | None
    started: float | None
    updated: float | None
    eta_s: Interval | None
    step_time_s: float | None
    tokens_per_s: float | None
    tokens: int | None
    mfu: float | None
    split: Mapping[str, float]
    goodput: float | None
    latest: Mapping[str, float]
    best_eval_loss: float | None
    best_step: int | None
    series: Sequence[str]
    num_points: int
    revision: int
    samples: Sequence[Mapping[str, Any]]
    alerts: Sequence[str]


@dataclasses.dataclass(frozen=True)
class Percentiles:
    """Of one time over the window; seconds."""

    p50: float
    p95: float
    p99: float


@dataclasses.dataclass(frozen=True)
class DriftView:
    """One figure of the traffic against its reference window.

    state: `gathering` until the reference is full, `steady`, or `drifted`. psi and ks compare the
    latest `num_current` requests with the `num_reference` ones; p_value is of KS (of counts for a
    rate), before the correction for looking at several figures; `since` is when it drifted.
    reference_mean and current_mean are in the figure's own unit. message: why it drifted, or the
    version whose reference is gathered, where it has taken another's place.
    """

    name: str
    state: Literal["gathering", "steady", "drifted"]
    since: float | None
    reference_mean: float | None
    current_mean: float | None
    psi: float | None
    ks: float | None
    p_value: float | None
    num_reference: int
    num_current: int
    message: str


@dataclasses.dataclass(frozen=True)
class TrafficView:
    """One request log. Rates and percentiles are over the last `window_s` seconds.

    by_arm, by_finish and by_version count requests of the window. series: names that
    `Watch.series` has for this id; their `step` is the number of the bucket, `time` its start.
    """

    id: str
    name: str
    path: str
    updated: float | None
    window_s: float
    num_requests: int
    num_total: int
    requests_per_s: float | None
    error_rate: float | None
    refusal_rate: float | None
    no_source_rate: float | None
    prompt_tokens_per_s: float | None
    completion_tokens_per_s: float | None
    total_s: Percentiles | None
    ttft_s: Percentiles | None
    time_per_token_s: Percentiles | None
    queue_s: Percentiles | None
    by_arm: Mapping[str, int]
    by_finish: Mapping[str, int]
    by_version: Mapping[str, int]
    num_bad_lines: int
    drift: Sequence[DriftView]
    series: Sequence[str]
    revision: int


@dataclasses.dataclass(frozen=True)
class DiskView:
    """The volume that one watched folder lies on."""

    path: str
    total_bytes: int
    free_bytes: int
    used_fraction: float


@dataclasses.dataclass(frozen=True)
class AcceleratorView:
    """One GPU or TPU chip; throttling: reasons in words, empty for none, None where not exposed."""

    kind: Literal["gpu", "tpu"]
    index: int
    name: str
    use_fraction: float | None
    memory_used_bytes: int | None
    memory_total_bytes: int | None
    temperature_c: float | None
    power_w: float | None
    power_limit_w: float | None
    throttling: Sequence[str] | None


@dataclasses.dataclass(frozen=True)
class MachineView:
    """This computer, now. notes: why a part is not exposed, a sentence each.

    own_*: what the monitor itself costs. Series of the machine have the id `machine`.
    """

    time: float | None
    hostname: str
    num_cores: int | None
    cpu_fraction: float | None
    load_1min: float | None
    memory_total_bytes: int | None
    memory_used_bytes: int | None
    memory_used_fraction: float | None
    swap_used_bytes: int | None
    disks: Sequence[DiskView]
    accelerators: Sequence[AcceleratorView]
    temperatures_c: Mapping[str, float]
    own_memory_bytes: int | None
    own_cpu_fraction: float | None
    notes: Sequence[str]
    series: Sequence[str]


@dataclasses.dataclass(frozen=True)
class ScoreView:
    """One figure of one evaluation, with its interval where there is one."""

    name: str
    value: float
    low: float | None
    high: float | None
    num_items: int | None
    lower_is_better: bool


@dataclasses.dataclass(frozen=True)
class VersionView:
    """What one results.json held at a time: what was evaluated, and how well it did.

    id: the evaluation's; several versions have it where it was made again.
    """

    id: str
    name: str
    path: str
    time: float
    model: str
    scores: Sequence[ScoreView]


@dataclasses.dataclass(frozen=True)
class QualityView:
    """Scores over versions, oldest first. names: every figure that any of them has."""

    versions: Sequence[VersionView]
    names: Sequence[str]


@dataclasses.dataclass(frozen=True)
class AlertView:
    """One fault: raised once, resolved once. id: unique for ever.

    subject: the run, log or device it is about (a view's id, or words for devices and disks).
    value: the figure that raised it. resolved: None while it is firing. notified: what became of
    its notifications, in words ("sent", "waiting: 2 tries failed", "none configured").
    """

    id: str
    rule: str
    severity: Severity
    subject: str
    subject_name: str
    message: str
    value: float | None
    raised: float
    resolved: float | None
    notified: str


@dataclasses.dataclass(frozen=True)
class RuleView:
    """One rule in words. origin: `built in` or the file that it is from."""

    name: str
    kind: Literal["threshold", "rate", "absence", "drift"]
    severity: Severity
    description: str
    origin: str
    num_firing: int


@dataclasses.dataclass(frozen=True)
class Overview:
    """Everything at one moment. problems: what cannot be read at present, a sentence each."""

    time: float
    runs: Sequence[RunView]
    traffic: Sequence[TrafficView]
    machine: MachineView
    quality: QualityView
    alerts: Sequence[AlertView]
    rules: Sequence[RuleView]
    problems: Sequence[str]
