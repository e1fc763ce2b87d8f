"""Rules over figures: who is recommended for what, how strongly, and what for."""

from __future__ import annotations

import dataclasses

import pytest

from coderllm_jax.comparison.cost import machine_of, reckon
from coderllm_jax.comparison.figures import SPECS, Figure
from coderllm_jax.comparison.findings import Findings
from coderllm_jax.comparison.prompts import Choice, Plan, Tried, Worth
from coderllm_jax.comparison.questions import ASKED, SEEN, UNSEEN
from coderllm_jax.comparison.recommendations import recommend
from coderllm_jax.comparison.verdicts import decide, hold_contests
from coderllm_jax.config.comparison import PricesSection, UseCasesSection
from coderllm_jax.records import Estimate
from tests.comparison.made import arm, turn

FACT_F1 = next(spec for spec in SPECS if spec.name == "fact_f1")
SECTION = UseCasesSection()
NUM = 40


def findings(
    scores,
    *,
    newer=None,
    first_token_s=None,
    cites=None,
    memory=None,
    wall_s=None,
    right=None,
    fixed=None,
    main_set=SEEN,
):
    """Arms whose every question has the same score, but for a little that makes tests possible."""
    names = list(scores or first_token_s)
    first_token_s, cites, wall_s = first_token_s or {}, cites or {}, wall_s or {}
    figures, contests = [], []
    for set_name, of_set in ((main_set, scores), (UNSEEN, newer)):
        if not of_set:
            continue
        values = {
            name: {f"q{n}": mean + (0.01 if n % 2 else -0.01) * (k + 1) for n in range(NUM)}
            for k, (name, mean) in enumerate(of_set.items())
        }
        spec = FACT_F1 if set_name == SEEN else FACT_F1._replace(family="quality")
        contests += hold_contests(spec, values, set_name=set_name, seed=0)
        arms = {
            name: Estimate(mean, mean - 0.05, mean + 0.05, NUM) for name, mean in of_set.items()
        }
        figures.append(Figure("accuracy", "fact_f1", "Fact F1", "", arms, set=set_name))
    figures.append(
        Figure(
            "performance",
            "alone/time_to_first_token_s/p50",
            "First token",
            "",
            {name: Estimate(s, s * 0.9, s * 1.1, 12) for name, s in first_token_s.items()},
        )
    )
    figures.append(
        Figure(
            "quality",
            "cites",
            "Cites",
            "",
            {n: Estimate(v) for n, v in cites.items()},
            set=main_set,
        )
    )
    prices = PricesSection()
    right = right or {}
    costs = reckon(
        [turn(name, n, wall_s=wall_s.get(name, 5.0)) for name in names for n in (1, 2)],
        {name: dict.fromkeys((1, 2), right.get(name, 5)) for name in names} if scores else None,
        arms=names,
        fixed=fixed or {},
        machine=machine_of("cpu", prices),
        prices=prices,
        seed=0,
    )
    return Findings(
        arms=[arm(name, memory=(memory or {}).get(name)) for name in names],
        choices=dict.fromkeys(names),
        questions=(),
        scored={},
        rounds={},
        figures=figures,
        comparisons=decide(contests, alpha=0.05, margin=0.05, speed_margin=0.1),
        costs=costs,
        notes=(),
        unscored=(),
        main_set=main_set,
    )


def recommended(found, use_case, **section):
    each = recommend(found, dataclasses.replace(SECTION, **section))
    return next(one for one in each if one.use_case == use_case)


def test_better_than_all_is_strong():
    found = recommended(findings({"trained": 0.4, "rag": 0.8, "base": 0.3}), "best_answers")
    assert (found.arm, found.strength) == ("rag", "strong")
    assert found.ranking == ("rag",)
    assert any(
        "rag is better than" in each.words or "worse than rag" in each.words
        for each in found.evidence
    )


def test_equivalent_is_moderate_and_the_rule_prefers():
    found = findings(
        {"trained": 0.81, "rag": 0.8, "base": 0.3}, wall_s={"trained": 2.0, "rag": 9.0}
    )
    best = recommended(found, "best_answers")
    assert (best.arm, best.strength) == ("trained", "moderate")
    assert best.ranking == ("trained", "rag")
    batch = recommended(
        findings({"trained": 0.81, "rag": 0.8}, wall_s={"trained": 9.0, "rag": 2.0}),
        "offline_batch",
    )
    assert batch.arm == "rag"


def test_what_cannot_be_told_apart_is_weak():
    found = findings({"trained": 0.6, "rag": 0.55})
    blurred = [comparison._replace(verdict="no_difference") for comparison in found.comparisons]
    weak = recommended(dataclasses.replace(found, comparisons=blurred), "best_answers")
    assert (weak.arm, weak.strength) == ("trained", "weak")
    assert "cannot tell it from rag" in weak.words


def test_who_knows_too_little_is_recommended_for_nothing():
    found = findings({"trained": 0.15, "rag": 0.1, "base": 0.05})
    for each in recommend(found, SECTION):
        assert (each.arm, each.strength) == ("", "none")
    assert "use_cases.least_score" in recommended(found, "best_answers").words


def test_who_seems_to_know_too_little_may_only_seem_so():
    """It is not recommended, but it weakens what is."""
    found = findings({"trained": 0.25, "rag": 0.19})
    blurred = [comparison._replace(verdict="no_difference") for comparison in found.comparisons]
    best = recommended(dataclasses.replace(found, comparisons=blurred), "best_answers")
    assert (best.arm, best.strength) == ("trained", "weak")


def test_a_first_token_that_is_late_is_not_interactive():
    found = findings({"trained": 0.4, "rag": 0.8}, first_token_s={"trained": 0.3, "rag": 0.95})
    fast = recommended(found, "interactive")
    assert fast.arm == "trained"  # rag's 0.95 s may be 1.05 s
    assert any("over 1.00 s" in each.words for each in fast.evidence)
    assert recommended(found, "interactive", first_token_s=1.1).arm == "rag"
    late = recommended(found, "interactive", first_token_s=0.1)
    assert (late.arm, late.strength) == ("", "none")


def test_only_arms_with_sources_cite():
    found = findings({"trained": 0.9, "rag": 0.5}, cites={"rag": 0.7})
    must = recommended(found, "must_cite")
    assert (must.arm, must.strength) == ("rag", "moderate")
    assert recommended(found, "must_cite", cited_share=0.8).arm == ""


def test_an_arm_that_would_cite_if_it_were_told_to_says_so():
    found = findings({"trained": 0.9, "rag": 0.5}, cites={"rag": 0.0})
    told = Tried(Plan("chat", passages=3, cites=True), Worth(Estimate(0.4), Estimate(0.9)))
    choice = Choice(Plan("chat", passages=3), (told,))
    must = recommended(
        dataclasses.replace(found, choices={"trained": None, "rag": choice}), "must_cite"
    )
    assert must.arm == ""
    assert any("told to, 0.900 did" in each.words for each in must.evidence)


def test_what_changes_is_decided_by_what_is_newer():
    found = findings({"trained": 0.9, "rag": 0.5}, newer={"trained": 0.1, "rag": 0.5})
    assert recommended(found, "knowledge_changes").arm == "rag"
    assert recommended(found, "best_answers").arm == "trained"
    unasked = recommended(findings({"trained": 0.9, "rag": 0.5}), "knowledge_changes")
    assert (unasked.arm, unasked.strength) == ("", "none")


def test_memory():
    memory = {"trained": {"weights": 10**9}, "rag": {"weights": 10**9, "embedder": 2 * 10**9}}
    found = findings({"trained": 0.4, "rag": 0.8}, memory=memory)
    assert recommended(found, "tight_memory").arm == "trained"
    assert recommended(found, "tight_memory", memory_gb=4).arm == "rag"


def test_high_volume_counts_training_and_right_answers():
    """Trained: 0.2 s an answer, half of them right, 1,000 s of training. Rag: 0.5 s, half right."""
    found = findings(
        {"trained": 0.5, "rag": 0.5},
        wall_s={"trained": 2.0, "rag": 5.0},
        fixed={"trained": {"training": 1000.0}},
    )
    many = recommended(found, "high_volume", volume=1_000_000)
    assert (many.arm, many.strength) == ("trained", "strong")
    few = recommended(found, "high_volume", volume=100)
    assert few.arm == "rag"
    none = findings({"trained": 0.5, "rag": 0.5}, right={"trained": 0, "rag": 0})
    assert recommended(none, "high_volume").arm == ""


@pytest.mark.parametrize("use_case", ["best_answers", "offline_batch", "high_volume"])
def test_without_references_nobody_is_best(use_case):
    found = findings(None, first_token_s={"trained": 0.3, "rag": 0.5}, main_set=ASKED)
    assert recommended(found, use_case).arm == ""


def test_without_references_speed_still_recommends_and_is_weak():
    found = findings(None, first_token_s={"trained": 0.3, "rag": 5.0}, main_set=ASKED)
    fast = recommended(found, "interactive")
    assert (fast.arm, fast.strength) == ("trained", "weak")
    assert "not known" in fast.words


def test_every_use_case_has_a_rule_and_its_own_name():
    found = recommend(findings({"trained": 0.4, "rag": 0.8}), SECTION)
    assert len({each.use_case for each in found}) == len(found) == 7
    assert all(each.rule and each.label and each.words for each in found)
