"""What several processes do in common, as far as one can tell; see tests/faults for two."""

from __future__ import annotations

import os
from typing import Any

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils

from coderllm_jax.config.training import DistributedSection
from coderllm_jax.errors import ConfigError, DataError, ResumableError
from coderllm_jax.training import distributed


def test_alone_nothing_is_started_or_waited_for() -> None:
    distributed.start(DistributedSection(enabled="off"))
    assert not jax.distributed.is_initialized()
    distributed.barrier("here")
    distributed.must_agree("configuration", {"a": object()})
    assert distributed.is_first()


@pytest.mark.parametrize(
    ("environment", "several"),
    [
        ({}, False),
        ({"JAX_COORDINATOR_ADDRESS": "host:1"}, True),
        ({"SLURM_NTASKS": "4"}, False),  # a shell in an allocation, not a task of it
        ({"SLURM_NTASKS": "4", "SLURM_STEP_NODELIST": "n1"}, True),
        ({"SLURM_NTASKS": "1", "SLURM_STEP_NODELIST": "n1"}, False),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, True),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, True),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, False),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "0"}, True),
    ],
)
def test_a_launcher_is_believed_when_it_means_us(
    environment: dict[str, str], several: bool
) -> None:
    assert DistributedSection().means_several(environment) is several
    assert not DistributedSection(enabled="off").means_several(environment)
    assert DistributedSection(enabled="on").means_several(environment)


class TwoProcesses:
    """This is process 1; process 0 has the `others`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, others: dict[str, Any]) -> None:
        tables = iter(({"keys": sorted(others)}, others))

        def gather(mine: Any) -> Any:
            theirs = np.stack([distributed._digest(each) for each in next(tables).values()])
            return np.stack([theirs, mine])

        monkeypatch.setattr(multihost_utils, "process_allgather", gather)
        monkeypatch.setattr(jax, "process_count", lambda: 2)
        monkeypatch.setattr(jax, "process_index", lambda: 1)


def test_equal_values_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    TwoProcesses(monkeypatch, {"b": 1, "a": (1, 2)})
    distributed.must_agree("configuration", {"b": 1, "a": (1, 2)})


def test_what_differs_is_named_with_what_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    TwoProcesses(monkeypatch, {"seed": 0, "learning_rate": 0.1})
    with pytest.raises(ConfigError) as raised:
        distributed.must_agree("configuration", {"seed": 0, "learning_rate": 0.2})
    assert str(raised.value) == (
        "process 1 has another configuration than process 0 (learning_rate); here learning_rate "
        "is 0.2; start all processes with the same code, configuration and data"
    )


def test_other_names_are_another_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    TwoProcesses(monkeypatch, {"seed": 0})
    with pytest.raises(ConfigError, match="process 1 has another configuration"):
        distributed.must_agree("configuration", {"seed": 0, "new_option": 1})


class Exited(BaseException):
    """Instead of the end of the process."""


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (DataError("rows.jsonl:3: bad"), 1, "error: process 1 of 2: rows.jsonl:3: bad"),
        (ResumableError("SIGTERM"), 42, "interrupted: process 1 of 2: SIGTERM"),
        (
            jax.errors.JaxRuntimeError("Gloo AllReduce failed: Connection closed by peer"),
            42,
            "interrupted: process 1 of 2: another process is gone (process 0 is silent)",
        ),
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: no memory"), 1, "error: process 1 of 2"),
        (ZeroDivisionError("bug"), 1, "error: process 1 of 2: bug"),
    ],
)
def test_an_error_ends_one_of_several_at_once(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    code: int,
    line: str,
) -> None:
    TwoProcesses(monkeypatch, {})
    codes: list[int] = []

    def leave(number: int) -> None:
        codes.append(number)
        raise Exited

    monkeypatch.setattr(os, "_exit", leave)
    monkeypatch.setattr(jax.distributed, "shutdown", lambda: None)
    with pytest.raises(Exited), distributed.ends_for_all(lambda: "process 0 is silent"):
        raise error
    assert codes == [code]
    said = capsys.readouterr().err
    assert said.splitlines()[-1].startswith(line)
    assert ("Traceback" in said) is isinstance(
        error, ZeroDivisionError | jax.errors.JaxRuntimeError
    ) & (code == 1)


def test_alone_an_error_goes_its_way() -> None:
    with pytest.raises(DataError), distributed.ends_for_all(str):
        raise DataError("bad")
