"""The step: what is optimized does not hang on packing, accumulation or padding."""

from __future__ import annotations

import dataclasses
import types

import jax
import numpy as np
import pytest

from coderllm_jax.config import TrainingConfig
from coderllm_jax.errors import ConfigError
from coderllm_jax.model.architecture import TINY
from coderllm_jax.model.load import load_model
from coderllm_jax.training import step as step_module
from coderllm_jax.training.control import Control
from coderllm_jax.training.guard import REASONS
from coderllm_jax.training.step import build_program
from tests.model.tiny_model import pack, random_sequences

LENGTH = 32


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_model("tiny", dtype="float32", cache_dir=str(tmp_path_factory.mktemp("cache")))


def build(model, **changes):
    config = TrainingConfig.create_default()
    config.model_name = "tiny"
    config.step.precision = "float32"
    config.optimizer.schedule = "constant"
    config.optimizer.warmup_fraction = 0.0
    config.data.sequence_length = LENGTH
    config.update_from_flattened_dict(changes)
    return build_program(TrainingConfig.from_config_dict(config), model, num_steps=10)


def step_once(program, batch):
    state, metrics = program.train_step(program.init_state(), program.put_batch(batch))
    return jax.device_get(state), jax.device_get(metrics)


SEQUENCES = random_sequences([9, 14, 7, 11, 5, 12])
PACKED = pack([SEQUENCES[:3], SEQUENCES[3:], [], []], length=LENGTH, supervised_from=3)
APART = pack([[each] for each in SEQUENCES] + [[], []], length=LENGTH, supervised_from=3)


def assert_same_trees(one, other, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), one, other)


def test_packed_loss_and_step_equal_unpacked(model):
    packed = step_once(build(model), PACKED)
    apart = step_once(build(model, batch_size=8), APART)
    assert_same_trees(packed[1], apart[1], rtol=2e-5)
    assert packed[1].loss_tokens == sum(len(each) - 3 for each in SEQUENCES)
    assert packed[1].tokens == sum(len(each) - 1 for each in SEQUENCES)
    # Adam's first step is the gradient's sign: tiny gradients may round to either.
    assert_same_trees(packed[0].opt_state, apart[0].opt_state, atol=1e-6)


def test_accumulated_step_equals_the_whole_batch(model):
    """Micro-batches of very unequal token counts, so a mean of means would show."""
    rows = pack([[SEQUENCES[0]], SEQUENCES[1:3], [], SEQUENCES[3:]], length=LENGTH)
    whole = step_once(build(model), rows)
    for parts in (2, 4):
        found = step_once(build(model, **{"optimizer.accumulation_steps": parts}), rows)
        assert_same_trees(found[1], whole[1], rtol=2e-5)
        assert_same_trees(found[0].opt_state, whole[0].opt_state, atol=1e-6)


def test_only_adapters_move(model):
    program = build(model)
    before = jax.device_get(program.frozen)
    start = jax.device_get(program.init_state())
    state, _ = step_once(program, PACKED)
    assert_same_trees(jax.device_get(program.frozen), before, atol=0, rtol=0)
    assert set(state.trainable) == {"query", "value"}
    for name in state.trainable:
        # A's gradient passes through B, which starts at zero: only B moves at first.
        assert not np.array_equal(state.trainable[name]["b"], start.trainable[name]["b"])


def test_full_fine_tuning_is_the_same_step_with_every_weight(model):
    program = build(model, **{"lora.enabled": False})
    state = program.init_state()  # gives the loaded weights away: there is no second call
    start = jax.device_get(state)
    state, metrics = jax.device_get(program.train_step(state, program.put_batch(PACKED)))
    moved = jax.tree.map(lambda a, b: not np.array_equal(a, b), state.trainable, start.trainable)
    assert all(jax.tree.leaves(moved))
    lora = step_once(build(model), PACKED)[1]
    np.testing.assert_allclose(metrics.loss, lora.loss, rtol=1e-6)


def test_a_batch_of_padding_changes_nothing(model):
    program = build(model)
    start = jax.device_get(program.init_state())
    state, metrics = step_once(program, pack([[], [], [], []], length=LENGTH))
    assert_same_trees(state.trainable, start.trainable, atol=0, rtol=0)
    assert metrics.loss == metrics.tokens == metrics.loss_tokens == 0


def test_a_gradient_that_is_not_finite_changes_nothing_but_the_step(model):
    program = build(model)
    state, _ = program.train_step(program.init_state(), program.put_batch(PACKED))
    before = jax.device_get(state)
    poisoned = PACKED._replace(weights=np.where(PACKED.weights > 0, np.nan, 0).astype(np.float32))
    state, metrics = program.train_step(state, program.put_batch(poisoned))
    assert REASONS[int(metrics.verdict)] == "not_finite"
    assert int(state.step) == 2
    assert_same_trees(state._replace(step=before.step), before, atol=0, rtol=0)
    _, metrics = program.train_step(state, program.put_batch(PACKED))
    assert REASONS[int(metrics.verdict)] == "accepted"


def test_a_scaled_learning_rate_scales_the_step(model):
    def moved(scale):
        program = build(model, **{"optimizer.name": "sgd", "optimizer.clip_norm": 0.0})
        start = jax.device_get(program.init_state().trainable)
        control = program.put_control(Control(learning_rate_scale=scale))
        state, metrics = program.train_step(
            program.init_state(), program.put_batch(PACKED), control
        )
        delta = jax.tree.map(lambda a, b: np.asarray(a) - b, state.trainable, start)
        return delta, float(metrics.learning_rate)

    (whole, rate), (half, half_rate) = moved(1.0), moved(0.5)
    assert half_rate == rate / 2
    assert_same_trees(half, jax.tree.map(lambda x: x / 2, whole), atol=1e-8)
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(whole)) > 1e-5


def test_the_loss_falls(model):
    program = build(model, learning_rate=3e-2)
    state, batch = program.init_state(), program.put_batch(PACKED)
    losses = []
    for _ in range(30):
        state, metrics = program.train_step(state, batch)
        losses.append(float(metrics.loss))
    assert losses[-1] < 0.75 * losses[0]
    sums = program.eval_step(state, batch)
    assert float(sums.loss / sums.weight) < losses[-1]


def test_one_trace_for_all_batches_of_a_shape(model, monkeypatch):
    traces = []
    original = step_module.hidden_states
    monkeypatch.setattr(
        step_module,
        "hidden_states",
        lambda *args, **options: traces.append(1) or original(*args, **options),
    )
    program = build(model)
    state = program.init_state()
    for row in range(3):
        batch = program.put_batch(pack([SEQUENCES[row:], [], [], []][:4], length=LENGTH * 2))
        state, _ = program.train_step(state, batch)
    assert len(traces) == 1


def test_dropout_differs_from_step_to_step_and_repeats_with_the_run(model):
    def gradient_norms(dropout):
        program = build(model, **{"learning_rate": 1e-12, "lora.dropout": dropout})
        state, batch, norms = program.init_state(), program.put_batch(PACKED), []
        for _ in range(2):
            state, metrics = program.train_step(state, batch)
            norms.append(float(metrics.grad_norm))
        return norms

    first, second = gradient_norms(0.5)
    assert abs(first - second) > 1e-3 * first
    assert gradient_norms(0.5) == [first, second]
    still, unmoved = gradient_norms(0.0)
    assert abs(still - unmoved) < 1e-6 * still


def test_a_mesh_that_does_not_fit_says_so(model):
    with pytest.raises(ConfigError, match=r"mesh 3x1x1 .* make the product 1"):
        build(model, **{"mesh.data": 3})


# Heads of 16: the smallest that the kernels take; float32 operands they do not.
FUSIBLE = dataclasses.replace(TINY, num_heads=2, head_size=16)


def choices(*, config=None, mesh=None, platform="gpu", limit=10**12, processes=1, monkeypatch):
    """The recipe's forward options as a device of that kind would get them."""
    device = types.SimpleNamespace(
        platform=platform,
        device_kind="NVIDIA H200",
        compute_capability="9.0",
        memory_stats=lambda: {"bytes_limit": limit},
    )
    shape = {"data": 1, "fsdp": 1, "tensor": 1, **(mesh or {})}
    devices = np.full(tuple(shape.values()), device)
    here = types.SimpleNamespace(devices=devices, shape=shape, size=devices.size)
    monkeypatch.setattr(jax, "process_count", lambda: processes)
    changed = TrainingConfig.create_default()
    changed.update_from_flattened_dict(config or {})
    recipe = step_module._recipe(TrainingConfig.from_config_dict(changed), FUSIBLE, mesh=here)
    return recipe.forward.attention, recipe.forward.remat


@pytest.mark.parametrize(
    ("where", "wanted"),
    [
        ({}, ("fused", "projections")),
        ({"limit": 1000}, ("fused", "block")),
        ({"limit": None}, ("fused", "block")),
        ({"processes": 2}, ("fused", "block")),
        ({"mesh": {"data": 2}}, ("dense", "projections")),
        ({"config": {"step.precision": "float32"}}, ("dense", "projections")),
        ({"config": {"data.sequence_length": 264}}, ("dense", "projections")),
        ({"config": {"step.attention": "dense"}}, ("dense", "projections")),
        ({"config": {"step.remat": "none"}}, ("fused", "none")),
        ({"config": {"step.attention": "fused"}, "mesh": {"tensor": 2}}, ("dense", "projections")),
        ({"platform": "tpu"}, ("dense", "block")),
        ({"platform": "cpu"}, ("dense", "projections")),
    ],
)
def test_what_is_chosen_follows_the_device(where, wanted, monkeypatch):
    assert choices(**where, monkeypatch=monkeypatch) == wanted


def test_memory_is_counted_for_a_device_and_a_micro_batch(monkeypatch):
    seen = []
    monkeypatch.setattr(
        step_module, "projections_fit", lambda model, work, device: seen.append(work) or True
    )
    changes = {"batch_size": 16, "optimizer.accumulation_steps": 2, "lora.rank": 3}
    mesh = {"data": 2, "fsdp": 2, "tensor": 3}
    choices(config=changes, mesh=mesh, monkeypatch=monkeypatch)
    choices(config={"lora.enabled": False}, monkeypatch=monkeypatch)
    one, other = seen
    assert (one.rows, one.length, one.weight_parts) == (2, 256, 6)
    assert (one.rank, one.adapted, one.attention) == (3, ("query", "value"), "dense")
    assert (other.rows, other.adapted, other.attention) == (4, None, "fused")


def test_the_description_says_what_is_really_used(model):
    described = build(model, **{"step.attention": "fused"}).description
    assert described["attention"] == "dense"  # float32: the kernels do not apply
