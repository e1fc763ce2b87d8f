"""Reading the text of a module."""

from __future__ import annotations

from coderllm_jax.preflight.hlo import Shape, parse_module, parse_shapes

# A loop of five turns, written as libtpu writes one: its end is a constant of the condition.
LOOP = """HloModule jit_f, is_scheduled=true, num_partitions=4

%body.1 (p.1: (s32[], bf16[8,128], s32[])) -> (s32[], bf16[8,128], s32[]) {
  %one.1 = s32[]{:T(128)} constant(1)
  %p.1 = (s32[]{:T(128)}, bf16[8,128]{1,0:T(8,128)(2,1)}, s32[]{:T(128)}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%p.1), index=0
  %x.1 = bf16[8,128]{1,0:T(8,128)(2,1)} get-tuple-element(%p.1), index=1
  %end.1 = s32[]{:T(128)} get-tuple-element(%p.1), index=2
  %next.1 = s32[]{:T(128)} add(%i.1, %one.1), metadata={op_name="jit(f)/add" stack_frame_id=4}
  %y.1 = bf16[8,128]{1,0:T(8,128)(2,1)S(1)} negate(%x.1)
  ROOT %t.1 = (s32[]{:T(128)}, bf16[8,128]{1,0:T(8,128)(2,1)}, s32[]{:T(128)}) tuple(%next.1, %y.1, %end.1)
}

%condition.1 (q.1: (s32[], bf16[8,128], s32[])) -> pred[] {
  %five.1 = s32[]{:T(128)} constant(5)
  %q.1 = (s32[]{:T(128)}, bf16[8,128]{1,0:T(8,128)(2,1)}, s32[]{:T(128)}) parameter(0)
  %j.1 = s32[]{:T(128)} get-tuple-element(%q.1), index=0
  ROOT %lt.1 = pred[]{:T(512)} compare(%j.1, %five.1), direction=LT
}

ENTRY %main.1 (a.1: bf16[8,128], n.1: s32[]) -> bf16[8,128] {
  %a.1 = bf16[8,128]{1,0:T(8,128)(2,1)} parameter(0), sharding={devices=[4,1]<=[4]}
  %n.1 = s32[]{:T(128)} parameter(1)
  %zero.1 = s32[]{:T(128)} constant(0)
  %begin.1 = (s32[]{:T(128)}, bf16[8,128]{1,0:T(8,128)(2,1)}, s32[]{:T(128)}) tuple(%zero.1, %a.1, %n.1)
  %loop.1 = (s32[]{:T(128)}, bf16[8,128]{1,0:T(8,128)(2,1)}, s32[]{:T(128)}) while(%begin.1), condition=%condition.1, body=%body.1, metadata={op_name="jit(f)/while"}
  ROOT %r.1 = bf16[8,128]{1,0:T(8,128)(2,1)} get-tuple-element(%loop.1), index=1
}
"""  # noqa: E501


def trips(text):
    module = parse_module(text)
    entry = module.computations[module.entry]
    return module.trip_count(entry, entry.instructions["loop.1"])


def test_computations_instructions_and_their_parts_are_found():
    module = parse_module(LOOP)
    assert module.entry == "main.1"
    assert list(module.computations) == ["body.1", "condition.1", "main.1"]
    entry = module.computations["main.1"]
    assert entry.root.name == "r.1"
    assert entry.parameter(1).name == "n.1"
    loop = entry.instructions["loop.1"]
    assert loop.opcode == "while"
    assert loop.operands == ("begin.1",)
    assert loop.called == {"condition": "condition.1", "body": "body.1"}
    assert loop.shapes[1] == Shape("bf16", (8, 128))
    assert entry.instructions["a.1"].attribute("sharding") == "{devices=[4,1]<=[4]}"
    assert [each.name for each in entry.users("loop.1")] == ["r.1"]


def test_what_stays_on_the_chip_is_told_from_what_does_not():
    body = parse_module(LOOP).computations["body.1"]
    assert body.instructions["y.1"].shape.space == 1
    assert body.instructions["x.1"].shape.space == 0


def test_sizes_of_types():
    found = parse_shapes("(f32[2,3]{1,0}, s4[8]{0:T(256)}, /*index=2*/pred[5], bf16[], u8[4])")
    assert [each.num_bytes for each in found] == [24, 4, 5, 2, 4]
    assert parse_shapes("f8e4m3fn[16]")[0].num_bytes == 16
    assert parse_shapes("f32[<=8,2]")[0].num_bytes == 64  # as many rows as may come


def test_a_counted_loop_runs_from_its_start_to_its_end_by_its_step():
    assert trips(LOOP) == 5
    assert trips(LOOP.replace("constant(0)", "constant(1)")) == 4
    assert trips(LOOP.replace("constant(1)", "constant(2)")) == 3
    assert trips(LOOP.replace("constant(0)", "constant(9)")) == 0


def test_a_loops_end_may_come_through_its_tuple():
    through = LOOP.replace(
        "%five.1 = s32[]{:T(128)} constant(5)",
        "%five.1 = s32[]{:T(128)} get-tuple-element(%q.1), index=2",
    )
    assert trips(through) is None  # a parameter of the program: nobody knows
    known = through.replace("%n.1 = s32[]{:T(128)} parameter(1)", "%n.1 = s32[] constant(7)")
    assert trips(known) == 7


def test_a_loop_is_counted_through_copies_and_a_fused_comparison():
    copied = LOOP.replace(
        "%zero.1 = s32[]{:T(128)} constant(0)",
        "%none.1 = s32[] constant(0)\n"
        "  %sent.1 = (s32[], s32[], u32[]) copy-start(%none.1)\n"
        "  %zero.1 = s32[] copy-done(%sent.1)",
    ).replace(
        "%j.1 = s32[]{:T(128)} get-tuple-element(%q.1), index=0",
        "%k.1 = s32[] get-tuple-element(%q.1), index=0\n  %j.1 = s32[] copy(%k.1)",
    )
    assert trips(copied) == 5
    fused = LOOP.replace(
        "compare(%j.1, %five.1), direction=LT", "fusion(%j.1, %five.1), calls=%less.1"
    ).replace(
        "%condition.1 (",
        "%less.1 (l.1: s32[], r.1: s32[]) -> pred[] {\n"
        "  %l.1 = s32[] parameter(0)\n"
        "  %r.1 = s32[] parameter(1)\n"
        "  ROOT %c.1 = pred[] compare(%l.1, %r.1), direction=LT\n"
        "}\n\n%condition.1 (",
    )
    assert trips(fused) == 5
    assert trips(fused.replace("direction=LT", "direction=GT")) is None


def test_branches_are_numbered():
    text = LOOP.replace(
        "while(%begin.1), condition=%condition.1, body=%body.1",
        "conditional(%zero.1, %begin.1, %begin.1), branch_computations={%body.1, %condition.1}",
    )
    loop = parse_module(text).computations["main.1"].instructions["loop.1"]
    assert loop.called == {"branch0": "body.1", "branch1": "condition.1"}


def test_what_is_written_down_is_believed():
    written = LOOP.replace(
        'metadata={op_name="jit(f)/while"}', 'backend_config={"known_trip_count":{"n":"62"}}'
    )
    assert trips(written) == 62


def test_a_loop_that_is_no_counted_one_has_no_count():
    assert trips(LOOP.replace("direction=LT", "direction=NE")) is None
    assert trips(LOOP.replace("add(%i.1, %one.1)", "multiply(%i.1, %one.1)")) is None
    # Five is less than the counter: as long as that is so.
    assert trips(LOOP.replace("compare(%j.1, %five.1)", "compare(%five.1, %j.1)")) is None
