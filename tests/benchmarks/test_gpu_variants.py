"""The climb over variants, the sums of a trace, and which cut counts as the best."""

from __future__ import annotations

import io
import json
import sys

import pytest

from benchmarks import gpu_attention, gpu_cells, gpu_ours
from benchmarks.gpu_attention import KERNELS, best_cuts
from benchmarks.gpu_cells import Cell, Job
from benchmarks.gpu_kernels import Event, kernel_seconds, summarize
from benchmarks.gpu_variants import BASE, CUTS, VARIANTS, Choice, Variant, climb, head, xla
from coderllm_jax.model.fused_attention import Blocks


def test_changes_are_joined():
    one = Choice({"a": 1, "head": {"x": 1}}, ("--p",))
    both = one.with_change(Choice({"a": 2, "head": {"y": 2}}, ("--q",)))
    assert both == Choice({"a": 2, "head": {"x": 1, "y": 2}}, ("--p", "--q"))
    assert one == Choice({"a": 1, "head": {"x": 1}}, ("--p",))


def test_what_is_faster_stays_and_what_fails_goes():
    seconds = {"faster": 0.9, "not worth it": 0.895, "fails": None, "faster still": 0.8}
    changes = {name: xla(f"--{name}") for name in seconds}
    tried = []

    def measure(variant, choice):
        tried.append(choice.xla_flags)
        return seconds[variant.name]

    variants = [Variant(name, change) for name, change in changes.items()]
    best, best_s = climb(Choice({}), variants, measure, base_s=1.0)
    assert best.xla_flags == ("--faster", "--faster still")
    assert best_s == 0.8
    # Each was tried on top of what had stayed.
    assert tried[2] == ("--faster", "--fails")


def test_without_a_base_the_first_that_runs_is_the_best():
    variants = [Variant("no", head(tokens_per_chunk=1)), Variant("yes", head(tokens_per_chunk=2))]
    best, _ = climb(
        Choice({}),
        variants,
        lambda variant, _: 1.0 if variant.name == "yes" else None,
        base_s=None,
    )
    assert best.options == {"head": {"tokens_per_chunk": 2}}


def test_every_variant_differs_from_the_base():
    assert len({variant.name for variant in VARIANTS}) == len(VARIANTS)
    assert all(BASE.with_change(variant.change) != BASE for variant in VARIANTS)


def test_the_first_cut_of_each_kernel_is_the_default():
    assert tuple(CUTS) == KERNELS == Blocks._fields
    assert [list(cut) for cut in Blocks()] == [CUTS[kernel][0] for kernel in KERNELS]


def test_the_best_cuts_are_the_fastest_that_ran():
    seconds = {kernel: [[[1], 2.0], [[2], "ValueError"], [[3], 1.0]] for kernel in KERNELS}
    assert best_cuts(seconds) == [[3]] * 3
    seconds["forward"] = [[[1], "ValueError"]]
    assert best_cuts(seconds) == []


def test_an_error_beyond_rounding_is_told():
    import numpy as np

    exact = [np.ones(4), np.ones(4)]
    assert gpu_attention._beyond_rounding([np.ones(4), np.ones(4) * 1.001], exact) == 0
    assert gpu_attention._beyond_rounding([np.ones(4), np.ones(4) * 2], exact) == 1
    spoiled = gpu_attention._beyond_rounding([np.full(4, np.nan), np.ones(4)], exact)
    assert spoiled != 0


def test_sums_of_a_trace_by_hand():
    """a and c run side by side from 5 to 10: busy for 25 of 35 nanoseconds."""
    events = [
        Event("a", "x.1", 0, 10),
        Event("c", "y", 5, 10),
        Event("a", "x.1", 25, 5),
        Event("b", "z", 30, 5),
    ]
    found = summarize(events)
    assert found["span_s"] == pytest.approx(35e-9)
    assert found["busy_s"] == pytest.approx(25e-9)
    assert [(each["kernel"], each["runs"]) for each in found["kernels"]] == [
        ("a", 2),
        ("c", 1),
        ("b", 1),
    ]
    assert found["kernels"][0]["seconds"] == pytest.approx(15e-9)
    assert summarize([])["kernels"] == []


def test_a_real_trace_is_read(tmp_path):
    import jax
    import jax.numpy as jnp

    product = jax.jit(lambda x: jnp.tanh(x @ x))
    x = jnp.ones((64, 64))
    product(x).block_until_ready()
    with jax.profiler.trace(str(tmp_path)):
        product(x).block_until_ready()
    found = kernel_seconds(tmp_path, plane="/host:CPU", line="")
    assert found["kernels"]
    assert any(each["op"] for each in found["kernels"])
    assert kernel_seconds(tmp_path)["kernels"] == []  # no GPU took part
    with pytest.raises(FileNotFoundError, match="no trace"):
        kernel_seconds(tmp_path / "nothing")


@pytest.fixture
def job(tmp_path):
    return Job(Cell("small", 2, 128), {"remat": "none"}, "cpu", 4, 1, 1.0, str(tmp_path / "out"))


def test_an_arm_learns_its_cell_options_and_flags_when_it_is_let_go(job, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--old")
    monkeypatch.setattr(sys, "argv", ["arm", json.dumps(job._asdict())])
    orders = {"cell": ["1b", 1, 8192], "options": {"remat": "block"}, "xla_flags": "--new"}
    for line, wanted in (
        (orders, (Cell("1b", 1, 8192), {"remat": "block"}, "--new")),
        ({}, (job.cell, job.options, "")),
    ):
        seen = []

        def measure(job, seen=seen):
            seen.append((job.cell, job.options, gpu_cells.os.environ["XLA_FLAGS"]))
            return {}

        monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(line) + "\n"))
        gpu_cells.run_arm(lambda job: None, measure)
        assert seen == [wanted]
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    gpu_cells.run_arm(lambda job: None, lambda job: pytest.fail("nobody said go"))


def test_what_is_tried_reaches_the_step(job, monkeypatch):
    from coderllm_jax.model import fused_attention
    from coderllm_jax.model.sharding import make_mesh
    from coderllm_jax.training import step

    # Put back afterwards.
    monkeypatch.setattr(step, "HeadOptions", step.HeadOptions)
    monkeypatch.setattr(fused_attention, "BLOCKS", fused_attention.BLOCKS)
    cuts = [[16, 16, 4, 1], [32, 16, 4, 1], [64, 16, 4, 1]]
    options = {"attention": "fused", "blocks": cuts, "head": {"vocabulary_block": 77}}
    gpu_ours.set_what_no_run_can(options)
    config = gpu_ours.training_config(job._replace(options={**options, "profile": True}))
    mesh = make_mesh(config.mesh)
    recipe = step._recipe(config, gpu_cells.MODELS["small"], mesh=mesh)
    assert recipe.forward.attention == "fused"
    assert (recipe.head.vocabulary_block, recipe.head.tokens_per_chunk) == (77, 512)
    assert [list(cut) for cut in fused_attention.BLOCKS] == cuts
