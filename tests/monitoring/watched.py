"""Folders that a test lets grow as a training or a server would, on a clock that it moves."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

from coderllm_jax.config.monitoring import MonitoringConfig
from coderllm_jax.monitoring.accelerators import Accelerators
from coderllm_jax.monitoring.machine import MachineWatch
from coderllm_jax.monitoring.watching import Watch

BEGAN = 1.8e9


class Clock:
    """Unix seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = BEGAN

    def __call__(self) -> float:
        return self.now


class MadeRun:
    """A run of ours: rows, events, reports, written as training writes them."""

    def __init__(self, folder: Path, clock: Clock, *, num_steps: int = 100, **periods: int) -> None:
        self.folder, self.clock = folder, clock
        self.metrics = folder / "metrics" / "metrics.jsonl"
        self.metrics.parent.mkdir(parents=True)
        write_json(
            folder / "config.json",
            {
                "evaluation": {"every_steps": periods.get("evaluation", 20)},
                "checkpoint": {"every_steps": periods.get("checkpoint", 20)},
            },
        )
        write_json(
            folder / "manifest.json",
            {
                "num_steps": num_steps,
                "model": {"name": "tiny"},
                "devices": {"kind": "NVIDIA H100", "count": 2, "processes": 1},
                "program": {"flops_per_token": 1e12, "flops_per_loss_token": 2e12},
            },
        )

    def event(self, name: str, step: int = 0, **more: Any) -> None:
        append(
            self.folder / "journal.jsonl",
            {"time": self.clock(), "step": step, "event": name, **more},
        )

    def report(self, phase: str = "training", step: int = 0, **more: Any) -> None:
        """processes/0.json, now: alive, and at `phase` since now."""
        values = {
            "rank": 0,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "phase": phase,
            "step": step,
            "since": self.clock(),
            "time": self.clock(),
        }
        write_json(self.folder / "processes" / "0.json", {**values, **more})

    def row(self, step: int, **more: Any) -> None:
        values = {
            "step": step,
            "time": self.clock(),
            "loss": 2.0,
            "learning_rate": 1e-3,
            "grad_norm": 1.0,
            "tokens": 1000,
            "loss_tokens": 400,
            "step_time_s": 1.0,
            "data_wait_s": 0.01,
        }
        append(self.metrics, {**values, **more})

    def evaluation(self, step: int, loss: float | None = 2.1) -> None:
        append(self.metrics, {"step": step, "time": self.clock(), "eval_loss": loss})


class FixedMachine(MachineWatch):
    """A machine whose figures a test sets."""

    def __init__(self) -> None:
        super().__init__([], max_rows=1000, accelerators=Accelerators(find=list))
        self.changes: dict[str, Any] = {}

    def look(self, now: float) -> None:
        import dataclasses

        plain = {
            "time": now,
            "hostname": "fixed",
            "memory_used_fraction": 0.4,
            "temperatures_c": {"cpu": 60.0},
        }
        self._view = dataclasses.replace(self._view, **{**plain, **self.changes})


def append(path: Path, row: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def write_json(path: Path, values: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_text(json.dumps(values))
    unfinished.replace(path)


def config(folder: Path, **changes: Any) -> MonitoringConfig:
    values = MonitoringConfig.create_default()
    values.runs = (str(folder / "runs"),)
    values.state_dir = str(folder / "state")
    values.traffic.logs = (str(folder / "logs" / "*.jsonl"),)
    for path, value in changes.items():
        section, _, name = path.rpartition("__")
        setattr(values[section] if section else values, name, value)
    return MonitoringConfig.from_config_dict(values)


def open_watch(folder: Path, clock: Clock, **more: Any) -> Watch:
    """A watch over `folder`/runs and `folder`/logs that asks no real machine."""
    changes = {name: more.pop(name) for name in list(more) if "__" in name}
    machine = more.pop("machine", None) or FixedMachine()
    more = {"urls": (), "steady": clock, **more}
    return Watch(config(folder, **changes), clock=clock, machine=machine, **more)


def request(time: float, **more: Any) -> dict[str, Any]:
    """A line of our request log."""
    values = {
        "time": time,
        "id": "a",
        "arm": "trained",
        "model_version": "1",
        "status": 200,
        "finish": "stop",
        "prompt_tokens": 20,
        "completion_tokens": 50,
        "queue_s": 0.0,
        "ttft_s": 0.2,
        "time_per_token_s": 0.03,
        "total_s": 2.0,
        "num_sources": 0,
        "top_score": None,
        "mean_logprob": -1.0,
        "refused": False,
        "error": "",
    }
    return {**values, **more}
