"""Plans, what a chip holds of them, and which are chosen: by hand where hands can."""

from __future__ import annotations

import dataclasses

import pytest

from coderllm_jax.config.preflight import PreflightConfig
from coderllm_jax.errors import ConfigError
from coderllm_jax.model.architecture import TINY
from coderllm_jax.preflight.catalogue import find_architecture
from coderllm_jax.preflight.chips import parse_topology
from coderllm_jax.preflight.estimate import estimate, model_flops, visited_pairs
from coderllm_jax.preflight.plan import Mesh, Plan, meshes, plans, replace_options
from coderllm_jax.preflight.roofline import Bound, mfu, tokens_per_day
from coderllm_jax.preflight.screen import Screened, find_remedies, screen
from coderllm_jax.preflight.sharing import block_bytes, held_bytes, sent_block_bytes

EIGHT = parse_topology("v5e:2x4")


def a_config(**changes):
    return replace_options(PreflightConfig(), {"model_name": "tiny", **changes})


def a_plan(mesh=(2, 2, 2), slice_=EIGHT, **changes):
    data, fsdp, tensor = mesh
    mesh_options = {"mesh__data": data, "mesh__fsdp": fsdp, "mesh__tensor": tensor}
    return Plan(a_config(**mesh_options, **changes), slice_)


def test_every_mesh_of_a_number_of_chips_is_there_once():
    found = list(meshes(8))
    assert len(found) == len(set(found)) == 10  # ordered triples whose product is 8
    assert all(mesh.size == 8 for mesh in found)
    assert list(meshes(1)) == [Mesh(1, 1, 1)]


def test_meshes_that_heads_or_width_do_not_divide_are_left_out():
    found = plans(a_config(), EIGHT, TINY)  # 4 heads, width 32
    assert {plan.mesh for plan in found} == {mesh for mesh in meshes(8) if mesh.tensor <= 4}


def test_so_are_meshes_that_feed_forward_or_width_do_not_divide():
    odd = dataclasses.replace(TINY, feed_forward=66, width=36)
    found = {plan.mesh for plan in plans(a_config(), EIGHT, odd)}
    assert found == {mesh for mesh in meshes(8) if mesh.tensor <= 2 and mesh.fsdp <= 4}


def test_batches_are_whole_rows_for_every_part_and_double_up_to_the_largest():
    def batches(largest):
        config = a_config(
            mesh__fsdp=4, optimizer__accumulation_steps=3, screen__max_batch_size=largest
        )
        return [plan.config.batch_size for plan in plans(config, EIGHT, TINY)]

    assert batches(100) == [24, 48, 96]  # 2 x 4 chips, three micro-batches
    assert batches(10) == [24]


def test_a_mesh_or_a_batch_that_was_set_is_kept():
    config = a_config(mesh__fsdp=4).with_origins(
        {info.path: "default" for info in PreflightConfig.options()}
        | {"batch_size": "card.py", "mesh.fsdp": "card.py"}
    )
    [plan] = plans(config, EIGHT, TINY)
    assert plan.mesh == Mesh(2, 4, 1)
    assert plan.config.batch_size == 4
    assert plan.rows == 1  # four rows on eight parts: half of them are empty


def test_a_mesh_of_another_size_is_refused_with_the_right_one():
    with pytest.raises(ConfigError, match=r"mesh 2x8x1 .* 16 devices and v5e:2x4 has 8 chips"):
        plans(a_config(mesh__data=2, mesh__fsdp=8), EIGHT, TINY)


def test_what_a_chip_holds_is_the_trees_bytes_over_its_parts():
    plan = a_plan(mesh=(2, 2, 2), batch_size=8)
    held = held_bytes(TINY, plan)
    # bfloat16 kernels over fsdp and tensor, norms whole in float32, all of it by hand.
    kernels = 3 * (4 * 32 * 8 * 2 + 2 * 2 * 32 * 8 + 3 * 32 * 64)  # q, out; k, v; three of ffw
    norms = 3 * (4 * 32 + 2 * 8) + 32
    assert held.frozen == (kernels + 512 * 32) * 2 / 4 + norms * 4
    # Query's A [3, 4, 32, 8] over tensor and fsdp, B [3, 8, 8] whole; value's over both, too.
    trained = (3 * 4 * 32 * 8 + 3 * 2 * 32 * 8) / 4 + 2 * 3 * 8 * 8
    assert held.trained == trained * 4
    assert held.optimizer == pytest.approx(2 * trained * 4, abs=64)  # and a count
    assert held.batch == 5 * 4 * 2 * 256
    # All micro-batches of a step are there at once.
    halves = a_plan(mesh=(2, 2, 2), batch_size=8, optimizer__accumulation_steps=2)
    assert held_bytes(TINY, halves).batch == held.batch


def test_a_moment_that_is_no_variables_shape_is_whole_on_every_chip():
    """Adafactor keeps rows' and columns' sums of what has two sides of 128 or more."""
    wide = dataclasses.replace(TINY, width=128, feed_forward=256)
    options = {"lora__enabled": False, "optimizer__name": "adafactor"}
    alone, split = (
        held_bytes(wide, a_plan(mesh, **options)).optimizer for mesh in ((8, 1, 1), (1, 8, 1))
    )
    kernels_of_heads = 3 * (4 * 128 * 8 * 2 + 2 * 2 * 128 * 8)
    assert alone - split == 4 * kernels_of_heads * 7 / 8


def test_heads_that_do_not_divide_are_copies():
    few = dataclasses.replace(TINY, num_kv_heads=1)
    one, four = (block_bytes(few, a_plan(mesh=(8 // t, 1, t))) for t in (1, 4))
    kv = 2 * 32 * 8 * 2
    assert four == (one - kv) / 4 + kv


def test_codes_travel_and_whole_kernels_are_multiplied():
    plain, rounded = a_plan(), a_plan(lora__base="int8")
    assert block_bytes(TINY, plain) == block_bytes(TINY, rounded)
    assert sent_block_bytes(TINY, plain) == block_bytes(TINY, plain)
    assert sent_block_bytes(TINY, rounded) < 0.6 * sent_block_bytes(TINY, plain)


def test_what_is_trained_travels_in_float32_and_a_kernel_kept_in_8_bits_as_such():
    plain, full = a_plan(), a_plan(lora__enabled=False)
    assert sent_block_bytes(TINY, full) == 2 * sent_block_bytes(TINY, plain)
    all_four, kept = (
        sent_block_bytes(TINY, a_plan((8, 1, 1), lora__base="nf4", lora__base_int8=names))
        for names in ((), ("value",))
    )
    assert kept - all_four == 2 * 32 * 8 / 2  # half a byte a weight more


def test_full_fine_tuning_freezes_nothing_and_holds_three_times_as_much():
    held = held_bytes(TINY, a_plan(mesh=(8, 1, 1), lora__enabled=False))
    assert held.frozen == 0
    assert held.optimizer == pytest.approx(2 * held.trained, abs=64)


def test_the_models_work_is_four_a_weight_and_position():
    plan = a_plan(batch_size=8)
    kernels = 3 * (4 * 32 * 8 * 2 + 2 * 2 * 32 * 8 + 3 * 32 * 64)
    expected = 4 * 8 * 256 * (kernels + 0.5 * 512 * 32)
    assert model_flops(TINY, plan, supervised_fraction=0.5) == expected


def test_work_doubles_with_layers_and_rows_and_halves_with_chips():
    big = find_architecture("gemma3_4b")
    deep = dataclasses.replace(big, num_layers=2 * big.num_layers)

    def found(architecture, mesh, batch):
        # Dense: splash's work hangs on how many of the layers are global.
        changes = {"data__sequence_length": 2048, "step__attention": "dense"}
        plan = a_plan(mesh=mesh, batch_size=batch, **changes)
        return estimate(architecture, plan, supervised_fraction=0.0)

    once = found(big, (8, 1, 1), 8)
    assert found(deep, (8, 1, 1), 8).flops == pytest.approx(2 * once.flops)
    assert found(big, (8, 1, 1), 16).flops == pytest.approx(2 * once.flops)
    assert found(big, (4, 1, 2), 8).flops == pytest.approx(once.flops)
    assert found(big, (8, 1, 1), 8).kept == 2048 * 34 * 2560 * 2


def test_only_what_is_split_crosses_links():
    plans_ = {mesh: a_plan(mesh=mesh, batch_size=8) for mesh in ((8, 1, 1), (1, 8, 1), (1, 1, 8))}
    found = {
        mesh: {each.kind + "/" + "+".join(each.axes) for each in _collectives(plan)}
        for mesh, plan in plans_.items()
    }
    assert found[8, 1, 1] == {"all-reduce/data+fsdp"}
    assert found[1, 8, 1] == {"all-gather/fsdp", "all-reduce/data+fsdp"}
    assert found[1, 1, 8] == {"all-reduce/tensor"}


@pytest.mark.parametrize("accumulation", [1, 2])
def test_gradients_are_summed_whole_once_a_micro_batch(accumulation):
    steps = {"batch_size": 8, "optimizer__accumulation_steps": accumulation}
    kernels = 3 * (4 * 32 * 8 * 2 + 2 * 2 * 32 * 8 + 3 * 32 * 64)
    norms = 3 * (4 * 32 + 2 * 8) + 32
    # An all-reduce among four; bfloat16, but the embedding's; tensor has half of all but norms.
    full = 2 * 3 / 4 * (2 * (kernels / 2 + norms) + 4 * 512 * 32 / 2)
    assert _summed(a_plan(lora__enabled=False, **steps)) == accumulation * full
    # Among eight, the adapters of query and value: A, which fsdp cuts, and B.
    lora = 2 * 7 / 8 * 2 * (3 * 4 * 32 * 8 + 3 * 2 * 32 * 8 + 2 * 3 * 8 * 8)
    assert _summed(a_plan(mesh=(1, 8, 1), **steps)) == accumulation * lora
    assert _summed(a_plan(mesh=(8, 1, 1), **steps)) == accumulation * lora


def test_a_trained_embedding_has_whole_gradients_and_a_frozen_one_has_none():
    whole = 4 * 512 * 32 / 2  # float32, over tensor
    for changes, expected in (({"lora__enabled": False}, 4 * whole), ({}, 0)):
        plan = a_plan(batch_size=8, **changes)
        found = estimate(TINY, plan, supervised_fraction=0.5)
        assert found.gradients == held_bytes(TINY, plan).trained + expected


def _summed(plan):
    [found] = [each for each in _collectives(plan) if each.axes == ("data", "fsdp")]
    return found.bytes


def _collectives(plan):
    return estimate(TINY, plan, supervised_fraction=0.5).collectives


def test_27b_fits_no_v5e_of_eight_and_is_told_what_would_help():
    config = a_config(model_name="gemma3_27b", data__sequence_length=2048)
    big = find_architecture("gemma3_27b")
    screened = screen(config, parse_topology("v5e:2x2"), big)
    assert not screened[0].fits
    remedies = find_remedies(config, screened[0], big)
    assert remedies
    assert all(remedy.screened.fits for remedy in remedies)
    assert any(remedy.words.startswith("--topology=v5e:") for remedy in remedies)
    assert any(remedy.words.startswith("--topology=v6e:") for remedy in remedies)


def test_a_mesh_that_was_set_need_not_divide_the_slices_that_would_help():
    config = a_config(model_name="gemma3_27b", batch_size=8, mesh__fsdp=8, lora__enabled=False)
    big = find_architecture("gemma3_27b")
    remedies = find_remedies(config, screen(config, EIGHT, big)[0], big)
    helpful = [each for each in remedies if each.words.startswith("--topology=v5p:")]
    assert helpful
    assert all(" and mesh.data=" in each.words for each in helpful)


def remedies_of(plan, architecture, *, shortage=float("-inf")):
    """What would help; by default everything that is tried."""
    nearest = Screened(plan, estimate(architecture, plan, supervised_fraction=0.5))
    searched = plan.changed(mesh__data=-1, mesh__fsdp=1, mesh__tensor=1).config
    return {
        remedy.words: remedy.screened.spare_bytes
        for remedy in find_remedies(searched, nearest, architecture, shortage=shortage)
    }


def test_every_option_that_needs_less_is_tried_alone_and_one_slice_of_each_chip():
    plan = a_plan((2, 2, 2), batch_size=24, data__sequence_length=1024, step__remat="none")
    found = remedies_of(plan, TINY)
    for words in (
        "step.remat=block",
        "optimizer.accumulation_steps=6",
        "batch_size=4",
        "mesh.fsdp=4",
        "data.sequence_length=512",
        "data.sequence_length=256",
        "lora.base=int8",
        "lora.base=nf4",
        "--topology=v5e:4x4",
        "--topology=v6e:2x4",
        "--topology=v5p:2x2x1",
    ):
        assert len([each for each in found if words in each]) == 1, words
    assert len(found) == 11


def test_changes_that_do_not_divide_are_not_told():
    # Three rows a chip, some of them empty: 40 are no three micro-batches, nor 16 parts.
    narrow = dataclasses.replace(TINY, width=40)
    plan = a_plan((2, 8, 1), batch_size=40, lora__base="nf4")
    found = remedies_of(plan, narrow)
    assert [words for words in found if not words.startswith("--topology")] == ["batch_size=13"]


def test_two_changes_are_told_where_one_is_not_enough_each_pair_once():
    twelve = find_architecture("gemma3_12b")
    options = {"data__sequence_length": 2048, "batch_size": 2}
    plan = a_plan((1, 1, 1), parse_topology("v5e:1x1"), **options)
    alone = remedies_of(plan, twelve)
    best = max(spare for words, spare in alone.items() if not words.startswith("--"))
    found = remedies_of(plan, twelve, shortage=best + 1)
    pairs = [frozenset(words.split(" and ")) for words in found if not words.startswith("--")]
    assert len(set(pairs)) == len(pairs)
    assert frozenset(("batch_size=1", "lora.base=nf4")) in pairs
    assert all(len({word.partition("=")[0] for word in pair}) == 2 for pair in pairs)


def test_an_adapter_on_a_rounded_base_may_be_what_helps_full_fine_tuning():
    twelve = find_architecture("gemma3_12b")
    options = {"data__sequence_length": 2048, "batch_size": 1, "lora__enabled": False}
    plan = a_plan((1, 1, 1), parse_topology("v5e:1x1"), **options)
    found = remedies_of(plan, twelve, shortage=0.0)
    assert next(iter(found)) == "lora.enabled=True and lora.base=nf4"


def test_remedies_leave_as_much_as_the_compiler_missed():
    config = a_config(model_name="gemma3_12b", data__sequence_length=2048)
    twelve = find_architecture("gemma3_12b")
    nearest = screen(config, parse_topology("v5e:2x2"), twelve)[0]
    missing = 4 * 2**30
    for remedy in find_remedies(config, nearest, twelve, shortage=missing):
        assert remedy.screened.spare_bytes >= missing


@pytest.mark.parametrize(
    ("changes", "numbers"),
    [({}, {"global_head_size": 512}), ({"step__scan_blocks": "off"}, {})],
    ids=["Gemma 4", "unrolled blocks"],
)
def test_a_base_that_training_refuses_is_no_remedy(changes, numbers):
    config = a_config(model_name="gemma3_27b", data__sequence_length=2048)
    big = find_architecture("gemma3_27b")

    def words(config, architecture):
        nearest = screen(config, parse_topology("v5e:2x2"), architecture)[0]
        return " ".join(each.words for each in find_remedies(config, nearest, architecture))

    assert "lora.base=nf4" in words(config, big)
    refused = words(replace_options(config, changes), dataclasses.replace(big, **numbers))
    assert refused
    assert "lora.base" not in refused


def test_plans_that_fit_come_first_and_a_mesh_once_before_its_other_batches():
    config = a_config(model_name="gemma3_4b", data__sequence_length=2048)
    found = screen(config, EIGHT, find_architecture("gemma3_4b"))
    fits = [each.fits for each in found]
    assert fits == sorted(fits, reverse=True)
    assert fits[0]
    first = found[:3]
    assert len({each.plan.mesh for each in first}) == 3


def test_the_smallest_batch_with_nearly_the_best_rate_stands_for_its_mesh():
    least = 0.95
    config = a_config(model_name="gemma3_4b", data__sequence_length=2048, screen__least_share=least)
    found = screen(config, EIGHT, find_architecture("gemma3_4b"))

    def position_s(each):
        bound = each.estimate.bound
        return (bound.at_best_s + bound.in_turn_s) / 2 / (each.plan.config.batch_size * 2048)

    fitting = [each for each in found if each.fits]
    good = [each for each in fitting if min(map(position_s, fitting)) / position_s(each) >= least]
    assert len({each.plan.mesh for each in good}) < len(good)
    smallest = {}
    for each in sorted(good, key=lambda each: each.plan.config.batch_size):
        smallest.setdefault(each.plan.mesh, each)
    first, rest = fitting[: len(smallest)], fitting[len(smallest) :]
    by_batch = [(each.plan.config.batch_size, position_s(each)) for each in first]
    assert set(first) == set(smallest.values())
    assert by_batch == sorted(by_batch)
    assert list(map(position_s, rest)) == sorted(map(position_s, rest))
    missing = [each.spare_bytes for each in found[len(fitting) :]]
    assert missing == sorted(missing, reverse=True)


def test_an_eighth_of_the_memory_is_left_for_what_formulas_leave_out():
    found = estimate(TINY, a_plan(), supervised_fraction=0.5)
    limit = EIGHT.chip.memory_bytes

    def needing(share):
        return found._replace(kept=found.kept + share * limit - found.memory_bytes)

    assert Screened(a_plan(), needing(0.87)).fits
    assert not Screened(a_plan(), needing(0.89)).fits


def test_a_bound_is_its_longest_part_and_in_turn_their_sum():
    bound = Bound(0.2, 0.5, 0.1)
    assert (bound.at_best_s, bound.binds) == (0.5, "memory")
    assert bound.in_turn_s == pytest.approx(0.8)
    assert mfu(EIGHT, model_flops=8 * 197e12, step_s=2.0) == pytest.approx(0.5)
    assert tokens_per_day(1000, 0.5) == 1000 * 86_400 * 2


def test_options_of_sections_are_replaced_by_path():
    changed = replace_options(PreflightConfig(), {"batch_size": 9, "lora__base": "nf4"})
    assert (changed.batch_size, changed.lora.base, changed.lora.rank) == (9, "nf4", 8)


def test_splash_visits_the_blocks_that_masks_leave():
    block = 512 * 512
    assert visited_pairs(2048, None) == (1 + 2 + 3 + 4) * block
    # A query at the head of block 2 sees back to key 513 with 512, and to key 1 with 1,024.
    assert visited_pairs(2048, 512) == (1 + 2 + 2 + 2) * block
    assert visited_pairs(2048, 1024) == (1 + 2 + 3 + 3) * block
    assert visited_pairs(256, None) == 256 * 256


def test_splash_needs_no_room_for_scores_and_dense_does():
    big = find_architecture("gemma3_1b")
    found = {
        attention: estimate(
            big,
            a_plan(
                mesh=(8, 1, 1),
                batch_size=8,
                data__sequence_length=8192,
                step__attention=attention,
            ),
            supervised_fraction=0.5,
        )
        for attention in ("auto", "dense")
    }
    scores = 4 * 8192 * 8192 * 4 * 4  # heads, row, row, float32, four of them
    assert found["dense"].working == scores
    assert found["auto"].working < scores / 4
    assert found["auto"].attention_flops < found["dense"].attention_flops
