"""What the families' table says of what was found."""

from __future__ import annotations

import pytest

from benchmarks.families import TOLERANCE, Parity, table

GOOD = Parity(
    name="Gemma 2 27B",
    family="gemma2",
    keras=2e-6,
    mended=True,
    unmended=0.3,
    transformers=3e-6,
    packed=0.0,
    cached=(60, 60),
    gradient_norm=0.5,
    adapters_moved=True,
    frozen_moved=False,
)


def test_a_case_as_it_should_be_has_no_problems():
    assert GOOD.problems() == []
    assert GOOD._replace(transformers=None).problems() == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"keras": 2 * TOLERANCE}, "KerasHub differs by 4.0e-04"),
        ({"transformers": float("nan")}, "transformers differs by nan"),
        ({"packed": 1.0}, "packed differs by 1.0e\\+00"),
        ({"cached": (59, 60)}, "59 of 60 cached tokens"),
        ({"gradient_norm": 0.0}, "gradient's norm is 0.0"),
        ({"gradient_norm": float("nan")}, "gradient's norm is nan"),
        ({"frozen_moved": True}, "moved other weights"),
        ({"adapters_moved": False}, "or none"),
    ],
)
def test_everything_else_is_said(changes, said):
    (line,) = GOOD._replace(**changes).problems()
    assert line.startswith("Gemma 2 27B: ")
    with pytest.raises(ValueError, match=said):
        raise ValueError(line)


def test_what_was_mended_is_marked_and_explained():
    text = table([GOOD, GOOD._replace(name="Gemma 3", mended=False, unmended=None)])
    rows = text.splitlines()
    assert "2.0e-06*" in rows[2]
    assert "*" not in rows[3]
    assert rows[-1] == (
        "* Gemma 2 27B: KerasHub's blocks forget its query scale; left so, it differs by 3.0e-01"
    )
