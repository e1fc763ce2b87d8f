"""How sure a figure is, and whether two differ: intervals, paired tests, effect sizes, power.

Two systems answer the same questions; each question is a pair, questions that belong together
(the paraphrases of one, the samples of one problem) are a cluster:

    item       1    2    3    4    5  ...
    a          1.0  0.5  1.0  0.0  1.0
    b          1.0  0.0  0.5  0.0  0.0      a - b is what is compared: positive means a is better
    a - b      0.0  0.5  0.5  0.0  1.0
    cluster    x    x    y    y    z        resampled and sign-flipped as wholes

Covers: sampling of items (would other questions from where these came give the same?), few items,
skewed and bounded scores, clusters, many comparisons at once (`adjust_holm`). Does not cover: how
answers vary with the seed of sampling unless each item's samples are its cluster; items that are
not a fair sample of what users ask; looking again and again while items come in; dependence between
clusters. Everything that draws is a function of `seed`. Intervals are 95 % unless `level` says
otherwise; p-values are two-sided.

Shapes: I items, C clusters, R resamples, S sums, F p-values of a family, D counts of pairs that
differ.

clusters       values, weights and clusters as arrays; sums of what belongs together
intervals      Wilson, bootstrap, Bonett and Price
significance   McNemar, sign flips, Holm; effect sizes
power          the smallest difference that so many pairs can show
pairs          all of it for two systems: `compare_pairs`
"""

from coderllm_jax.evaluation.statistics.intervals import (
    bonett_price_interval,
    bootstrap_difference,
    bootstrap_mean,
    bootstrap_totals,
    wilson_interval,
)
from coderllm_jax.evaluation.statistics.pairs import PairedComparison, compare_pairs
from coderllm_jax.evaluation.statistics.power import (
    detectable_binary_difference,
    detectable_mean_difference,
)
from coderllm_jax.evaluation.statistics.significance import (
    adjust_holm,
    cliffs_delta,
    cohens_dz,
    mcnemar_exact,
    paired_odds_ratio,
    permutation_test,
)

__all__ = [
    "PairedComparison",
    "adjust_holm",
    "bonett_price_interval",
    "bootstrap_difference",
    "bootstrap_mean",
    "bootstrap_totals",
    "cliffs_delta",
    "cohens_dz",
    "compare_pairs",
    "detectable_binary_difference",
    "detectable_mean_difference",
    "mcnemar_exact",
    "paired_odds_ratio",
    "permutation_test",
    "wilson_interval",
]
