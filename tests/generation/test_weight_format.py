"""Formats are chosen by what was measured, once a machine, and never by a tie."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coderllm_jax.generation import weight_format as module
from coderllm_jax.generation.network import DecodeWeights
from coderllm_jax.generation.weight_format import choose_precision, choose_screen, decode_rows
from coderllm_jax.model.architecture import TINY
from coderllm_jax.model.forward import ForwardOptions
from coderllm_jax.model.precision import FLOAT32, PRECISIONS


@pytest.fixture(autouse=True)
def _fresh(monkeypatch):
    """A process that has measured nothing yet, on a CPU that multiplies bfloat16."""
    monkeypatch.setattr(module, "_fastest_here", {})
    monkeypatch.setattr(
        module,
        "resolve_precision",
        lambda name, platform: PRECISIONS["mixed" if name == "auto" else name],
    )


@pytest.fixture
def timed(monkeypatch):
    """Seconds that measuring is to find; each measurement is noted."""
    seconds, asked = {}, []

    def measured(calls):
        asked.append(tuple(calls))
        return {name: seconds[name] for name in calls}

    monkeypatch.setattr(module, "_time", measured)
    return seconds, asked


def test_what_is_asked_for_by_name_is_not_measured(timed, tmp_path):
    _, asked = timed
    assert choose_precision("float32", num_slots=4, cache_dir=tmp_path) is FLOAT32
    assert choose_precision("bfloat16", num_slots=4, cache_dir=tmp_path).name == "bfloat16"
    assert asked == []


@pytest.mark.parametrize(
    ("mixed", "float32", "chosen"),
    [(1.0, 2.0, "mixed"), (1.0, 0.9, "mixed"), (1.0, 0.5, "float32")],
)
def test_another_format_than_the_usual_must_be_clearly_faster(timed, mixed, float32, chosen):
    timed[0].update(mixed=mixed, float32=float32)
    assert choose_precision("auto", num_slots=4, cache_dir=None).name == chosen


def test_a_machine_decides_once_for_a_number_of_slots(timed, tmp_path, monkeypatch):
    seconds, asked = timed
    seconds.update(mixed=2.0, float32=1.0)
    assert choose_precision("auto", num_slots=4, cache_dir=tmp_path).name == "float32"
    seconds.update(mixed=1.0, float32=2.0)
    assert choose_precision("auto", num_slots=4, cache_dir=tmp_path).name == "float32"
    # The next process, too.
    monkeypatch.setattr(module, "_fastest_here", {})
    assert choose_precision("auto", num_slots=4, cache_dir=tmp_path).name == "float32"
    assert len(asked) == 1
    assert choose_precision("auto", num_slots=8, cache_dir=tmp_path).name == "mixed"
    assert len(asked) == 2
    kept = json.loads((tmp_path / "decode_formats.json").read_text())
    assert [entry["fastest"] for entry in kept.values()] == ["float32", "mixed"]
    assert [entry["seconds"]["mixed"] for entry in kept.values()] == [2.0, 1.0]
    assert [path.name for path in tmp_path.iterdir()] == ["decode_formats.json"]


@pytest.mark.parametrize(
    "damaged", ["", "{", "[]", '{"a": 1}', '{"a": {}}', '{"a": {"fastest": "fp4"}}']
)
def test_a_damaged_file_is_written_anew(timed, tmp_path, damaged):
    timed[0].update(mixed=1.0, float32=2.0)
    (tmp_path / "decode_formats.json").write_text(damaged)
    assert choose_precision("auto", num_slots=4, cache_dir=tmp_path).name == "mixed"
    (kept,) = json.loads((tmp_path / "decode_formats.json").read_text()).values()
    assert kept["fastest"] == "mixed"


def test_a_folder_that_cannot_be_written_costs_a_measurement_and_nothing_else(timed, tmp_path):
    timed[0].update(mixed=1.0, float32=2.0)
    file = tmp_path / "file"
    file.write_text("")
    assert choose_precision("auto", num_slots=4, cache_dir=file / "folder").name == "mixed"


def weights(vocabulary=4_096):
    table = np.random.default_rng(0).normal(size=(vocabulary, 8)).astype(np.float32)
    return DecodeWeights(jnp.asarray(table), jnp.zeros(8), (), ())


def screen_of(found, **changes):
    arguments = {"architecture": TINY, "options": ForwardOptions(), "cache_dir": None}
    return choose_screen(found, num_rows=2, **arguments | changes)


def test_heads_are_screened_where_that_is_clearly_faster(timed, monkeypatch):
    seconds, asked = timed
    assert screen_of(weights()) is None  # too small to measure
    assert asked == []
    monkeypatch.setattr(module, "_SMALLEST_SCREENED", 1)
    seconds.update(whole=1.0, screened=0.9)
    assert screen_of(weights()) is None
    monkeypatch.setattr(module, "_fastest_here", {})
    seconds.update(whole=1.0, screened=0.5)
    screen = screen_of(weights())
    assert screen is not None
    assert screen.codes.dtype == jnp.int8
    # Known by now: no more than the screen is made.
    assert screen_of(weights()) is not None
    assert asked == [("whole", "screened")] * 2


def test_what_is_measured_runs(monkeypatch):
    monkeypatch.setattr(module, "_SMALLEST_SCREENED", 1)
    monkeypatch.setattr(module, "_PROBE_SHAPE", (64, 8))
    screen_of(weights())
    choose_precision("auto", num_slots=2, cache_dir=None)
    assert {key.partition(": ")[2] for key in module._fastest_here} == {
        "precision of 2 rows",
        "head of 2 rows, 4096 x 8 in float32",
    }


def test_a_single_row_of_bfloat16_is_computed_as_two(monkeypatch):
    assert [decode_rows(n, PRECISIONS["mixed"]) for n in (1, 2, 3)] == [2, 2, 3]
    assert decode_rows(1, FLOAT32) == 1
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert decode_rows(1, PRECISIONS["bfloat16"]) == 1
