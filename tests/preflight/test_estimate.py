"""A plan's memory, work and links by hand: a model of three layers, a row of 256."""

from __future__ import annotations

import dataclasses

import pytest

from coderllm_jax.model.architecture import TINY
from coderllm_jax.preflight.catalogue import find_architecture
from coderllm_jax.preflight.estimate import estimate, model_flops, visited_pairs
from tests.preflight.test_screen import a_plan

KERNELS = 3 * (4 * 32 * 8 * 2 + 2 * 2 * 32 * 8 + 3 * 32 * 64)  # q, out; k, v; three of ffw
EMBEDDING = 512 * 32
ADAPTERS = 3 * (4 * 32 * 8 + 2 * 32 * 8 + 2 * 8 * 8)  # q's and v's A by heads, their B
POSITIONS = 2 * 256
SCORES = POSITIONS * 256 * 4  # of a layer: for each head
ALONE = (1, 1, 1)


def reckoned(mesh=ALONE, *, architecture=TINY, supervised=0.5, **changes):
    """Two rows a chip in a micro-batch, dense attention."""
    rows = 2 * mesh[0] * mesh[1] * changes.get("optimizer__accumulation_steps", 1)
    changes = {"batch_size": rows, "step__attention": "dense"} | changes
    return estimate(architecture, a_plan(mesh=mesh, **changes), supervised_fraction=supervised)


# --- FLOPs ---------------------------------------------------------------------------------------


def flops(*, kernels, attention, head, adapters):
    """Two a multiplication; each as often as it is multiplied, the head by half of positions."""
    return (
        2 * POSITIONS * KERNELS * kernels
        + 2 * SCORES * 8 * 3 * attention
        + 2 * POSITIONS / 2 * EMBEDDING * head
        + 2 * POSITIONS * ADAPTERS * adapters
    )


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        # Forward, again for backward, and the inputs' gradient; the adapters' own. Attention is two
        # products forward and four backward.
        ({}, flops(kernels=3, attention=2 + 2 + 4, head=2, adapters=4)),
        ({"step__remat": "none"}, flops(kernels=2, attention=2 + 4, head=2, adapters=3)),
        # All weights owe their gradient.
        ({"lora__enabled": False}, flops(kernels=4, attention=2 + 2 + 4, head=4, adapters=0)),
    ],
)
def test_everything_counts_as_often_as_it_is_multiplied(changes, expected):
    assert reckoned(**changes).flops == expected


def test_tensor_splits_work_and_micro_batches_repeat_it():
    once = reckoned()
    assert reckoned((1, 1, 2)).flops == once.flops / 2
    thrice = reckoned(optimizer__accumulation_steps=3)
    assert thrice.flops == 3 * once.flops
    assert thrice.attention_flops == 3 * once.attention_flops


def test_a_model_that_is_trained_whole_owes_six_a_weight_and_position():
    plan = a_plan(mesh=ALONE, batch_size=2, lora__enabled=False)
    expected = 6 * POSITIONS * (KERNELS + 0.25 * EMBEDDING)
    assert model_flops(TINY, plan, supervised_fraction=0.25) == expected


def test_splash_visits_bands_in_local_layers_and_makes_scores_anew_backward():
    """Of 26 layers four are global. Forward runs twice; seven products backward."""
    plan = a_plan(mesh=ALONE, batch_size=3, data__sequence_length=2048)
    found = estimate(find_architecture("gemma3_1b"), plan, supervised_fraction=0.5)
    pairs = 4 * visited_pairs(2048, None) + 22 * visited_pairs(2048, 512)
    assert found.attention_flops == 2 * 3 * 4 * pairs * 256 * (2 + 2 + 7)


def test_a_window_that_ends_with_a_block_visits_none_before_it():
    """The query at 1,024 sees keys from 512 on with 513, and 511 with one more."""
    block = 512 * 512
    assert visited_pairs(2048, 513) == (1 + 2 + 2 + 2) * block
    assert visited_pairs(2048, 514) == (1 + 2 + 3 + 3) * block


# --- memory --------------------------------------------------------------------------------------


def test_without_recomputation_every_projections_result_is_kept():
    stream = POSITIONS * 3 * 32 * 2
    assert reckoned().kept == stream
    # Query and output 4 heads of 8, key and value 2 each; both halves of the feed-forward.
    results = 2 * 32 + (4 + 2 * 2) * 8 + 2 * 64
    projections = stream + POSITIONS * 3 * results * 2
    assert reckoned(step__remat="projections").kept == projections
    assert reckoned(step__remat="none").kept == projections + 3 * SCORES * 4
    # A quarter of the heads and of the feed-forward; two key heads do not divide: both are there.
    quarter = 2 * 32 + (1 + 2 * 2) * 8 + 2 * 16
    found = reckoned((1, 1, 4), step__remat="projections").kept
    assert found == stream + POSITIONS * 3 * quarter * 2


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 4 * SCORES * 4),
        ({"feed_forward": 4096}, POSITIONS * (3 * 4096 + 2 * 32) * 4),
        # Logits of a block of the vocabulary three times, hidden states carried and in float32.
        (
            {"vocabulary": 20_000},
            3 * POSITIONS * 16_384 * 4 + 2 * POSITIONS * 32 * (2 + 4),
        ),
    ],
)
def test_the_largest_of_attention_feed_forward_and_loss_is_the_room_to_work(changes, expected):
    assert reckoned(architecture=dataclasses.replace(TINY, **changes)).working == expected


def test_whole_kernels_need_room_where_they_are_sent_or_made_of_codes():
    two_layers = 2 * KERNELS / 3 * 2
    assert reckoned().gathered == 0
    assert reckoned((2, 1, 1)).gathered == 0
    assert reckoned(lora__base="nf4").gathered == two_layers
    assert reckoned((1, 2, 1)).gathered == two_layers + EMBEDDING * 2
    assert reckoned((1, 2, 2)).gathered == two_layers / 2 + EMBEDDING


def test_gradients_of_micro_batches_are_summed_beside_those_that_come():
    assert reckoned().gradients == ADAPTERS * 4
    assert reckoned(optimizer__accumulation_steps=2).gradients == 2 * ADAPTERS * 4


# --- the memory's door and links -----------------------------------------------------------------


def test_dense_scores_cross_the_memorys_door_and_splashs_never():
    wide = dataclasses.replace(TINY, head_size=128)
    dense, splash = (
        reckoned(architecture=wide, step__attention=each).bytes for each in ("dense", "auto")
    )
    assert dense - splash == 3 * SCORES * 4 * 12


def test_each_chunk_of_the_loss_reads_the_embedding_twice():
    half, whole = (
        reckoned(batch_size=16, supervised=supervised).bytes for supervised in (0.5, 1.0)
    )
    assert whole - half == 2 * EMBEDDING * 2 + 4 * 2048 * 512 * 4


def collectives(mesh, **changes):
    return {each.axes: each.bytes for each in reckoned(mesh, **changes).collectives}


def test_kernels_are_gathered_forward_and_again_and_others_parts_alone_enter():
    sent = 2 * KERNELS * 2 + 2 * EMBEDDING * 2
    assert collectives((1, 4, 1))["fsdp",] == sent * 3 / 4
    once = KERNELS * 2 + 2 * EMBEDDING * 2
    assert collectives((1, 4, 1), step__remat="none")["fsdp",] == once * 3 / 4
    # For each micro-batch.
    thrice = collectives((1, 4, 1), optimizer__accumulation_steps=3)
    assert thrice["fsdp",] == 3 * sent * 3 / 4


def test_hidden_states_are_summed_over_tensor_for_each_half_of_a_layer():
    hidden = POSITIONS * 32 * 2
    assert collectives((1, 1, 2))["tensor",] == 2 * 6 * 3 * hidden / 2
    assert collectives((1, 1, 2), step__remat="none")["tensor",] == 2 * 4 * 3 * hidden / 2


def test_gradients_are_summed_over_all_rows_in_the_carried_format():
    assert collectives((4, 1, 1))["data", "fsdp"] == 2 * ADAPTERS * 2 * 3 / 4
