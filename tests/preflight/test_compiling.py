"""The child process: what is said where libtpu is missing, slow or broken; one real compilation."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from coderllm_jax.config.preflight import PreflightConfig
from coderllm_jax.errors import DeviceError
from coderllm_jax.preflight import compiling
from coderllm_jax.preflight.chips import parse_topology
from coderllm_jax.preflight.compiling import (
    compile_step,
    find_library,
    loss_trips,
    read_refusal,
)
from coderllm_jax.preflight.estimate import estimate
from coderllm_jax.preflight.plan import Plan, replace_options


@pytest.fixture
def no_library(monkeypatch, tmp_path):
    monkeypatch.delenv("TPU_LIBRARY_PATH", raising=False)
    monkeypatch.setattr(compiling.importlib.util, "find_spec", lambda name: None)
    return replace_options(PreflightConfig(), {"model__cache_dir": str(tmp_path)})


def test_a_missing_library_is_told_with_the_command_that_brings_it(no_library, tmp_path):
    with pytest.raises(DeviceError) as caught:
        find_library(no_library)
    said = str(caught.value)
    assert "pip install --no-deps --target" in said
    assert f"{tmp_path}/libtpu libtpu==" in said
    assert "compile.winners=0" in said
    assert "\n" not in said


def test_the_library_beside_the_cached_models_is_found_and_one_that_is_named_goes_first(
    no_library, tmp_path, monkeypatch
):
    kept = tmp_path / "libtpu" / "libtpu" / "libtpu.so"
    kept.parent.mkdir(parents=True)
    kept.touch()
    assert find_library(no_library) == kept
    other = tmp_path / "other.so"
    other.touch()
    monkeypatch.setenv("TPU_LIBRARY_PATH", str(other))
    assert find_library(no_library) == other
    named = replace_options(no_library, {"compile__library": str(kept)})
    assert find_library(named) == kept
    with pytest.raises(DeviceError, match=r"compile\.library is '/nowhere'"):
        find_library(replace_options(no_library, {"compile__library": "/nowhere"}))


def a_child(code):
    return subprocess.Popen([sys.executable, "-c", code], start_new_session=True)


def test_a_child_that_hangs_is_told_of_after_its_time():
    child = a_child("import time; time.sleep(60)")
    try:
        said = compiling._watch(child, timeout_s=0.2, limit=1e12)
    finally:
        child.kill()
        child.wait()
    assert "no answer within 0.2 s" in said
    assert "compile.timeout_s" in said


def test_a_child_that_grows_is_told_of():
    child = a_child("held = bytearray(80_000_000); import time; time.sleep(60)")
    try:
        said = compiling._watch(child, timeout_s=50, limit=60e6)
    finally:
        child.kill()
        child.wait()
    assert "compile.max_memory_gb" in said


def test_a_broken_library_is_one_line_and_leaves_no_process(tmp_path):
    """libtpu.so is no library here: the child dies, and its last error is passed on."""
    broken = tmp_path / "libtpu.so"
    broken.write_text("not a library")
    plan = tiny_plan()
    started_s = time.monotonic()
    with pytest.raises(DeviceError) as caught:
        compile_step(plan, "train", config=plan.config, library=broken)
    assert time.monotonic() - started_s < 100
    said = str(caught.value)
    assert said.startswith("libtpu did not compile the step (")
    assert "libtpu==" in said
    assert "\n" not in said


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        (
            "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory "
            "space hbm. Used 20.10G of 15.75G hbm. Exceeded hbm capacity by 4.35G.",
            (20.10 * 2**30, 15.75 * 2**30),
        ),
        (
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
            "temporaries (240.00G) exceeds available HBM (95.74G).",
            (240 * 2**30, 95.74 * 2**30),
        ),
        ("INTERNAL: something else", None),
    ],
)
def test_how_much_was_missing_is_read_from_the_compilers_words(text, sizes):
    assert read_refusal(text) == sizes


def test_the_losss_loops_are_as_long_as_the_loss_says():
    # 3,000 supervised: one chunk of 2,048, and 952 in four of 256.
    assert loss_trips(6000, 0.5, chunk=2048) == {2048: 1, 256: 4}
    # 3,100: what is left would fill more than half of a chunk, so there are two.
    assert loss_trips(6200, 0.5, chunk=2048) == {2048: 2, 256: 0}
    assert loss_trips(100, 0.5, chunk=2048) == {100: 1}
    assert loss_trips(4096, 0.0, chunk=2048) == {2048: 0, 256: 0}


def tiny_plan(**changes):
    config = replace_options(
        PreflightConfig(),
        {
            "model_name": "tiny",
            "batch_size": 4,
            "mesh__data": 1,
            "mesh__fsdp": 2,
            "mesh__tensor": 2,
            **changes,
        },
    )
    return Plan(config, parse_topology("v5e:2x2"))


def library_here():
    try:
        return find_library(PreflightConfig())
    except DeviceError as error:
        pytest.skip(str(error))


@pytest.mark.peers
def test_the_real_step_of_tiny_compiles_for_four_chips():
    library, plan = library_here(), tiny_plan()
    found = compile_step(plan, "train", config=plan.config, library=library)
    assert found.fits
    assert found.memory.arguments >= found.held["frozen"]
    assert not found.costs.custom_calls or "tpu_custom_call" not in found.costs.custom_calls
    kinds = {(each.kind, each.axes) for each in found.costs.collectives}
    assert ("all-gather", ("fsdp",)) in kinds
    assert ("all-reduce", ("tensor",)) in kinds
    assert found.costs.flops > 2 * found.costs.flops_of_bodies_once


@pytest.mark.peers
def test_held_bytes_are_those_of_the_real_trees():
    from coderllm_jax.model.architecture import TINY

    library = library_here()
    for changes in ({}, {"lora__base": "int8"}, {"lora__enabled": False}):
        plan = tiny_plan(**changes)
        found = compile_step(plan, "evaluation", config=plan.config, library=library)
        reckoned = estimate(TINY, plan, supervised_fraction=0.5).held
        for name, value in reckoned._asdict().items():
            assert found.held[name] == pytest.approx(value, abs=128), name


@pytest.mark.peers
def test_attention_is_splash_where_heads_are_whole_vectors():
    """270M for four chips: the kernels compile for TPUs, rows and all, in both directions."""
    library = library_here()
    plan = tiny_plan(
        model_name="gemma3_270m",
        data__sequence_length=512,
        mesh__data=2,
        mesh__fsdp=2,
        mesh__tensor=1,
    )
    found = compile_step(plan, "train", config=plan.config, library=library)
    assert found.description["attention"] == "splash"
    assert "tpu_custom_call" in found.costs.custom_calls
