"""A watch that reads nothing: what it shows is made up, and grows when it is polled.

Named a fake because it is one: the real one is tested in tests/monitoring.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

from coderllm_jax.monitoring.views import (
    AcceleratorView,
    AlertView,
    DiskView,
    DriftView,
    Interval,
    MachineView,
    Overview,
    Percentiles,
    QualityView,
    RuleView,
    RunView,
    ScoreView,
    TrafficView,
    VersionView,
)

PLANTED = (
    "<script>document.documentElement.dataset.planted=1</script>"
    '<img src=x onerror="document.documentElement.dataset.planted=2">'
)
NOW = 1_795_000_000.0
SERIES = ("loss", "eval_loss", "learning_rate", "grad_norm", "tokens_per_s", "data_wait_s")
LOG_SERIES = (
    "requests_per_s",
    "error_rate",
    "total_s_p50",
    "total_s_p95",
    "ttft_s_p50",
    "ttft_s_p95",
    "completion_tokens_per_s",
)
MACHINE_SERIES = ("cpu_fraction", "memory_used_fraction")


class FakeWatch:
    """As many runs as asked for, one log, one machine; `grow` adds points to the first run."""

    def __init__(
        self,
        *,
        num_runs: int = 3,
        num_steps: int = 300,
        words: str = "",
        is_quiet: bool = False,
    ) -> None:
        self.words, self.is_quiet = words, is_quiet
        self.num_steps, self.step = num_steps, num_steps // 2
        self.revision = 0
        self.num_polls = 0
        self.is_closed = False
        self.points = {f"run-{i}": _run_points(num_steps, seed=i) for i in range(num_runs)}

    def poll(self) -> bool:
        """Counts; the run grows when it is told to."""
        self.num_polls += 1
        return False

    def close(self) -> None:
        """Notes that it was."""
        self.is_closed = True

    def grow(self, num_steps: int = 1) -> None:
        """The first run goes on."""
        self.step = min(self.num_steps, self.step + num_steps)

    def cut(self, step: int) -> None:
        """The first run is resumed from an earlier step: its file is another."""
        self.step = step
        self.revision += 1
        self.points["run-0"] = _run_points(self.num_steps, seed=100 + self.revision)

    def series(
        self,
        id: str,
        names: Sequence[str],
        *,
        since_step: int = -1,
        until_step: int | None = None,
        max_points: int = 2000,
    ) -> dict[str, Any]:
        """Every k-th point where there are too many."""
        if id in self.points:
            end = self.step if id == "run-0" else self.num_steps
            points = {
                name: [p for p in rows if p[0] <= end] for name, rows in self.points[id].items()
            }
            told: dict[str, Any] = {"revision": self.revision if id == "run-0" else 0}
        elif id in {"log-0", "machine"}:
            points, told = _hours(LOG_SERIES if id == "log-0" else MACHINE_SERIES), {"revision": 0}
        else:
            raise KeyError(id)
        for name in names:
            rows = [p for p in points.get(name, ()) if p[0] > since_step]
            rows = [p for p in rows if until_step is None or p[0] <= until_step]
            rows = rows[:: max(1, math.ceil(len(rows) / max_points))]
            told[name] = {
                "step": [p[0] for p in rows],
                "time": [p[1] for p in rows],
                "value": [p[2] for p in rows],
            }
        return told

    def overview(self) -> Overview:
        """All of it."""
        return Overview(
            time=NOW + self.step,
            runs=[self._run(i) for i in range(len(self.points))],
            traffic=[self._traffic()],
            machine=_machine(),
            quality=_quality(self.words),
            alerts=[] if self.is_quiet else _alerts(self.words),
            rules=_rules(),
            problems=[f"runs/old{self.words}/metrics.jsonl:7: no JSON; the line is passed over"],
        )

    def _run(self, i: int) -> RunView:
        status = ("running", "finished", "failed", "stalled", "interrupted")[i % 5]
        step = self.step if i == 0 else self.num_steps if i == 1 else self.num_steps // 2
        latest = {name: rows[-1][2] for name, rows in self.points[f"run-{i}"].items()}
        latest["loss"] = self.points[f"run-{i}"]["loss"][max(step - 1, 0)][2]
        if status == "failed":
            latest["loss"] = math.nan
        name = ("lora", "lora-rank-16", "full-finetune", "qlora-int8", "tiny")[i % 5]
        left_s = (self.num_steps - step) * 1.8
        return RunView(
            id=f"run-{i}",
            name=name + self.words,
            folder=f"runs/{name}{self.words}",
            source="coderllm_jax",
            model="gemma3_270m" + self.words,
            status=status,  # type: ignore[arg-type]
            status_reason={
                "running": "step 150 was written 2 s ago",
                "finished": "it says so in report/summary.json",
                "failed": "the loss is NaN since step 148",
                "stalled": "nothing was written for 14 minutes; a step takes 1.8 s",
                "interrupted": "SIGTERM at step 150; the same command goes on",
            }[status]
            + self.words,
            phase="training" if status == "running" else "",
            step=step,
            num_steps=self.num_steps,
            started=NOW - 400,
            updated=NOW + self.step - 2,
            eta_s=Interval(left_s * 0.9, left_s, left_s * 1.2) if status == "running" else None,
            step_time_s=1.8,
            tokens_per_s=612.4 + 40 * i,
            tokens=step * 1024,
            mfu=None if i == 0 else 0.312,
            split={
                "compute": 0.78,
                "data_wait": 0.03,
                "evaluation": 0.09,
                "checkpoint": 0.04,
                "compile": 0.05,
                "other": 0.01,
            },
            goodput=0.78,
            latest=latest,
            best_eval_loss=2.97 + i / 10,
            best_step=step - step % 25,
            series=SERIES,
            num_points=step,
            revision=self.revision if i == 0 else 0,
            samples=[
                {
                    "step": 150,
                    "question": f"What does optax.lion do?{self.words}",
                    "answer": f"It is the Lion optimizer: sign of a momentum.{self.words}",
                    "reference": "The Lion optimizer, found by evolutionary search.",
                },
                {
                    "step": 150,
                    "question": "How is a learning rate warmed up?",
                    "answer": "optax.warmup_cosine_decay_schedule(\n    init_value=0.0,\n)",
                    "reference": "With optax.warmup_cosine_decay_schedule.",
                },
            ],
            alerts=["alert-0"] if status == "failed" and not self.is_quiet else [],
        )

    def _traffic(self) -> TrafficView:
        return TrafficView(
            id="log-0",
            name="serving" + self.words,
            path="runs/serving/requests.jsonl",
            updated=NOW + self.step - 1,
            window_s=300.0,
            num_requests=412,
            num_total=12_934,
            requests_per_s=1.37,
            error_rate=0.0121,
            refusal_rate=0.034,
            no_source_rate=0.051,
            prompt_tokens_per_s=219.0,
            completion_tokens_per_s=88.3,
            total_s=Percentiles(1.2, 3.4, 6.1),
            ttft_s=Percentiles(0.21, 0.8, 1.9),
            time_per_token_s=Percentiles(0.018, 0.025, 0.041),
            queue_s=Percentiles(0.0, 0.4, 1.1),
            by_arm={"trained" + self.words: 240, "rag": 120, "base": 52},
            by_finish={"stop": 380, "length": 27, "error": 5},
            by_version={"step-60": 412},
            num_bad_lines=2,
            drift=[
                _drift("completion_tokens", "drifted", 96.0, 131.0, 0.31, 0.24, 3e-7),
                _drift("top_score", "steady", 0.71, 0.7, 0.02, 0.05, 0.31),
                _drift("refused", "steady", 0.03, 0.034, 0.01, None, 0.64),
                _drift("mean_logprob", "gathering", None, None, None, None, None),
            ],
            series=LOG_SERIES,
            revision=0,
        )


def _run_points(num_steps: int, *, seed: int) -> dict[str, list[tuple[int, float, float | None]]]:
    noise = random.Random(seed)
    points: dict[str, list[tuple[int, float, float | None]]] = {name: [] for name in SERIES}
    for step in range(1, num_steps + 1):
        time = NOW - 400 + 1.8 * step
        loss = 2.6 + 0.2 * seed + 2.9 * math.exp(-step / (num_steps / 6)) + noise.gauss(0, 0.12)
        points["loss"].append((step, time, loss))
        rate = 1e-3 * min(step / 20, 1) * (1 + math.cos(math.pi * step / num_steps)) / 2
        points["learning_rate"].append((step, time, rate))
        points["grad_norm"].append((step, time, math.exp(noise.gauss(-0.3, 0.35))))
        points["tokens_per_s"].append((step, time, noise.gauss(612 + 40 * seed, 14)))
        points["data_wait_s"].append((step, time, abs(noise.gauss(0.02, 0.015))))
        if step % 25 == 0:
            points["eval_loss"].append((step, time, loss + 0.15 - noise.random() * 0.1))
    return points


def _hours(names: Sequence[str]) -> dict[str, list[tuple[int, float, float | None]]]:
    noise = random.Random(7)
    size = {"requests_per_s": 1.4, "error_rate": 0.012, "completion_tokens_per_s": 90}
    return {
        name: [
            (
                i,
                NOW - 7200 + 60 * i,
                size.get(name, 0.5) * abs(1 + math.sin(i / 20) / 3 + noise.gauss(0, 0.1)),
            )
            for i in range(120)
        ]
        for name in names
    }


def _drift(name: str, state: Any, before: Any, now: Any, psi: Any, ks: Any, p: Any) -> DriftView:
    said = {
        "drifted": "longer answers than usual: 131 tokens against 96",
        "steady": "as in the reference",
        "gathering": "1,240 of 2,000 reference requests",
    }[state]
    since = NOW - 900 if state == "drifted" else None
    return DriftView(name, state, since, before, now, psi, ks, p, 2000, 300, said)


def _machine() -> MachineView:
    gib = 2**30
    return MachineView(
        time=NOW,
        hostname="box",
        num_cores=8,
        cpu_fraction=0.63,
        load_1min=5.1,
        memory_total_bytes=64 * gib,
        memory_used_bytes=int(41.5 * gib),
        memory_used_fraction=0.648,
        swap_used_bytes=0,
        disks=[DiskView("runs", 512 * gib, 60 * gib, 0.883)],
        accelerators=[
            AcceleratorView(
                "gpu", 0, "NVIDIA H100 80GB HBM3", 0.94, 61 * gib, 80 * gib, 71.0, 612.0, 700.0, []
            ),
            AcceleratorView(
                "gpu", 1, "NVIDIA H100 80GB HBM3", None, 2 * gib, 80 * gib, 38.0, None, None, None
            ),
        ],
        temperatures_c={"package": 67.0},
        own_memory_bytes=121 * 2**20,
        own_cpu_fraction=0.012,
        notes=["GPU 1: use is not exposed by this driver"],
        series=MACHINE_SERIES,
    )


def _quality(words: str) -> QualityView:
    noise = random.Random(3)
    seen, code, delay = (
        "qa_accuracy/seen/fact_f1",
        "code_generation/human_eval/pass@1",
        "performance/closed/1/total_s.p50",
    )
    versions = []
    for i in range(6):
        at = 0.31 + 0.05 * i + noise.gauss(0, 0.015)
        scores = [
            ScoreView(seen, at, at - 0.03, at + 0.03, 120, False),
            ScoreView(code, at / 2, at / 2 - 0.3, at / 2 + 0.3, 164, False),
            ScoreView(delay, 1.9 - i / 10, None, None, 40, True),
        ]
        if i == 5:
            scores.append(ScoreView("qa_accuracy/seen/bleu", 0.5, None, None, 120, False))
        name = f"lora step {20 * (i + 1)}{words if i == 2 else ''}"
        path = f"runs/lora/evaluation/{i}/results.json"
        versions.append(
            VersionView(f"v{i}", name, path, NOW - 86400 * (6 - i), "gemma3_270m", scores)
        )
    return QualityView(versions, [seen, "qa_accuracy/seen/bleu", code, delay])


def _alerts(words: str) -> list[AlertView]:
    def alert(
        i: int, rule: str, severity: Any, message: str, *, hours: float, lasted: float | None
    ):
        raised = NOW - hours * 3600
        resolved = None if lasted is None else raised + lasted
        return AlertView(
            f"alert-{i}",
            rule,
            severity,
            "run-2",
            "full-finetune" + words,
            message + words,
            1.0,
            raised,
            resolved,
            ("sent", "waiting: 2 tries failed", "none configured")[i % 3],
        )

    return [
        alert(0, "nan", "critical", "the loss is NaN since step 148", hours=0.1, lasted=None),
        alert(1, "disk", "warning", "runs: 88 % of the volume is used", hours=0.6, lasted=None),
        alert(2, "starvation", "info", "waits for data 31 % of the time", hours=3, lasted=620),
        alert(3, "error_burst", "critical", "12 % of requests failed", hours=26, lasted=188),
    ]


def _rules() -> list[RuleView]:
    return [
        RuleView(
            "nan", "threshold", "critical", "loss or gradient norm is not finite", "built in", 1
        ),
        RuleView(
            "stall", "absence", "critical", "no step for 5 times its usual time", "built in", 0
        ),
        RuleView(
            "disk", "threshold", "warning", "a watched volume is over 85 % full", "built in", 1
        ),
        RuleView("drift", "drift", "warning", "a figure of the traffic has drifted", "built in", 0),
        RuleView(
            "slow",
            "rate",
            "warning",
            "p95 rises by half within 10 min",
            "configs/alerts.yaml:12",
            0,
        ),
    ]
