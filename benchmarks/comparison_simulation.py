"""Verdicts held against worlds that are known: `python -m benchmarks.comparison_simulation`.

Arms answer questions of a made-up world, and the comparison's own figures and verdicts
(`comparison.figures`, `comparison.verdicts`) are asked what they make of it, a thousand times:

    equal       four arms that are equally good, 100 questions; two arms, 300. A difference
                that is called one is a false alarm: at most 5 % of the runs may have any, over all
                pairs and figures.
    intervals   of an arm's score and of a difference, 100 questions. 93 to 97 % hold what is true.
    spoiled     four arms, 300 questions; one of them gives another's answers with 10 points of
                fact F1 spoiled. It is called worse than that one, and better than none.
    apart       two arms, 300 questions, 10 points apart, with answers of their own.

The last two must be found in 80 % of the runs at least. A score is 1, 0 or one of the fractions
that fact F1 has between. Questions are easier and harder, and arms agree about that and beyond it
(`--agreement`, the correlation of a normal copula), as models of the same weights do.

Prints the table, writes it to --json=FILE, and exits with 1 where a target is missed. 1,000 runs
take a quarter of an hour; --runs=20 shows that it works.
"""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import app, flags
from scipy.special import ndtr

from coderllm_jax.comparison.figures import SPECS, Spec, estimate_score
from coderllm_jax.comparison.verdicts import Comparison, decide, find, hold_contests
from coderllm_jax.config.comparison import SpeedSection, VerdictsSection
from coderllm_jax.evaluation.statistics import wilson_interval
from coderllm_jax.records import Estimate

ALARMS, LEAST_COVERAGE, MOST_COVERAGE, POWER = 0.05, 0.93, 0.97, 0.8

_FACT_F1 = next(spec for spec in SPECS if spec.name == "fact_f1")
_TESTED = tuple(spec for spec in SPECS if spec.name in ("fact_f1", "right", "clear"))
_PARTLY = (0.25, 0.4, 0.5, 2 / 3, 0.8)
_PART = 0.3  # of the answers that are not wholly right, those that are partly right
_CLEAR = 0.7


class World(NamedTuple):
    """How arms answer. loss: the part of an arm's answers that is spoiled, by arm.

    twins: arm → the arm whose answers it gives before they are spoiled.
    """

    agreement: float
    loss: Mapping[str, float]
    twins: Mapping[str, str] = types.MappingProxyType({})

    def draw(
        self, generator: np.random.Generator, num_questions: int
    ) -> dict[str, dict[str, np.ndarray]]:
        """Figure → arm → a score for each question."""
        easy = generator.beta(0.8, 1.2, num_questions)
        common = generator.standard_normal((3, num_questions))
        scores: dict[str, dict[str, np.ndarray]] = {"fact_f1": {}, "right": {}, "clear": {}}
        for arm, loss in self.loss.items():
            own = generator.standard_normal((3, num_questions))
            u, v, w = ndtr(np.sqrt(self.agreement) * common + np.sqrt(1 - self.agreement) * own)
            partly = np.array(_PARTLY)[np.minimum((v / _PART * len(_PARTLY)).astype(int), 4)]
            score = np.where(u < easy, 1.0, np.where(v < _PART, partly, 0.0))
            if arm in self.twins:
                score = scores["fact_f1"][self.twins[arm]]
            score = np.where(generator.random(num_questions) < loss, 0.0, score)
            scores["fact_f1"][arm] = score
            scores["right"][arm] = (score >= VerdictsSection().right_from).astype(float)
            scores["clear"][arm] = (w < _CLEAR).astype(float)
        return scores

    def truth(self, arm: str) -> float:
        """The expected fact F1: `easy` has mean 0.4, and u, v and spoiling are independent."""
        return (0.4 + 0.6 * _PART * float(np.mean(_PARTLY))) * (1 - self.loss[arm])


def judge(scores: Mapping[str, Mapping[str, np.ndarray]]) -> list[Comparison]:
    """What the comparison says of such scores."""
    contests = [
        contest
        for spec in _TESTED
        for contest in hold_contests(
            spec,
            {arm: dict(enumerate(map(float, each))) for arm, each in scores[spec.name].items()},
            set_name="seen",
            seed=0,
        )
    ]
    section = VerdictsSection()
    return decide(
        contests,
        alpha=section.alpha,
        margin=section.margin,
        speed_margin=SpeedSection().margin,
    )


def is_alarm(comparisons: list[Comparison]) -> bool:
    """Whether any difference is called one."""
    return any(each.verdict in ("better", "worse") for each in comparisons)


def said_of(comparisons: list[Comparison], arm: str, other: str) -> str:
    """The verdict of an arm's fact F1 against another's."""
    found = find(comparisons, _FACT_F1.name, arm, other, set_name="seen")
    assert found is not None
    return found[0]


def holds(estimate: Estimate, truth: float) -> bool:
    """Whether an interval holds the true value."""
    assert estimate.low is not None
    assert estimate.high is not None
    return estimate.low <= truth <= estimate.high


def loss_for(points: float, world: World) -> float:
    """The part of an arm's answers to spoil so that its fact F1 falls by `points`."""
    whole = World(world.agreement, {"": 0.0}).truth("")
    return points / whole


def equal_arms(
    world: World, num_questions: int
) -> Callable[[np.random.Generator], dict[str, bool]]:
    """Whether a run of equal arms has a false alarm, and where."""

    def run(generator: np.random.Generator) -> dict[str, bool]:
        found = judge(world.draw(generator, num_questions))
        of_f1 = [each for each in found if each.contest.spec is _FACT_F1]
        return {"any": is_alarm(found), "fact F1": is_alarm(of_f1)}

    return run


def intervals(world: World, num_questions: int) -> Callable[[np.random.Generator], dict[str, bool]]:
    """Whether a run's intervals hold what is true."""

    def run(generator: np.random.Generator) -> dict[str, bool]:
        scores = world.draw(generator, num_questions)
        f1 = {arm: dict(enumerate(map(float, each))) for arm, each in scores["fact_f1"].items()}
        (contest,) = hold_contests(_FACT_F1, f1, set_name="seen", seed=0)
        difference = world.truth(contest.first) - world.truth(contest.second)
        binary = next(spec for spec in _TESTED if spec.name == "clear")
        first = scores["fact_f1"][contest.first]
        return {
            "fact F1": holds(_estimate(_FACT_F1, first), world.truth(contest.first)),
            "difference of fact F1": holds(contest.compared.difference, difference),
            "share": holds(_estimate(binary, scores["clear"][contest.first]), _CLEAR),
        }

    return run


def planted(world: World, num_questions: int) -> Callable[[np.random.Generator], dict[str, bool]]:
    """Whether a run finds that `worse` is worse than `a`, and calls it better than nobody."""

    def run(generator: np.random.Generator) -> dict[str, bool]:
        found = judge(world.draw(generator, num_questions))
        others = [arm for arm in world.loss if arm != "worse"]
        verdicts = {other: said_of(found, "worse", other) for other in others}
        return {
            "worse than the other": verdicts["a"] == "worse",
            "worse than each": all(verdict == "worse" for verdict in verdicts.values()),
            "better than any": "better" in verdicts.values(),
        }

    return run


def _estimate(spec: Spec, values: np.ndarray) -> Estimate:
    return estimate_score(spec, values.tolist(), seed=0)


def repeat(
    run: Callable[[np.random.Generator], dict[str, bool]], runs: int, *, seed: int
) -> dict[str, Estimate]:
    """How often each thing happens, with Wilson's interval."""
    counts: dict[str, int] = {}
    for generator in np.random.default_rng(seed).spawn(runs):
        for name, happened in run(generator).items():
            counts[name] = counts.get(name, 0) + happened
    return {name: wilson_interval(count, runs) for name, count in counts.items()}


class Row(NamedTuple):
    """One line of the table. wanted: the least and the most that the share may be; None: told."""

    case: str
    what: str
    share: Estimate
    wanted: tuple[float, float] | None

    @property
    def is_missed(self) -> bool:
        """Whether it is beyond what is wanted."""
        if self.wanted is None or self.share.value is None:
            return False
        return not self.wanted[0] <= self.share.value <= self.wanted[1]


def simulate(*, runs: int, agreement: float, seed: int) -> list[Row]:
    """Every case, `runs` times each."""
    four = World(agreement, dict.fromkeys(("a", "b", "c", "d"), 0.0))
    two = World(agreement, dict.fromkeys(("a", "b"), 0.0))
    loss = loss_for(0.1, four)
    spoiled = World(agreement, {"a": 0.0, "b": 0.0, "c": 0.0, "worse": loss}, {"worse": "a"})
    apart = World(agreement, {"a": 0.0, "worse": loss})
    alarms, covered = (0.0, ALARMS), (LEAST_COVERAGE, MOST_COVERAGE)
    cases: list[tuple[str, Callable[[np.random.Generator], dict[str, bool]], dict[str, Any]]] = [
        (
            "equal: 4 arms, 100 questions",
            equal_arms(four, 100),
            {"any": alarms, "fact F1": alarms},
        ),
        (
            "equal: 2 arms, 300 questions",
            equal_arms(two, 300),
            {"any": alarms, "fact F1": alarms},
        ),
        (
            "intervals: equal, 100 questions",
            intervals(two, 100),
            dict.fromkeys(("fact F1", "difference of fact F1", "share"), covered),
        ),
        (
            "intervals: apart, 100 questions",
            intervals(apart, 100),
            dict.fromkeys(("fact F1", "difference of fact F1", "share"), covered),
        ),
        (
            "spoiled: 4 arms, 300 questions",
            planted(spoiled, 300),
            {
                "worse than the other": (POWER, 1.0),
                "worse than each": None,
                "better than any": (0.0, 0.0),
            },
        ),
        (
            "apart: 2 arms, 300 questions",
            planted(apart, 300),
            {"worse than the other": (POWER, 1.0), "better than any": (0.0, 0.0)},
        ),
    ]
    rows = []
    for number, (case, run, wanted) in enumerate(cases):
        print(f"{case} …", file=sys.stderr)
        shares = repeat(run, runs, seed=seed + number)
        rows += [Row(case, what, shares[what], each) for what, each in wanted.items()]
    return rows


def table(rows: list[Row], *, runs: int, agreement: float) -> str:
    """The figures for people."""
    lines = [
        f"{runs:,} runs of each case; agreement {agreement:g}",
        "",
        "| case | what | share | 95 % | wanted | |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        share = row.share
        wanted = "" if row.wanted is None else f"{row.wanted[0]:.0%} to {row.wanted[1]:.0%}"
        ends = f"{share.low:.1%} to {share.high:.1%}"
        missed = "missed" if row.is_missed else ""
        lines.append(
            f"| {row.case} | {row.what} | {share.value:.1%} | {ends} | {wanted} | {missed} |"
        )
    return "\n".join(lines)


def define_flags() -> None:
    """When it is run: a module that defines flags cannot be imported twice."""
    flags.DEFINE_string("json", "", "Also write the figures to this file.")
    flags.DEFINE_string("report", "", "Also write the table to this file (Markdown).")
    flags.DEFINE_integer("runs", 1000, "Runs of each case.", lower_bound=1)
    flags.DEFINE_float("agreement", 0.5, "Correlation of arms beyond the question.", 0.0, 0.99)
    flags.DEFINE_integer("seed", 0, "Draws the worlds.")


def main(argv: list[str]) -> None:
    """Simulates, prints and writes; exits with 1 where a target is missed."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    values = flags.FLAGS
    rows = simulate(runs=values.runs, agreement=values.agreement, seed=values.seed)
    text = table(rows, runs=values.runs, agreement=values.agreement)
    print(text)
    if values.report:
        what = (__doc__ or "").split("\n\n", 1)[0]
        Path(values.report).write_text(f"# Comparison, simulated\n\n{what}\n\n{text}\n")
    if values.json:
        figures = [
            {**row._asdict(), "share": row.share._asdict(), "is_missed": row.is_missed}
            for row in rows
        ]
        content = {"runs": values.runs, "agreement": values.agreement, "rows": figures}
        Path(values.json).write_text(json.dumps(content, indent=1) + "\n")
    if any(row.is_missed for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    define_flags()
    app.run(main)
