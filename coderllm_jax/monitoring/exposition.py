"""The monitor's figures for Prometheus: `registry(watch)` holds one collector that looks at it.

    coderllm_monitor_run_loss{run="lora-9e6cbd85",name="lora"} 2.91
    coderllm_monitor_run_info{run="lora-9e6cbd85",name="lora",model="tiny",status="running"} 1
    coderllm_monitor_alert_firing{rule="stall",severity="critical",id="lora-9e6cbd85",name="lora"} 1

A figure that is not known has no sample: a graph shows a gap, not 0. Names end in their unit, as
Prometheus wants it; `promtool check metrics` has no complaint. Names of runs and logs are label
values, which the text format escapes; credentials in them are blotted out before it does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from coderllm_jax.monitoring.views import MachineView, Overview, RunView, TrafficView
from coderllm_jax.redaction import redactor

_PREFIX = "coderllm_monitor"
_RUN_FIGURES = (
    ("loss", "Training loss of the newest row."),
    ("eval_loss", "Newest evaluation loss."),
    ("learning_rate", "Learning rate of the newest row."),
    ("grad_norm", "Gradient norm of the newest row."),
)
_TIMES = ("total_s", "ttft_s", "time_per_token_s", "queue_s")


class Watched(Protocol):
    """What the collector looks at: `Watch`, or whatever gives an overview of one."""

    def overview(self) -> Overview:
        """Everything at this moment."""


def registry(watch: Watched) -> CollectorRegistry:
    """A registry of its own, for `prometheus_client.generate_latest`."""
    found = CollectorRegistry(auto_describe=False)
    found.register(_Collector(watch))
    return found


class _Collector(Collector):
    def __init__(self, watch: Watched) -> None:
        self._watch = watch

    def describe(self) -> list[Metric]:
        """Nothing beforehand: which figures there are, only a look tells."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Every figure that is known now."""
        clean = redactor()
        for family in _families(self._watch.overview()):
            family.samples = [
                sample._replace(labels={key: clean(text) for key, text in sample.labels.items()})
                for sample in family.samples
            ]
            yield family


def _families(overview: Overview) -> Iterator[Metric]:
    yield from _runs(overview.runs)
    yield from _traffic(overview.traffic)
    yield from _machine(overview.machine)
    yield from _quality(overview)
    yield from _alerts(overview)


class _Gauges:
    """Families of one set of labels, filled in any order; what is None is left out."""

    def __init__(self, subject: str, labels: list[str]) -> None:
        self._prefix, self._labels = f"{_PREFIX}_{subject}", labels
        self._families: dict[str, GaugeMetricFamily] = {}

    def add(self, name: str, help: str, labels: list[str], value: float | None) -> None:
        family = self._families.get(name)
        if family is None:
            family = GaugeMetricFamily(f"{self._prefix}_{name}", help, labels=self._labels)
            self._families[name] = family
        if value is not None:
            family.add_metric(labels, value)

    def __iter__(self) -> Iterator[Metric]:
        return iter([family for family in self._families.values() if family.samples])


def _runs(runs: Sequence[RunView]) -> Iterator[Metric]:
    gauges = _Gauges("run", ["run", "name"])
    split = _Gauges("run", ["run", "name", "kind"])
    info = _Gauges("run", ["run", "name", "model", "status"])
    for run in runs:
        labels = [run.id, run.name]
        info.add("info", "1; what a run is, as labels.", [*labels, run.model, run.status], 1)
        for name, words in _RUN_FIGURES:
            gauges.add(name, words, labels, run.latest.get(name))
        eta = run.eta_s
        for name, words, value in (
            ("step", "Steps done.", run.step),
            ("steps_planned", "Steps that it will have.", run.num_steps),
            ("step_time_seconds", "Median time of recent steps.", run.step_time_s),
            ("tokens_per_second", "Tokens of recent rows over their time.", run.tokens_per_s),
            ("tokens", "Tokens trained on.", run.tokens),
            ("model_flops_utilization_ratio", "Model FLOP/s over the peak.", run.mfu),
            ("goodput_ratio", "Part of the time that went into steps.", run.goodput),
            ("eta_seconds", "Expected time to the end.", eta.expected if eta else None),
            ("eta_low_seconds", "Lower bound of that (80 %).", eta.low if eta else None),
            ("eta_high_seconds", "Upper bound of that (80 %).", eta.high if eta else None),
            ("updated_timestamp_seconds", "When it was last heard of.", run.updated),
        ):
            gauges.add(name, words, labels, value)
        for kind, fraction in run.split.items():
            split.add("time_ratio", "Parts of the run's time.", [*labels, kind], fraction)
    yield from info
    yield from gauges
    yield from split


def _traffic(logs: Sequence[TrafficView]) -> Iterator[Metric]:
    gauges = _Gauges("traffic", ["log", "name"])
    times = _Gauges("traffic", ["log", "name", "percentile"])
    drift = _Gauges("traffic", ["log", "name", "figure"])
    total = CounterMetricFamily(
        f"{_PREFIX}_traffic_requests", "Requests read since the start.", labels=["log", "name"]
    )
    for log in logs:
        labels = [log.id, log.name]
        total.add_metric(labels, log.num_total)
        for name, words, value in (
            ("requests_per_second", "Requests of the window.", log.requests_per_s),
            ("error_ratio", "Requests of the window that failed.", log.error_rate),
            ("refusal_ratio", "Answers that said nothing was found.", log.refusal_rate),
            ("no_source_ratio", "Answers by retrieval without a source.", log.no_source_rate),
            ("prompt_tokens_per_second", "Tokens asked.", log.prompt_tokens_per_s),
            ("completion_tokens_per_second", "Tokens answered.", log.completion_tokens_per_s),
        ):
            gauges.add(name, words, labels, value)
        for name in _TIMES:
            found = getattr(log, name)
            for percentile in ("p50", "p95", "p99") if found else ():
                times.add(
                    f"{name.removesuffix('_s')}_seconds",
                    f"Percentiles of {name} over the window.",
                    [*labels, percentile],
                    getattr(found, percentile),
                )
        for each in log.drift:
            drifted = None if each.state == "gathering" else float(each.state == "drifted")
            names = [*labels, each.name]
            drift.add("drifted", "1 while a figure has drifted from its reference.", names, drifted)
            drift.add("drift_psi", "Population stability index.", names, each.psi)
            drift.add("drift_ks", "Kolmogorov-Smirnov distance.", names, each.ks)
    if total.samples:
        yield total
    yield from gauges
    yield from times
    yield from drift


def _machine(machine: MachineView) -> Iterator[Metric]:
    gauges = _Gauges("machine", [])
    for name, words, value in (
        ("cpu_ratio", "Use of all cores.", machine.cpu_fraction),
        ("load1", "Load average of a minute.", machine.load_1min),
        ("memory_used_bytes", "Memory that programs cannot get.", machine.memory_used_bytes),
        ("memory_size_bytes", "Memory, or the container's limit.", machine.memory_total_bytes),
        ("own_memory_bytes", "What the monitor takes.", machine.own_memory_bytes),
        ("own_cpu_ratio", "What the monitor takes of one core.", machine.own_cpu_fraction),
    ):
        gauges.add(name, words, [], value)
    disks = _Gauges("disk", ["path"])
    for disk in machine.disks:
        disks.add("free_bytes", "Free for everybody.", [disk.path], disk.free_bytes)
        disks.add("used_ratio", "Used part.", [disk.path], disk.used_fraction)
    sensors = _Gauges("machine", ["sensor"])
    for sensor, celsius in machine.temperatures_c.items():
        sensors.add("temperature_celsius", "Thermal zones.", [sensor], celsius)
    chips = _Gauges("accelerator", ["kind", "index", "name"])
    for chip in machine.accelerators:
        labels = [chip.kind, str(chip.index), chip.name]
        throttled = None if chip.throttling is None else float(bool(chip.throttling))
        for name, words, value in (
            ("use_ratio", "Time in which it was busy.", chip.use_fraction),
            ("memory_used_bytes", "Memory in use.", chip.memory_used_bytes),
            ("memory_size_bytes", "Memory it has.", chip.memory_total_bytes),
            ("temperature_celsius", "Temperature.", chip.temperature_c),
            ("power_watts", "Power drawn.", chip.power_w),
            ("power_limit_watts", "Power it may draw.", chip.power_limit_w),
            ("throttled", "1 while it is held back.", throttled),
        ):
            chips.add(name, words, labels, value)
    for family in (gauges, disks, sensors, chips):
        yield from family


def _quality(overview: Overview) -> Iterator[Metric]:
    gauges = _Gauges("evaluation", ["evaluation", "name", "figure"])
    # Of an evaluation that was made again, the newest: a graph has the earlier ones.
    newest = {version.id: version for version in overview.quality.versions}
    for version in newest.values():
        for score in version.scores:
            labels = [version.id, version.name, score.name]
            gauges.add("score", "Scores as evaluations wrote them.", labels, score.value)
    yield from gauges


def _alerts(overview: Overview) -> Iterator[Metric]:
    gauges = _Gauges("alert", ["rule", "severity", "id", "name"])
    for alert in overview.alerts:
        if alert.resolved is None:
            labels = [alert.rule, alert.severity, alert.subject, alert.subject_name]
            gauges.add("firing", "1 for a fault that goes on.", labels, 1)
    rules = _Gauges("alert", ["rule", "severity"])
    for rule in overview.rules:
        labels = [rule.name, rule.severity]
        rules.add("faults", "Faults of a rule that go on.", labels, rule.num_firing)
    yield from gauges
    yield from rules
