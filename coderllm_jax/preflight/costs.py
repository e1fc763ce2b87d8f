"""What one run of a compiled module costs one chip: products, bytes, collectives, loops counted.

XLA's own analysis counts the body of a loop once; a scan over 62 layers is then one layer. Here
every computation counts as often as it runs:

    entry ── while, 62 times ──> body: 12 products, 3 all-gathers   ──> 744 products, 186 gathers
          └─ while, unknown  ──> body: the loss's chunks            ──> as often as `unknown_trips`
                                                                        says, and told apart

    flops        2 a multiplication and addition of matrix products (dot, convolution); nothing else
    bytes        what fusions, copies and products read from and write to the device's large memory.
                 What stays on the chip (XLA's other memory spaces) is not counted; of a buffer that
                 is sliced or updated in place, the slice is.
    collectives  by kind and mesh axes: how often, and the bytes that must enter a chip

Does not cover: products inside of custom calls (their names are given), elementwise arithmetic.
"""

from __future__ import annotations

import collections
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from coderllm_jax.preflight.hlo import Computation, Instruction, Module, Shape, walk

UnknownTrips = Callable[[Module, Computation], float]

_COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "collective-broadcast",
)
# What moves nothing: names for other values, and ends of what was counted at its start.
_FREE = {
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "after-all",
    "partition-id",
    "replica-id",
    "opt-barrier",
    "add-dependency",
    "while",
    "conditional",
    "call",
}


class Collective(NamedTuple):
    """One kind over some axes. bytes: all times together, into one chip."""

    kind: str
    axes: tuple[str, ...]
    group: int
    times: float
    bytes: float


class Costs(NamedTuple):
    """Of one chip. unknown_loops: (name, times that were assumed) of loops without a count."""

    flops: float
    bytes: float
    collectives: tuple[Collective, ...]
    unknown_loops: tuple[tuple[str, float], ...]
    custom_calls: tuple[str, ...]
    flops_of_bodies_once: float  # as XLA counts, for comparing


def count_costs(
    module: Module, mesh: Mapping[str, int], *, unknown_trips: UnknownTrips | None = None
) -> Costs:
    """Adds everything up. mesh: {"data": 2, …} in the order that devices have."""
    counter = _Counter(module, mesh, unknown_trips or (lambda *_: 1.0))
    counter.visit(module.entry, 1.0)
    return counter.result()


class _Counter:
    """The sums while computations are visited."""

    def __init__(
        self, module: Module, mesh: Mapping[str, int], unknown_trips: UnknownTrips
    ) -> None:
        self._module, self._mesh, self._unknown_trips = module, mesh, unknown_trips
        self._flops = self._bytes = self._once = 0.0
        self._moved: dict[tuple[str, tuple[str, ...], int], list[float]] = collections.defaultdict(
            lambda: [0.0, 0.0]
        )
        self._unknown: dict[str, float] = {}
        self._custom: set[str] = set()

    def visit(self, name: str, times: float) -> None:
        """Adds a computation that runs so often."""
        computation = self._module.computations[name]
        for each in computation.instructions.values():
            self._visit_instruction(computation, each, times)

    def _visit_instruction(self, computation: Computation, each: Instruction, times: float) -> None:
        if each.opcode == "while":
            body = self._module.called_by(each, "body")
            trips: float | None = self._module.trip_count(computation, each)
            if trips is None:
                trips = self._unknown_trips(self._module, body)
                self._unknown[each.name] = trips
            self.visit(body.name, times * trips)
            return
        if each.opcode == "conditional":
            # One of them runs; the first is as good as any where both are alike.
            self.visit(next(iter(_branches(each))), times)
            return
        if each.opcode == "call" or (each.opcode.endswith("-start") and "calls" in each.called):
            self.visit(each.called.get("to_apply") or each.called["calls"], times)
            return
        for inner, scope in _with_scopes(self._module, computation, each):
            flops = product_flops(scope, inner)
            self._flops += times * flops
            self._once += flops
            if inner.opcode == "custom-call":
                self._custom.add(inner.attribute("custom_call_target").strip('"'))
            kind = inner.opcode.removesuffix("-start")
            if kind in _COLLECTIVES:
                self._count_collective(kind, scope, inner, times)
        if each.opcode not in _FREE and not each.opcode.endswith("-done"):
            self._bytes += times * moved_bytes(self._module, computation, each)

    def _count_collective(
        self, kind: str, scope: Computation, each: Instruction, times: float
    ) -> None:
        axes, size = group_of(each, self._mesh)
        if size == 1:
            return
        entry = self._moved[kind, axes, size]
        entry[0] += times
        entry[1] += times * entering_bytes(kind, scope, each, size)

    def result(self) -> Costs:
        return Costs(
            self._flops,
            self._bytes,
            tuple(
                Collective(kind, axes, size, count, moved)
                for (kind, axes, size), (count, moved) in sorted(self._moved.items())
            ),
            tuple(self._unknown.items()),
            tuple(sorted(self._custom)),
            self._once,
        )


def _branches(each: Instruction) -> Iterator[str]:
    for role, name in each.called.items():
        if role.startswith(("branch", "true_", "false_")):
            yield name


def _with_scopes(
    module: Module, computation: Computation, each: Instruction
) -> Iterator[tuple[Instruction, Computation]]:
    """An instruction and, of a fusion, all that are in it, each with where it stands."""
    yield each, computation
    if each.opcode == "fusion":
        inner = module.called_by(each, "calls")
        for instruction in inner.instructions.values():
            yield from _with_scopes(module, inner, instruction)


# --- products ------------------------------------------------------------------------------------


def product_flops(scope: Computation, each: Instruction) -> float:
    """Two a multiplication of a matrix product; 0 for anything else."""
    if each.opcode == "dot":
        left = scope.instructions[each.operands[0]].shape
        dims = _numbers(each.attribute("lhs_contracting_dims"))
        return 2.0 * each.shape.elements * math.prod(left.dims[i] for i in dims)
    if each.opcode == "convolution":
        return _convolution_flops(scope, each)
    return 0.0


def _convolution_flops(scope: Computation, each: Instruction) -> float:
    """Only places where the window lies on numbers count, as XLA counts them.

    TPUs write products over batches as convolutions whose windows meet one number a place.
    """
    left, right = (scope.instructions[name].shape for name in each.operands[:2])
    labels = re.fullmatch(r"(\w+)_(\w+)->(\w+)", each.attribute("dim_labels"))
    assert labels is not None, each.attributes
    of_left, of_right, of_out = labels.groups()
    window = _window(each.attribute("window"))
    places = 1.0
    for axis, label in enumerate(sorted(filter(str.isdigit, of_out))):
        places *= _meetings(
            left.dims[of_left.index(label)],
            right.dims[of_right.index(label)],
            each.shape.dims[of_out.index(label)],
            {name: values[axis] for name, values in window.items()},
        )
    batches = left.dims[of_left.index("b")] / int(each.attribute("batch_group_count") or 1)
    inputs, outputs = right.dims[of_right.index("i")], right.dims[of_right.index("o")]
    return 2.0 * batches * inputs * outputs * places


def _window(text: str) -> dict[str, list[str]]:
    return {
        name: values.split("x")
        for name, _, values in (part.partition("=") for part in text.strip("{}").split())
    }


def _meetings(size: int, kernel: int, out: int, window: Mapping[str, str]) -> float:
    """How many (place, kernel row) pairs of one axis lie on a number."""
    stride, before = int(window.get("stride", "1")), int(window.get("pad", "0_0").split("_")[0])
    stretch, spread = int(window.get("lhs_dilate", "1")), int(window.get("rhs_dilate", "1"))
    at = np.arange(out)[:, None] * stride + np.arange(kernel)[None, :] * spread - before
    return float(np.sum((at >= 0) & (at <= (size - 1) * stretch) & (at % stretch == 0)))


def _numbers(text: str) -> list[int]:
    return [int(each) for each in re.findall(r"\d+", text)]


# --- memory --------------------------------------------------------------------------------------


def moved_bytes(module: Module, computation: Computation, each: Instruction) -> float:
    """What an instruction reads from and writes to the large memory."""
    shapes = {name: computation.instructions[name].shapes for name in each.operands}
    if each.opcode == "fusion":
        inner = module.called_by(each, "calls")
        read = 0.0
        for number, name in enumerate(each.operands):
            parameter = inner.parameter(number)
            if parameter is not None and _is_large(shapes[name]):
                read += _read_bytes(module, inner, parameter.name)
        return read + _written_bytes(module, inner, inner.root, each.shapes)
    if each.opcode == "dynamic-slice":
        return 2.0 * _size(each.shapes) if _is_large(shapes[each.operands[0]]) else 0.0
    if each.opcode == "dynamic-update-slice":
        return 2.0 * _size(shapes[each.operands[1]]) if _is_large(each.shapes) else 0.0
    if each.opcode == "gather":
        return 2.0 * _size(each.shapes)
    if each.opcode.endswith("-start"):  # its type names both ends
        return float(_size(each.shapes))
    return float(_size(each.shapes) + sum(map(_size, shapes.values())))


def _is_large(shapes: tuple[Shape, ...]) -> bool:
    return any(shape.space == 0 for shape in shapes)


def _size(shapes: tuple[Shape, ...]) -> int:
    return sum(shape.num_bytes for shape in shapes if shape.space == 0)


def _read_bytes(module: Module, inner: Computation, name: str) -> float:
    """What a fusion reads of one operand: all of it, unless it only slices it."""
    whole = float(sum(shape.num_bytes for shape in inner.instructions[name].shapes))
    read = 0.0
    for user in inner.users(name):
        place = user.operands.index(name)
        if user.opcode in ("dynamic-slice", "gather", "slice") and place == 0:
            read += sum(shape.num_bytes for shape in user.shapes)
        elif user.opcode == "dynamic-update-slice" and place == 0:
            continue
        elif user.opcode == "fusion":
            deeper = module.called_by(user, "calls")
            parameter = deeper.parameter(place)
            read += whole if parameter is None else _read_bytes(module, deeper, parameter.name)
        elif user.opcode in ("bitcast", "reshape"):
            read += _read_bytes(module, inner, user.name)
        else:
            return whole
    return min(read, whole)


def _written_bytes(
    module: Module, inner: Computation, root: Instruction, shapes: tuple[Shape, ...]
) -> float:
    """What a fusion writes: its result, or the part that it updates in place."""
    if root.opcode == "tuple" and len(root.operands) == len(shapes):
        return sum(
            _written_bytes(module, inner, inner.instructions[name], (shape,))
            for name, shape in zip(root.operands, shapes, strict=True)
        )
    if not _is_large(shapes):
        return 0.0
    if root.opcode == "dynamic-update-slice":
        return float(inner.instructions[root.operands[1]].shape.num_bytes)
    if root.opcode == "fusion":
        deeper = module.called_by(root, "calls")
        return _written_bytes(module, deeper, deeper.root, shapes)
    if root.opcode == "bitcast":
        return _written_bytes(module, inner, inner.instructions[root.operands[0]], shapes)
    return float(_size(shapes))


# --- collectives ---------------------------------------------------------------------------------


def entering_bytes(kind: str, scope: Computation, each: Instruction, size: int) -> float:
    """The least that must enter a chip of a group of `size`, whatever the algorithm."""
    operands = sum(
        shape.num_bytes for name in each.operands for shape in scope.instructions[name].shapes
    )
    others = (size - 1) / size
    if kind == "all-gather":
        return operands * (size - 1)
    if kind == "all-reduce":
        return 2.0 * operands * others
    if kind in ("reduce-scatter", "all-to-all"):
        return operands * others
    return float(operands)


def group_of(each: Instruction, mesh: Mapping[str, int]) -> tuple[tuple[str, ...], int]:
    """The mesh axes that a collective runs over, and how many chips take part in one."""
    pairs = each.attribute("source_target_pairs")
    if pairs:
        numbers = np.array(_numbers(pairs)).reshape(-1, 2)
        axes = {axis for pair in numbers for axis in _varying(pair, mesh)}
        return tuple(axis for axis in mesh if axis in axes), len(numbers) and 2
    group = _first_group(each, math.prod(mesh.values()))
    return _varying(group, mesh), len(group)


def _varying(devices: np.ndarray, mesh: Mapping[str, int]) -> tuple[str, ...]:
    places = np.unravel_index(devices, tuple(mesh.values()))
    return tuple(
        axis for axis, place in zip(mesh, places, strict=True) if len(np.unique(place)) > 1
    )


_OVER_AXES = re.compile(
    r"replica_groups=mesh\[(?P<sizes>[^\]]*)\]"
    r"(?:, device_ids=\(\[(?P<grid>[\d,]+)\](?:T\((?P<order>[\d,]+)\))?\))? \{(?P<axes>[^}]*)\}"
)


def _first_group(each: Instruction, num_devices: int) -> np.ndarray:
    """One group of devices, written in one of three ways.

    `{{0,1},{2,3}}`, `[2,2]<=[2,2]T(1,0)`, `mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'a'}`
    """
    over_axes = _OVER_AXES.search(each.attributes)
    if over_axes:
        return _group_of_axes(over_axes)
    text = each.attribute("replica_groups")
    iota = re.match(r"\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", text)
    if iota:
        groups = _numbers(iota[1])
        return _numbered(_numbers(iota[2]), _numbers(iota[3] or "")).reshape(groups)[0]
    listed = re.search(r"\{([\d,]+)\}", text)
    return np.array(_numbers(listed[1])) if listed else np.arange(num_devices)


def _numbered(grid: list[int], order: list[int]) -> np.ndarray:
    """Devices in the order that a transposed grid of them gives."""
    ids = np.arange(math.prod(grid)).reshape(grid)
    return ids.transpose(order or range(len(grid))).reshape(-1)


def _group_of_axes(match: re.Match[str]) -> np.ndarray:
    """Axes may be cut: `'a':(2)4` is the factor of size 4 behind a factor of size 2 of axis a."""
    sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", match["sizes"])}
    chosen = {
        name: (int(before or 1), int(size or sizes[name]))
        for name, before, size in re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", match["axes"])
    }
    dims: list[int] = []
    varies: list[bool] = []
    for name, total in sizes.items():
        before, size = chosen.get(name, (1, total))
        dims += [before, size, total // before // size]
        varies += [False, name in chosen, False]
    grid = _numbers(match["grid"]) if match["grid"] else [math.prod(dims)]
    ids = _numbered(grid, _numbers(match["order"] or "")).reshape(dims)
    return ids[tuple(slice(None) if each else 0 for each in varies)].reshape(-1)


def chunk_trips(
    sizes: Mapping[int, float],
) -> UnknownTrips:
    """Trips of the loss's loops, by how many positions a turn takes: {2048: 3.0, 256: 1.5}.

    A loop of it slices that many int32 numbers from the order of supervised positions.
    """

    def trips(module: Module, body: Computation) -> float:
        for instruction in walk(module, body.name):
            for shape in instruction.shapes:
                if shape.dtype == "s32" and len(shape.dims) == 1 and shape.dims[0] in sizes:
                    return sizes[shape.dims[0]]
        return 1.0

    return trips
