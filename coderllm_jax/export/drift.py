"""How far two models' logits are apart, and how far they may be.

    one      [P, V]   ──┐   largest |difference|, KL divergence, and positions where the likeliest
    other    [P, V]   ──┘   token is another one

Formats that keep every digit are held to a difference: what is left is the order of sums. Formats
that round weights, and llama.cpp, which rounds activations where weights are rounded, are held to
the KL divergence in nats, which is what a reader of the model would notice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Logits = Sequence[npt.NDArray[np.float32]]


class Drift(NamedTuple):
    """How far logits are apart, over all positions.

    difference: the largest. kl: the largest and mean KL divergence of the other from the one, in
    nats. flips: positions whose likeliest token differs; flip_gap: the largest lead, in the one's
    logits, that was lost there.
    """

    difference: float
    kl: float
    mean_kl: float
    flips: int
    flip_gap: float
    positions: int


class Limit(NamedTuple):
    """What is allowed. `difference` is infinite where only the divergence counts."""

    difference: float
    kl: float

    def violation(self, drift: Drift) -> str:
        """What exceeds the limit, in words; empty where nothing does."""
        if not drift.difference <= self.difference:  # NaN is beyond every limit
            return f"logits differ by {drift.difference:.3g}, {self.difference:g} are allowed"
        if not drift.kl <= self.kl:
            return f"KL divergence is {drift.kl:.3g} nats, {self.kl:g} are allowed"
        return ""


def measure_drift(one: Logits, other: Logits) -> Drift:
    """The drift of `other` from `one`: lists of [positions, V], a prompt each."""
    differences, divergences, gaps = [], [], []
    for ours, theirs in zip(one, other, strict=True):
        if ours.shape != theirs.shape:
            # A vocabulary of another size is another model.
            return Drift(np.inf, np.inf, np.inf, len(ours), np.inf, len(ours))
        for a, b in zip(ours.astype(np.float64), theirs.astype(np.float64), strict=True):
            differences.append(np.abs(a - b).max())
            log_p, log_q = _log_softmax(a), _log_softmax(b)
            divergences.append(float(np.exp(log_p) @ (log_p - log_q)))
            if a.argmax() != b.argmax():
                gaps.append(float(a.max() - a[b.argmax()]))
    return Drift(
        difference=float(np.max(differences)),
        kl=float(np.max(divergences)),
        mean_kl=float(np.mean(divergences)),
        flips=len(gaps),
        flip_gap=max(gaps, default=0.0),
        positions=len(differences),
    )


def as_json(drift: Drift) -> dict[str, Any]:
    """The figures, rounded to what they can be trusted to."""
    return {
        name: float(f"{value:.4g}") if isinstance(value, float) else value
        for name, value in drift._asdict().items()
    }


def _log_softmax(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    shifted = x - x.max()
    return shifted - np.log(np.exp(shifted).sum())
