"""The regression gate: whether this model answers worse than an earlier one, item by item.

    samples of now     {suite, id, scores}  ┐  pairs by suite, id and score
    samples of then    {suite, id, scores}  ┘
                            │
    figure  qa_accuracy/seen/fact_f1   fact_f1 0.41 → 0.31 on 150 pairs, p 0.0004
                            │  Holm over all figures that may fail the gate
                            ▼
    failed                  where a drop is significant and larger than the margin

Scores of 0 and 1 are compared by McNemar's exact test, others by sign flips, both for a drop alone
(one-sided), because an improvement fails no gate. Several samples of one problem count as their
mean. Items that are only in one result, or were asked differently, are left out and counted.

Covers: false alarms over all gated figures together at most `alpha`, whatever their dependence.
Does not cover: figures without items. Times and rates are shown side by side and never fail the
gate: they depend on the machine and what else it did, and one number of each has no variance to be
judged by. Nor does it cover being run again until it passes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from coderllm_jax.evaluation.baseline import (
    describe_conditions,
    find_baseline,
    load_baseline,
)
from coderllm_jax.evaluation.context import Context
from coderllm_jax.evaluation.pairing import Figure, Pairs, find_losses, pair_items, scores_by_figure
from coderllm_jax.evaluation.results import SuiteResult
from coderllm_jax.evaluation.statistics import PairedComparison, adjust_holm, compare_pairs
from coderllm_jax.records import Estimate

# Fewer independent pairs than this say little about a model: five that all got worse would decide.
LEAST_PAIRS = 20
_MOST_ITEMS_LISTED = 50


@dataclasses.dataclass(frozen=True)
class FigureChange:
    """One figure, then and now.

    change is oriented: positive is better, also for losses. allowed: the drop that the margin lets
    pass, in the figure's own unit. p_value: of no drop, one-sided; adjusted_p: after Holm, None
    where the figure may not fail the gate. worse_items: id, both scores and what the baseline
    answered, those that lost most first.
    """

    figure: Figure
    baseline: float
    current: float
    change: Estimate
    allowed: float
    p_value: float
    adjusted_p: float | None
    comparison: PairedComparison
    worse_items: list[dict[str, Any]]

    def regressed(self, alpha: float) -> bool:
        """Whether this alone fails the gate."""
        assert self.change.value is not None
        significant = self.adjusted_p is not None and self.adjusted_p <= alpha
        return significant and -self.change.value > self.allowed

    def to_json(self, alpha: float) -> dict[str, Any]:
        """For the results' details; with the baseline's answers where it is a regression."""
        told = ("id", "baseline", "current", *(["baseline_answer"] * self.regressed(alpha)))
        return {
            "figure": str(self.figure),
            "baseline": self.baseline,
            "current": self.current,
            "change": self.change._asdict(),
            "allowed_drop": self.allowed,
            "test": self.comparison.test,
            "p_value": self.p_value,
            "adjusted_p": self.adjusted_p,
            "num_pairs": self.comparison.num_items,
            "num_clusters": self.comparison.num_clusters,
            "num_worse": self.comparison.num_worse,
            "num_better": self.comparison.num_better,
            "detectable_difference": self.comparison.detectable_difference,
            "worse_items": [
                {name: item[name] for name in told}
                for item in self.worse_items[:_MOST_ITEMS_LISTED]
            ],
        }

    def describe(self) -> str:
        """One line for a person."""
        return (
            f"{self.figure}: {self.baseline:.3f} → {self.current:.3f} on "
            f"{self.comparison.num_items} pairs, {self.comparison.num_worse} worse and "
            f"{self.comparison.num_better} better, p {self.p_value:.2g}"
        )


@dataclasses.dataclass(frozen=True)
class GateVerdict:
    """What the gate says. `regressions` are the figures that fail it; `reason` is for a person."""

    outcome: Literal["passed", "failed", "not_comparable"]
    regressions: tuple[str, ...]
    reason: str


class Gate(NamedTuple):
    """The suite's result and the verdict in it."""

    result: SuiteResult
    verdict: GateVerdict


def run_regression(
    context: Context, results: Sequence[SuiteResult], *, manifest: Mapping[str, Any] | None = None
) -> SuiteResult | None:
    """Compares the suites that have run with the baseline; None where there is none.

    manifest: what results.json will hold, to say what else has changed; without it, who answers
    and the configuration. Raises DataError for a baseline that cannot be read.
    """
    section = context.config.regression
    path = find_baseline(section.baseline, context.folder)
    if path is None:
        context.note("no baseline to compare with; --update-baseline makes this result one")
        return None
    baseline = load_baseline(path)
    context.note(f"comparing with {path}")
    current = {
        "manifest": manifest
        or {"answerer": dict(context.answerer.identity), "config": context.config.to_dict()},
        "suites": {result.name: result.to_json() for result in results},
    }
    samples = [sample for result in results for sample in result.samples]
    gate = find_regressions(
        current,
        samples,
        baseline.results,
        baseline.samples,
        margin=section.margin,
        alpha=section.alpha,
        scores=section.scores,
        seed=context.config.seed,
    )
    return dataclasses.replace(gate.result, details={**gate.result.details, "baseline": str(path)})


def gate_failed(result: SuiteResult | None) -> bool:
    """Whether a result of `run_regression` is one that the command fails for."""
    return result is not None and result.details["gate"] == "failed"


def find_regressions(
    results: Mapping[str, Any],
    samples: Iterable[Mapping[str, Any]],
    baseline_results: Mapping[str, Any],
    baseline_samples: Iterable[Mapping[str, Any]],
    *,
    margin: float,
    alpha: float,
    scores: Sequence[str] = (),
    seed: int = 0,
    num_resamples: int = 10_000,
) -> Gate:
    """Compares two evaluations; `results` are as results.json holds them, `samples` its rows.

    margin: for scores between 0 and 1 the smallest drop that counts, for others as a part of the
    baseline's mean. scores: those that may fail the gate; empty: all.
    """
    now, then = scores_by_figure(samples), scores_by_figure(baseline_samples)
    losses = find_losses(results) | find_losses(baseline_results)
    compared: list[FigureChange] = []
    notes: list[str] = []
    left_out: dict[str, Any] = {}
    for figure in sorted(now.keys() & then.keys()):
        pairs = pair_items(now[figure], then[figure])
        if pairs.left_out:
            left_out[str(figure)] = pairs.left_out
        if (independent := len(set(pairs.clusters))) < LEAST_PAIRS:
            notes.append(f"{figure}: {independent} common items are too few to compare")
            continue
        is_loss = figure.score in losses
        compared.append(
            _compare(
                figure,
                pairs,
                margin=margin,
                is_loss=is_loss,
                seed=seed,
                num_resamples=num_resamples,
            )
        )
    compared = _adjusted(compared, scores)
    verdict = _judge(compared, alpha)
    notes += [
        note
        for note in (
            _not_measured(now, then, scores),
            describe_conditions(results.get("manifest", {}), baseline_results.get("manifest", {})),
        )
        if note
    ]
    if left_out:
        most = max(left_out, key=lambda name: sum(left_out[name].values()))
        notes.append(
            f"not all items are common; of {most}, {_listed(left_out[most])} were left out"
        )
    clocked = list(
        _without_items(results, baseline_results, {change.figure for change in compared})
    )
    if clocked:
        notes.append(
            f"{len(clocked)} figures have no items to pair, such as times and rates: shown, "
            "never judged"
        )
    details = {
        "gate": verdict.outcome,
        "reason": verdict.reason,
        "regressions": list(verdict.regressions),
        "margin": margin,
        "alpha": alpha,
        "changes": [change.to_json(alpha) for change in compared],
        "left_out": left_out,
        "unpaired_figures": clocked,
    }
    figures = {f"{change.figure}_change": change.change for change in compared}
    result = SuiteResult("regression", figures, details=details, notes=(verdict.reason, *notes))
    return Gate(result, verdict)


# ------------------------------------------------------------------------------------ comparing


def _compare(
    figure: Figure,
    pairs: Pairs,
    *,
    margin: float,
    is_loss: bool,
    seed: int,
    num_resamples: int,
) -> FigureChange:
    both = np.concatenate([pairs.current, pairs.baseline])
    is_share = not is_loss and bool(((both >= 0) & (both <= 1)).all())
    # In the order in which a positive difference is an improvement.
    a, b = (pairs.baseline, pairs.current) if is_loss else (pairs.current, pairs.baseline)
    independent = len(set(pairs.clusters)) == len(pairs.clusters)
    comparison = compare_pairs(
        a,
        b,
        binary=bool(np.isin(both, (0, 1)).all()),
        clusters=None if independent else pairs.clusters,
        bounds=(0.0, 1.0) if is_share else None,
        num_resamples=num_resamples,
        seed=seed,
    )
    change = comparison.difference
    assert change.value is not None
    # Both tests are symmetric: half of the two-sided value is that of a drop.
    one_sided = comparison.p_value / 2 if change.value < 0 else 1 - comparison.p_value / 2
    changes = a - b
    order = np.argsort(changes, kind="stable")
    return FigureChange(
        figure=figure,
        baseline=float(pairs.baseline.mean()),
        current=float(pairs.current.mean()),
        change=change,
        allowed=margin if is_share else margin * abs(float(pairs.baseline.mean())),
        p_value=one_sided,
        adjusted_p=None,
        comparison=comparison,
        worse_items=[
            {
                "id": pairs.items[place],
                "baseline": float(pairs.baseline[place]),
                "current": float(pairs.current[place]),
                "baseline_answer": pairs.baseline_answers[place],
            }
            for place in order
            if changes[place] < 0
        ],
    )


def _adjusted(changes: Sequence[FigureChange], scores: Sequence[str]) -> list[FigureChange]:
    """With Holm's p-values over the figures that may fail the gate; those stand first."""
    gated = [change for change in changes if not scores or change.figure.score in scores]
    others = [change for change in changes if scores and change.figure.score not in scores]
    adjusted = adjust_holm(change.p_value for change in gated)
    return [
        dataclasses.replace(change, adjusted_p=p) for change, p in zip(gated, adjusted, strict=True)
    ] + others


def _judge(changes: Sequence[FigureChange], alpha: float) -> GateVerdict:
    gated = [change for change in changes if change.adjusted_p is not None]
    if not gated:
        reason = (
            "not comparable: no figure that may fail the gate has as many as "
            f"{LEAST_PAIRS} items in common with the baseline"
        )
        return GateVerdict("not_comparable", (), reason)
    failed = [change for change in gated if change.regressed(alpha)]
    if failed:
        names = tuple(str(change.figure) for change in failed)
        lines = "; ".join(change.describe() for change in failed)
        return GateVerdict("failed", names, f"worse than the baseline: {lines}")
    return GateVerdict("passed", (), f"no drop beyond the margin is shown in {len(gated)} figures")


# ------------------------------------------------------------------------- what is not compared


def _not_measured(now: Iterable[Figure], then: Iterable[Figure], scores: Sequence[str]) -> str:
    """What could have failed the gate and was not measured this time; a pass says nothing on it."""
    missing = [
        str(figure)
        for figure in sorted(set(then) - set(now))
        if not scores or figure.score in scores
    ]
    return f"in the baseline, but not in this result: {', '.join(missing)}" if missing else ""


def _without_items(
    now: Mapping[str, Any], then: Mapping[str, Any], compared: set[Figure]
) -> Iterator[dict[str, Any]]:
    """Figures of both results that no pair of samples speaks for."""
    suites_compared = {figure.suite for figure in compared}
    for suite in sorted(now["suites"].keys() & then["suites"].keys()):
        unstable = set(now["suites"][suite].get("unstable", ()))
        current, baseline = now["suites"][suite]["figures"], then["suites"][suite]["figures"]
        for name in sorted(current.keys() & baseline.keys()):
            if suite in suites_compared and name not in unstable:
                continue
            old, new = baseline[name]["value"], current[name]["value"]
            yield {"figure": f"{suite}/{name}", "baseline": old, "current": new}


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in counts.items())
