"""What a benchmark compares: one ratio, its goal where it has one, and whether that is met."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple


class Ratio(NamedTuple):
    """One comparison. `at_least` and `at_most` are its goal, where it has one."""

    name: str
    value: float
    at_least: float | None = None
    at_most: float | None = None

    @property
    def verdict(self) -> str:
        """Met, missed, or empty where nothing was promised."""
        if self.at_least is not None:
            return "met" if self.value >= self.at_least else "missed"
        if self.at_most is not None:
            return "met" if self.value <= self.at_most else "missed"
        return ""

    @property
    def goal(self) -> str:
        """The goal in words."""
        if self.at_least is not None:
            return f"at least {self.at_least:g}"
        return f"at most {self.at_most:g}" if self.at_most is not None else ""

    def as_json(self) -> dict[str, Any]:
        """The same for programs; a verdict of None where nothing was promised."""
        return {**self._asdict(), "verdict": self.verdict or None}


def ratio_lines(ratios: Sequence[Ratio]) -> str:
    """The ratios, each with its goal and whether it is met."""
    return "\n".join(
        f"{ratio.name:<46}{ratio.value:>8.3f}   {ratio.goal:<14}{ratio.verdict}".rstrip()
        for ratio in ratios
    )
