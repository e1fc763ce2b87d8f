"""What a TPU chip can do, and which slices of them there are.

    --topology=v5p:2x4x4   chip and shape ─┐
    --topology=v5p-64      Cloud's name   ─┴─> Slice(chip=v5p, shape=(2, 4, 4)), 32 chips

Cloud's names count chips of v5e and v6e, and cores of v5p, which has two on a chip. Sources: the
pages "TPU v5e", "TPU v5p", "TPU v6e" of Cloud TPU's documentation (docs.cloud.google.com/tpu/docs),
for memory bandwidth, links, shapes; `training.devices` for peak rates. `memory_bytes` is what
libtpu 0.0.42.1 lets a program have, as it says itself where one is too large: a little less than
the sheet's. Which axes are rings: Austin et al. 2025, "How to Scale Your Model", part 2: an 8x16 of
v5e wraps around its longer axis, and a v5p wraps around every axis or none, by optical switches
that only whole cubes have.
"""

from __future__ import annotations

import difflib
import math
import re
from typing import NamedTuple

from coderllm_jax.errors import ConfigError
from coderllm_jax.training.devices import PEAK_BF16_FLOPS

_GIB = 2**30


class Chip(NamedTuple):
    """One chip. link_bytes_per_s: of one of its links, one way; a dimension has two links.

    shapes: those there are. ring: axes that are a multiple of it are rings, others are lines; where
    is_switched, all are lines if one is. cores: how many of Cloud's name's count make a chip.
    """

    name: str
    kind: str  # jax's device_kind
    memory_bytes: int
    memory_bytes_per_s: float
    link_bytes_per_s: float
    ring: int
    is_switched: bool
    cores: int
    shapes: tuple[tuple[int, ...], ...]

    @property
    def peak_flops(self) -> float:
        """Dense bfloat16 FLOP/s."""
        return PEAK_BF16_FLOPS[self.kind]


_FLAT = ((1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16))
_DEEP = (
    (2, 2, 1),
    (2, 2, 2),
    (2, 2, 4),
    (2, 4, 4),
    (4, 4, 4),
    (4, 4, 8),
    (4, 8, 8),
    (8, 8, 8),
    (8, 8, 16),
    (8, 16, 16),
)
CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v5e", "TPU v5 lite", int(15.75 * _GIB), 819e9, 50e9, 16, False, 1, _FLAT),
        Chip("v6e", "TPU v6 lite", int(31.25 * _GIB), 1640e9, 100e9, 16, False, 1, _FLAT),
        Chip("v5p", "TPU v5", int(95.74 * _GIB), 2765e9, 100e9, 4, True, 2, _DEEP),
    )
}
# What else people call them.
_OTHER_NAMES = {"v5litepod": "v5e", "v5lite": "v5e", "trillium": "v6e"}


class Slice(NamedTuple):
    """A box of chips that are linked with their neighbours."""

    chip: Chip
    shape: tuple[int, ...]

    @property
    def num_chips(self) -> int:
        return math.prod(self.shape)

    @property
    def name(self) -> str:
        """As libtpu and `--topology` have it: v5p:2x4x4."""
        return f"{self.chip.name}:{'x'.join(map(str, self.shape))}"

    @property
    def cloud_name(self) -> str:
        """As Cloud sells it: v5p-64."""
        return f"{self.chip.name}-{self.num_chips * self.chip.cores}"

    @property
    def memory_bytes(self) -> int:
        """Of all chips together."""
        return self.num_chips * self.chip.memory_bytes

    def group_bytes_per_s(self, size: int) -> float:
        """The most that a chip of a group of `size` can take in at one time, in bytes a second.

        As if the group lay along as many axes as it can span, rings first, and had all of their
        links: two of a ring, one of a line.
        """
        rings = [axis % self.chip.ring == 0 for axis in self.shape]
        if self.chip.is_switched and not all(rings):
            rings = [False] * len(rings)
        links = [
            2 if is_ring else 1 for axis, is_ring in zip(self.shape, rings, strict=True) if axis > 1
        ]
        spanned = sorted(links, reverse=True)[: int(math.log2(max(size, 2)))]
        return max(sum(spanned), 1) * self.chip.link_bytes_per_s


def parse_topology(text: str) -> Slice:
    """The slice of that name; ConfigError where there is none such."""
    match = re.fullmatch(r"([a-z0-9]+)[:-]([0-9]+(?:x[0-9]+)*)", text.strip().lower())
    if match is None:
        raise ConfigError(
            f"topology is {text!r}; expected a chip and a shape such as v5e:2x4 or v5p:2x4x4, or "
            "Cloud's name such as v5e-8"
        )
    word, size = match.groups()
    word = _OTHER_NAMES.get(word, word)
    if word not in CHIPS:
        near = difflib.get_close_matches(word, CHIPS, n=1, cutoff=0.5)
        raise ConfigError(
            f"topology {text!r} names the chip {word}, which is unknown; expected one of "
            f"{', '.join(CHIPS)}" + (f": did you mean {near[0]}?" if near else "")
        )
    chip = CHIPS[word]
    slices = [Slice(chip, shape) for shape in chip.shapes]
    if "x" in size:
        axes = tuple(map(int, size.split("x")))
        found = [each for each in slices if each.shape == axes]
    else:
        found = [each for each in slices if each.cloud_name == f"{chip.name}-{size}"]
    if not found:
        known = ", ".join(
            each.name if "x" in size else f"{each.cloud_name} ({each.name})" for each in slices
        )
        raise ConfigError(f"topology {text!r} is no slice of {chip.name}; expected one of {known}")
    return found[0]


def larger_slices(slice_: Slice) -> list[Slice]:
    """Every slice with more memory in all, the smallest first; of other chips, too."""
    every = [Slice(chip, shape) for chip in CHIPS.values() for shape in chip.shapes]
    more = [each for each in every if each.memory_bytes > slice_.memory_bytes]
    return sorted(more, key=lambda each: (each.chip.name != slice_.chip.name, each.memory_bytes))
