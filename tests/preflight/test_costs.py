"""What a module costs, by hand first, then beside XLA's own count."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import pytest

from coderllm_jax.preflight.costs import chunk_trips, count_costs
from coderllm_jax.preflight.hlo import parse_module

MESH = {"data": 2, "fsdp": 4, "tensor": 1}
# Three turns of: a gather of weights, a product of 16 x 32 by 32 x 64; then a sum over all.
STEP = """HloModule jit_step

%add.1 (l.1: f32[], r.1: f32[]) -> f32[] {
  %l.1 = f32[] parameter(0)
  %r.1 = f32[] parameter(1)
  ROOT %s.1 = f32[] add(%l.1, %r.1)
}

%product.1 (x.2: bf16[16,32], w.2: bf16[32,64]) -> bf16[16,64] {
  %x.2 = bf16[16,32]{1,0} parameter(0)
  %w.2 = bf16[32,64]{1,0} parameter(1)
  ROOT %c.2 = bf16[16,64]{1,0} convolution(%x.2, %w.2), dim_labels=bf_io->bf
}

%body.1 (p.1: (s32[], bf16[16,32], bf16[8,64])) -> (s32[], bf16[16,32], bf16[8,64]) {
  %one.1 = s32[] constant(1)
  %p.1 = (s32[], bf16[16,32]{1,0}, bf16[8,64]{1,0}) parameter(0)
  %i.1 = s32[] get-tuple-element(%p.1), index=0
  %x.1 = bf16[16,32]{1,0} get-tuple-element(%p.1), index=1
  %w.1 = bf16[8,64]{1,0} get-tuple-element(%p.1), index=2
  %next.1 = s32[]{:S(1)} add(%i.1, %one.1)
  %whole.1 = bf16[32,64]{1,0} all-gather(%w.1), channel_id=1, replica_groups=[2,4]<=[8], dimensions={0}, use_global_device_ids=true
  %y.1 = bf16[16,64]{1,0:S(1)} fusion(%x.1, %whole.1), kind=kOutput, calls=%product.1
  ROOT %t.1 = (s32[], bf16[16,32]{1,0}, bf16[8,64]{1,0}) tuple(%next.1, %x.1, %w.1)
}

%condition.1 (q.1: (s32[], bf16[16,32], bf16[8,64])) -> pred[] {
  %three.1 = s32[] constant(3)
  %q.1 = (s32[], bf16[16,32]{1,0}, bf16[8,64]{1,0}) parameter(0)
  %j.1 = s32[] get-tuple-element(%q.1), index=0
  ROOT %lt.1 = pred[] compare(%j.1, %three.1), direction=LT
}

ENTRY %main.1 (a.1: bf16[16,32], b.1: bf16[8,64], g.1: f32[10]) -> f32[10] {
  %a.1 = bf16[16,32]{1,0} parameter(0)
  %b.1 = bf16[8,64]{1,0} parameter(1)
  %g.1 = f32[10]{0} parameter(2)
  %zero.1 = s32[] constant(0)
  %begin.1 = (s32[], bf16[16,32]{1,0}, bf16[8,64]{1,0}) tuple(%zero.1, %a.1, %b.1)
  %loop.1 = (s32[], bf16[16,32]{1,0}, bf16[8,64]{1,0}) while(%begin.1), condition=%condition.1, body=%body.1
  ROOT %sum.1 = f32[10]{0} all-reduce(%g.1), channel_id=2, replica_groups=mesh['axis_0'=8] {'axis_0'}, use_global_device_ids=true, to_apply=%add.1
}
"""  # noqa: E501


def costs(text, mesh=MESH, **more):
    return count_costs(parse_module(text), mesh, **more)


def test_a_loops_products_gathers_and_bytes_count_as_often_as_it_runs():
    found = costs(STEP)
    product = 2 * 16 * 32 * 64
    assert found.flops == 3 * product
    assert found.flops_of_bodies_once == product
    gather, total = found.collectives
    assert (gather.kind, gather.axes, gather.group, gather.times) == ("all-gather", ("fsdp",), 4, 3)
    assert gather.bytes == 3 * 3 * (8 * 64 * 2)  # three others' parts, three times
    assert (total.kind, total.axes, total.group, total.times) == (
        "all-reduce",
        ("data", "fsdp"),
        8,
        1,
    )
    assert total.bytes == 2 * 40 * 7 / 8
    # A turn: the part and the whole; the product's two sides, its result staying on the chip; the
    # counter, which is read as such. The sum at the end.
    turn = (8 * 64 + 32 * 64) * 2 + (16 * 32 + 32 * 64) * 2 + 8
    assert found.bytes == 3 * turn + 80


def test_a_loop_of_unknown_length_runs_as_often_as_is_said_and_is_told():
    unknown = STEP.replace("direction=LT", "direction=NE")
    assert costs(unknown).unknown_loops == (("loop.1", 1.0),)
    found = costs(unknown, unknown_trips=lambda module, body: 2.5)
    assert found.flops == 2.5 * 2 * 16 * 32 * 64
    assert found.unknown_loops == (("loop.1", 2.5),)


def test_the_loss_knows_its_loops_by_their_chunks():
    unknown = STEP.replace("direction=LT", "direction=NE").replace(
        "%one.1 = s32[] constant(1)",
        "%one.1 = s32[] constant(1)\n  %rows.1 = s32[256]{0:S(1)} broadcast(%one.1)",
    )
    trips = chunk_trips({2048: 7.0, 256: 3.0})
    assert costs(unknown, unknown_trips=trips).unknown_loops == (("loop.1", 3.0),)


@pytest.mark.parametrize(
    ("groups", "axes", "size"),
    [
        ("{{0,4},{1,5},{2,6},{3,7}}", ("data",), 2),
        ("{{0,1},{2,3}}", ("fsdp",), 2),
        ("[4,2]<=[2,4]T(1,0)", ("data",), 2),
        ("[1,8]<=[8]", ("data", "fsdp"), 8),
        ("mesh['axis_0'=2,'axis_1'=4] {'axis_1'}", ("fsdp",), 4),
        ("mesh['axis_0'=8] {'axis_0':(2)4}", ("fsdp",), 4),
        ("mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'b'}", ("data",), 2),
        ("mesh['axis_0'=8] {'axis_0'}", ("data", "fsdp"), 8),
    ],
)
def test_groups_are_told_by_mesh_axes_however_they_are_written(groups, axes, size):
    text = STEP.replace("replica_groups=[2,4]<=[8]", f"replica_groups={groups}")
    [gather] = [each for each in costs(text).collectives if each.kind == "all-gather"]
    assert (gather.axes, gather.group) == (axes, size)


def test_a_permutation_runs_over_the_axes_that_its_pairs_span():
    text = STEP.replace("all-gather(", "collective-permute(").replace(
        "replica_groups=[2,4]<=[8]", "source_target_pairs={{0,1},{1,2},{2,3}}"
    )
    [moved] = [each for each in costs(text).collectives if each.kind == "collective-permute"]
    assert (moved.axes, moved.bytes) == (("fsdp",), 3 * 8 * 64 * 2)


def test_a_group_of_one_moves_nothing():
    text = STEP.replace("replica_groups=[2,4]<=[8]", "replica_groups=[8,1]<=[8]")
    assert [each.kind for each in costs(text).collectives] == ["all-reduce"]


def test_a_product_over_batches_written_as_a_window_counts_once_a_place():
    """8 products of 4 x 16 by 16 x 32: the window meets one number a place, as TPUs write it."""
    batched = STEP.replace(
        "%c.2 = bf16[16,64]{1,0} convolution(%x.2, %w.2), dim_labels=bf_io->bf",
        "%l.2 = bf16[8,4,16]{2,1,0} reshape(%x.2)\n"
        "  %k.2 = bf16[8,16,32]{2,1,0} reshape(%w.2)\n"
        "  ROOT %c.2 = bf16[8,4,32]{2,1,0} convolution(%l.2, %k.2), "
        "window={size=8 stride=7 pad=0_0 lhs_dilate=8}, dim_labels=0bf_0io->0bf",
    ).replace("ROOT %l.2", "%l.2")
    assert costs(batched).flops == 3 * 8 * 2 * 4 * 16 * 32


def test_of_a_stack_that_is_sliced_only_the_slice_is_read():
    sliced = STEP.replace(
        "%product.1 (x.2: bf16[16,32], w.2: bf16[32,64])",
        "%slice.1 (s.3: bf16[62,8,64], i.3: s32[]) -> bf16[8,64] {\n"
        "  %s.3 = bf16[62,8,64]{2,1,0} parameter(0)\n"
        "  %i.3 = s32[] parameter(1)\n"
        "  %z.3 = s32[] constant(0)\n"
        "  %d.3 = bf16[1,8,64]{2,1,0} dynamic-slice(%s.3, %i.3, %z.3, %z.3), "
        "dynamic_slice_sizes={1,8,64}\n"
        "  ROOT %o.3 = bf16[8,64]{1,0} bitcast(%d.3)\n"
        "}\n\n%product.1 (x.2: bf16[16,32], w.2: bf16[32,64])",
    ).replace(
        "  %zero.1 = s32[] constant(0)\n",
        "  %zero.1 = s32[] constant(0)\n"
        "  %stack.1 = bf16[62,8,64]{2,1,0} parameter(3)\n"
        "  %one.9 = bf16[8,64]{1,0} fusion(%stack.1, %zero.1), kind=kLoop, calls=%slice.1\n",
    )
    more = costs(sliced).bytes - costs(STEP).bytes
    assert more == 2 * (8 * 64 * 2) + 4  # the slice in and out, and its index


def scan(weights_NDD, x_BD):
    def body(x_BD, w_DD):
        return jnp.tanh(x_BD @ w_DD), None

    return jax.lax.scan(body, x_BD, weights_NDD)[0].sum()


@functools.lru_cache
def compiled(num_layers):
    shapes = (num_layers, 64, 64), (32, 64)
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return jax.jit(jax.grad(scan)).lower(*arguments).compile()


def test_four_layers_cost_twice_what_two_do_though_xla_counts_one():
    found = {n: costs(compiled(n).as_text(), {"data": 1}) for n in (2, 4)}
    product = 2 * 32 * 64 * 64
    assert found[2].flops == 2 * 3 * product  # forward, and backward's two
    assert found[4].flops == 2 * found[2].flops
    assert compiled(2).cost_analysis()["flops"] == compiled(4).cost_analysis()["flops"]
    assert not found[4].unknown_loops


def test_products_counted_once_are_xlas_own():
    """What is more in XLA's count is elementwise: a hundredth here."""
    xla = compiled(4).cost_analysis()["flops"]
    ours = costs(compiled(4).as_text(), {"data": 1}).flops_of_bodies_once
    assert ours <= xla <= 1.02 * ours
