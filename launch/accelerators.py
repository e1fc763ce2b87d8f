"""TPU slices by the names that Cloud TPU gives them: chips, hosts, topology, software.

    find_slice("v5litepod-16")   16 chips, 4x4, 4 hosts of 4, v2-alpha-tpuv5-lite
    find_slice("v5p-16")          8 chips, 2x2x2, 2 hosts of 4: v4 and v5p are counted in cores

From Google's pages "TPU v4", "v5e", "v5p", "v6e", "TPU software versions" and "Plan TPUs in GKE".
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
from typing import NamedTuple

from launch.errors import LaunchError


def _by_chips(*topologies: str) -> dict[int, str]:
    return {math.prod(map(int, each.split("x"))): each for each in topologies}


_FLAT = _by_chips("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = _by_chips(
    *("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16", "8x16x16")
)
_CHIPS_PER_HOST = 4
# Up to eight chips of the flat kinds are one machine.
_LARGEST_FLAT_HOST = 8


class _Kind(NamedTuple):
    runtime: str
    gke_label: str
    topologies: dict[int, str]
    cores_per_chip: int = 1  # where the name counts cores


_KINDS = {
    "v4": _Kind("tpu-ubuntu2204-base", "tpu-v4-podslice", _CUBES, 2),
    "v5p": _Kind("v2-alpha-tpuv5", "tpu-v5p-slice", _CUBES, 2),
    "v5litepod": _Kind("v2-alpha-tpuv5-lite", "tpu-v5-lite-podslice", _FLAT),
    "v6e": _Kind("v2-alpha-tpuv6e", "tpu-v6e-slice", _FLAT),
}
_OTHER_NAMES = {"v5e": "v5litepod", "v5lite": "v5litepod", "v5litepods": "v5litepod"}


@dataclasses.dataclass(frozen=True)
class Slice:
    """TPU chips that work together."""

    name: str
    runtime: str
    gke_label: str
    topology: str
    num_chips: int
    num_hosts: int

    @property
    def chips_per_host(self) -> int:
        """Chips of each machine."""
        return self.num_chips // self.num_hosts


def find_slice(name: str) -> Slice:
    """The slice of that name; LaunchError, with the nearest that exists, where there is none."""
    match = re.fullmatch(r"([a-z0-9]+)-([0-9]+)", name)
    word, count = (match[1], int(match[2])) if match else (name.partition("-")[0], 0)
    kind = _KINDS.get(word)
    if kind is None:
        near = [_OTHER_NAMES[word]] if word in _OTHER_NAMES else []
        near = near or difflib.get_close_matches(word, _KINDS, n=1, cutoff=0.5)
        remedy = (
            f"did you mean '{near[0]}-{count or 16}'?"
            if near
            else "expected one of " + (", ".join(f"{each}-N" for each in _KINDS))
        )
        raise LaunchError(f"cloud.accelerator is {name!r}, which is no TPU of ours; {remedy}")
    num_chips, rest = divmod(count, kind.cores_per_chip)
    if rest or num_chips not in kind.topologies:
        sizes = ", ".join(str(chips * kind.cores_per_chip) for chips in kind.topologies)
        raise LaunchError(f"cloud.accelerator is {name!r}; {word}- goes with one of {sizes}")
    one_host = kind.topologies is _FLAT and num_chips <= _LARGEST_FLAT_HOST
    return Slice(
        name=name,
        runtime=kind.runtime,
        gke_label=kind.gke_label,
        topology=kind.topologies[num_chips],
        num_chips=num_chips,
        num_hosts=1 if one_host else num_chips // _CHIPS_PER_HOST,
    )
