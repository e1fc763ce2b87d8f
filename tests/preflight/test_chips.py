"""Names of slices, and what is said of those that are none."""

from __future__ import annotations

import pytest

from coderllm_jax.errors import ConfigError
from coderllm_jax.preflight.chips import CHIPS, larger_slices, parse_topology


@pytest.mark.parametrize(
    ("text", "name", "num_chips", "cloud"),
    [
        ("v5e:2x4", "v5e:2x4", 8, "v5e-8"),
        ("v5e-8", "v5e:2x4", 8, "v5e-8"),
        ("v5e:8", "v5e:2x4", 8, "v5e-8"),
        ("v5litepod-8", "v5e:2x4", 8, "v5e-8"),
        ("v5lite:2x4", "v5e:2x4", 8, "v5e-8"),
        ("V6E:2x4", "v6e:2x4", 8, "v6e-8"),
        ("trillium-8", "v6e:2x4", 8, "v6e-8"),
        # Cloud counts a v5p's cores.
        ("v5p:2x4x4", "v5p:2x4x4", 32, "v5p-64"),
        ("v5p-64", "v5p:2x4x4", 32, "v5p-64"),
        ("v5p-8", "v5p:2x2x1", 4, "v5p-8"),
    ],
)
def test_a_slice_goes_by_its_shape_and_by_clouds_name(text, name, num_chips, cloud):
    found = parse_topology(text)
    assert (found.name, found.num_chips, found.cloud_name) == (name, num_chips, cloud)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("v9x:2x2", "the chip v9x, which is unknown; expected one of v5e, v6e, v5p"),
        ("v5:2x4", "did you mean v5"),
        ("v5e:2x3", "'v5e:2x3' is no slice of v5e; expected one of v5e:1x1, v5e:2x2, v5e:2x4"),
        ("v5e-7", "v5e-8 (v5e:2x4)"),
        ("v5p:2x4", "expected one of v5p:2x2x1"),
        ("", "expected a chip and a shape such as v5e:2x4"),
        ("v5e 2x4", "expected a chip and a shape such as v5e:2x4"),
    ],
)
def test_what_is_no_slice_is_told_what_there_is(text, said):
    with pytest.raises(ConfigError) as caught:
        parse_topology(text)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_links_of_rings_count_twice_and_small_groups_span_few_axes():
    line, ring = parse_topology("v5p:2x4x4"), parse_topology("v5p:4x4x4")
    assert line.group_bytes_per_s(32) == 3 * 100e9
    assert ring.group_bytes_per_s(64) == 2 * 3 * 100e9
    assert line.group_bytes_per_s(2) == 100e9
    assert line.group_bytes_per_s(4) == 2 * 100e9
    assert parse_topology("v5e:1x1").group_bytes_per_s(1) == 50e9
    # A whole flat pod is a torus, and none of its small parts.
    assert parse_topology("v5e:16x16").group_bytes_per_s(256) == 2 * 2 * 50e9
    assert parse_topology("v5e:8x8").group_bytes_per_s(64) == 2 * 50e9


def test_an_axis_of_16_is_a_ring_on_flat_chips_whatever_the_other_is():
    """v5p's rings are made by switches of whole cubes: all axes have them, or none."""
    assert parse_topology("v5e:16x16").group_bytes_per_s(256) == 4 * 50e9
    assert parse_topology("v5e:8x16").group_bytes_per_s(128) == 3 * 50e9
    assert parse_topology("v6e:8x16").group_bytes_per_s(128) == 3 * 100e9
    assert parse_topology("v5e:8x8").group_bytes_per_s(64) == 2 * 50e9
    assert parse_topology("v5p:2x2x4").group_bytes_per_s(16) == 3 * 100e9


def test_larger_slices_are_larger_and_ones_of_the_same_chip_come_first():
    found = larger_slices(parse_topology("v5e:4x8"))
    memory = parse_topology("v5e:4x8").memory_bytes
    assert all(each.memory_bytes > memory for each in found)
    assert found[0].name == "v5e:8x8"
    chips = [each.chip.name for each in found]
    assert "v5e" not in chips[chips.index("v6e") :]


def test_every_chip_has_its_peak_and_shapes_of_its_dimensions():
    # The sheets' dense bfloat16.
    assert {name: chip.peak_flops for name, chip in CHIPS.items()} == {
        "v5e": 197e12,
        "v6e": 918e12,
        "v5p": 459e12,
    }
    for chip in CHIPS.values():
        assert len({len(shape) for shape in chip.shapes}) == 1
