"""The text of a compiled XLA module as records: computations, instructions, shapes, loops.

    %body.1 (p.1: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
      %dot.3 = f32[8,4]{1,0:T(8,128)S(1)} dot(%a.1, %b.1), lhs_contracting_dims={1}, …
      ROOT %t.1 = (s32[], f32[8,4]) tuple(%n.1, %dot.3)
    }

    Instruction("dot.3", "dot", shapes=(Shape("f32", (8, 4), space=1),), operands=("a.1", "b.1"),
                attributes="lhs_contracting_dims={1}, …")

Reads what libtpu and the CPU backend print, and nothing that is not needed to count work: types,
operands, called computations, and how often a loop runs. Owns no arithmetic about costs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

_BITS = {"pred": 8, "s4": 4, "u4": 4, "s2": 2, "u2": 2}
_TYPE = re.compile(r"(?P<dtype>[a-z]+[0-9]*[a-z0-9]*)\[(?P<dims>[0-9,<=]*)\](?P<layout>\{[^}]*\})?")
_NAME = re.compile(r"%([\w.\-]+)")
_HEADER = re.compile(r"(?P<entry>ENTRY )?%?(?P<name>[\w.\-]+) \(.*\{$")
_SPACE = re.compile(r"S\((\d+)\)")
_CALLED = re.compile(
    r"(calls|body|condition|to_apply|true_computation|false_computation)=%?([\w.\-]+)"
)
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CONSTANT = re.compile(r"-?\d+")


class Shape(NamedTuple):
    """One array. space: XLA's memory space, 0 being the device's large memory (HBM)."""

    dtype: str
    dims: tuple[int, ...]
    space: int = 0

    @property
    def elements(self) -> int:
        return math.prod(self.dims)

    @property
    def num_bytes(self) -> int:
        """Without padding to tiles."""
        bits = _BITS.get(self.dtype)
        if bits is None:
            found = re.search(r"\d+", self.dtype)
            bits = int(found[0]) if found else 0  # tokens and other opaque things have no size
        return self.elements * bits // 8


class Instruction(NamedTuple):
    """One line. shapes: the leaves of its type, one where it is no tuple."""

    name: str
    opcode: str
    shapes: tuple[Shape, ...]
    operands: tuple[str, ...]
    attributes: str
    literal: str  # what stands between the parentheses
    is_root: bool

    @property
    def shape(self) -> Shape:
        """The first array of its type."""
        return self.shapes[0]

    def attribute(self, name: str) -> str:
        """The value of `name=…` up to the next comma that is outside of brackets; else empty."""
        match = re.search(rf"(?:^|[ ,]){name}=", self.attributes)
        return _until_comma(self.attributes[match.end() :]) if match else ""

    @property
    def called(self) -> dict[str, str]:
        """{"body": "body.1", "condition": …}; branches are numbered: {"branch0": …}."""
        found = dict(_CALLED.findall(self.attributes))
        branches = _BRANCHES.search(self.attributes)
        names = _NAME.findall(branches[1]) if branches else []
        return found | {f"branch{i}": name for i, name in enumerate(names)}


class Computation(NamedTuple):
    """Instructions by name, in the order of their lines."""

    name: str
    instructions: Mapping[str, Instruction]

    @property
    def root(self) -> Instruction:
        return next(each for each in self.instructions.values() if each.is_root)

    def parameter(self, number: int) -> Instruction | None:
        """The parameter of that number."""
        for each in self.instructions.values():
            if each.opcode == "parameter" and each.literal.strip() == str(number):
                return each
        return None

    def users(self, name: str) -> list[Instruction]:
        """The instructions that have it for an operand."""
        return [each for each in self.instructions.values() if name in each.operands]


class Module(NamedTuple):
    """All computations by name, and the one that is run."""

    computations: Mapping[str, Computation]
    entry: str

    def called_by(self, instruction: Instruction, role: str) -> Computation:
        """The computation that an instruction calls in that role."""
        return self.computations[instruction.called[role]]

    def trip_count(self, computation: Computation, loop: Instruction) -> int | None:
        """How often a `while` of a computation runs; None where the module does not say.

        Some backends write it down. Else it is read off what scans and counted loops become: one
        counter from a constant, by a constant, up to a constant, each in the loop's tuple or not.
        """
        written = _TRIPS.search(loop.attributes)
        if written:
            return int(written[1])
        condition = self.called_by(loop, "condition")
        test = condition.root
        names = test.operands
        if test.opcode == "fusion":
            test = self.called_by(test, "calls").root
        if test.opcode != "compare" or test.attribute("direction") != "LT" or len(names) != 2:
            return None
        counter, end = (_source(condition, name) for name in names)
        if counter.opcode != "get-tuple-element":
            return None
        place = int(counter.attribute("index"))
        start = _initial(computation, loop, place)
        step = _step(self.called_by(loop, "body"), place)
        if end.opcode == "get-tuple-element":
            limit = _initial(computation, loop, int(end.attribute("index")))
        else:
            limit = _constant(end)
        if start is None or limit is None or not step:
            return None
        return max(-(-(limit - start) // step), 0)


def parse_module(text: str) -> Module:
    """Reads what `Compiled.as_text()` gives."""
    computations: dict[str, Computation] = {}
    entry, name = "", ""
    instructions: dict[str, Instruction] = {}
    for line in text.splitlines():
        if not name:
            header = _HEADER.match(line)
            if header and " = " not in line.partition("(")[0]:
                name, instructions = header["name"], {}
                entry = name if header["entry"] else entry
        elif line.startswith("}"):
            computations[name] = Computation(name, instructions)
            name = ""
        elif " = " in line:
            each = _parse_instruction(line)
            instructions[each.name] = each
    return Module(computations, entry)


def parse_shapes(text: str) -> tuple[Shape, ...]:
    """The arrays of a type, a tuple's from left to right."""
    return tuple(
        Shape(
            match["dtype"],
            tuple(int(size.strip("<=")) for size in match["dims"].split(",") if size),
            _space(match["layout"] or ""),
        )
        for match in _TYPE.finditer(text)
    )


def _space(layout: str) -> int:
    match = _SPACE.search(layout)
    return int(match[1]) if match else 0


def _parse_instruction(line: str) -> Instruction:
    left, _, right = line.strip().partition(" = ")
    is_root = left.startswith("ROOT ")
    end = _closing(right, 0) + 1 if right.startswith("(") else right.index(" ")
    kind, rest = right[:end], right[end:].lstrip()
    begin = rest.index("(")
    close = _closing(rest, begin)
    literal = rest[begin + 1 : close]
    return Instruction(
        name=left.removeprefix("ROOT ").lstrip("%"),
        opcode=rest[:begin].strip(),
        shapes=parse_shapes(kind) or (Shape("token", (0,)),),
        operands=tuple(_NAME.findall(literal)),
        attributes=rest[close + 1 :].lstrip(", "),
        literal=literal,
        is_root=is_root,
    )


def _closing(text: str, begin: int) -> int:
    """Where the bracket at `begin` closes."""
    depth = 0
    for i in range(begin, len(text)):
        depth += (text[i] == "(") - (text[i] == ")")
        if not depth:
            return i
    return len(text)


def _until_comma(text: str) -> str:
    depth = 0
    for i, letter in enumerate(text):
        depth += (letter in "({[") - (letter in ")}]")
        if (letter == "," and not depth) or depth < 0:
            return text[:i]
    return text


# --- counted loops -------------------------------------------------------------------------------


def _source(computation: Computation, name: str) -> Instruction:
    """What a value is a copy of, within its computation."""
    instruction = computation.instructions[name]
    while instruction.opcode in ("copy", "bitcast", "reshape", "convert", "copy-done"):
        instruction = computation.instructions[instruction.operands[0]]
        if instruction.opcode == "copy-start":
            instruction = computation.instructions[instruction.operands[0]]
    return instruction


def _constant(found: Instruction) -> int | None:
    if found.opcode != "constant" or not _CONSTANT.fullmatch(found.literal.strip()):
        return None
    return int(found.literal)


def _initial(computation: Computation, loop: Instruction, place: int) -> int | None:
    """The constant that an element of a loop's tuple begins with."""
    begin = _source(computation, loop.operands[0])
    if begin.opcode != "tuple":
        return None
    return _constant(_source(computation, begin.operands[place]))


def _step(body: Computation, place: int) -> int | None:
    """By how much a body raises the element of its tuple; None where that is no constant."""
    root = body.root
    if root.opcode != "tuple":
        return None
    found = _source(body, root.operands[place])
    if found.opcode != "add":
        return None
    steps = [_constant(_source(body, name)) for name in found.operands]
    return next((step for step in steps if step), None)


def walk(module: Module, name: str) -> Iterator[Instruction]:
    """Instructions of a computation and, right after each, of the fusions that it calls."""
    for instruction in module.computations[name].instructions.values():
        yield instruction
        if instruction.opcode == "fusion":
            yield from walk(module, instruction.called["calls"])
