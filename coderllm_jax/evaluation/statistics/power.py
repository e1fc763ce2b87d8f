"""The smallest difference that so many pairs can show: what "no difference found" rules out.

Covers: the test that `pairs` makes, at its level of 5 %, with 80 % power. Does not cover: several
comparisons at once, which need larger differences; how far off the observed spread is.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np


def detectable_mean_difference(
    num_pairs: int, *, deviation: float, alpha: float = 0.05, power: float = 0.8
) -> float | None:
    """The smallest true mean difference that a paired t-test shows with `power` (Cohen 1988).

    deviation: standard deviation of the differences. By the noncentral t distribution, both tails.
    None where nothing varies or there are fewer than two pairs.
    """
    from scipy.special import nctdtr, stdtrit

    if num_pairs < 2 or deviation <= 0:
        return None
    freedom = num_pairs - 1
    limit = float(stdtrit(freedom, 1 - alpha / 2))

    def power_at(shift: float) -> float:
        return float(1 - nctdtr(freedom, shift, limit) + nctdtr(freedom, shift, -limit))

    shift = _least(power_at, power, high=limit + 40.0)
    return None if shift is None else shift * deviation / math.sqrt(num_pairs)


def detectable_binary_difference(
    num_pairs: int, *, discordance: float, alpha: float = 0.05, power: float = 0.8
) -> float | None:
    """The smallest true difference of proportions that the exact McNemar test shows with `power`.

    discordance: the share of pairs that differ; where a difference is larger than that, it is the
    share. Exact: over the number of pairs that differ, then over how they fall (Lachin 1992 has
    the large-sample form). None where even a difference of 1 would not be shown (under 6 pairs at
    5 %).
    """
    from scipy.special import bdtr

    if num_pairs < 1:
        return None
    differ_D = np.arange(num_pairs + 1)
    least_D = _largest_rejected(differ_D, alpha)

    def power_at(difference: float) -> float:
        share = min(1.0, max(discordance, difference))
        chance_D = _binomial_mass(differ_D, num_pairs, share)
        for_a = min(1.0, (1 + difference / share) / 2)
        rejected_D = np.where(
            least_D >= 0,
            bdtr(np.maximum(least_D, 0), differ_D, 1 - for_a)
            + bdtr(np.maximum(least_D, 0), differ_D, for_a),
            0.0,
        )
        return float(chance_D @ rejected_D)

    return _least(power_at, power, high=1.0)


def _largest_rejected(differ_D: np.ndarray, alpha: float) -> np.ndarray:
    """For each number of pairs that differ, the largest smaller side that is significant, or -1."""
    from scipy.special import bdtr

    least_D = np.full(differ_D.size, -1)
    side = 0
    for place, differ in enumerate(differ_D):
        while side <= differ and 2 * bdtr(side, differ, 0.5) <= alpha:
            side += 1
        least_D[place] = side - 1
    return least_D


def _binomial_mass(successes: np.ndarray, trials: int, share: float) -> np.ndarray:
    from scipy.special import gammaln, xlog1py, xlogy

    log_mass = gammaln(trials + 1) - gammaln(successes + 1) - gammaln(trials - successes + 1)
    return np.exp(log_mass + xlogy(successes, share) + xlog1py(trials - successes, -share))


def _least(power_at: Callable[[float], float], power: float, *, high: float) -> float | None:
    """The least argument up to `high` at which a rising function reaches `power`."""
    if power_at(high) < power:
        return None
    low = 0.0
    for _ in range(60):
        middle = (low + high) / 2
        if power_at(middle) < power:
            low = middle
        else:
            high = middle
    return high
