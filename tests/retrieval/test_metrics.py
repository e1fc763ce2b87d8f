"""Ranking figures are trec_eval's; grounds and citations are what a hand counts."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coderllm_jax.records import Source
from coderllm_jax.retrieval.metrics import (
    context_precision,
    judge_grounds,
    ndcg,
    ranked,
    recall,
    reciprocal_rank,
)

RANKING, GAINS = ["b", "a", "c", "d"], {"a": 2.0, "c": 1.0, "e": 1.0}


def test_rankings_by_hand():
    assert recall(RANKING, GAINS, k=3) == 2 / 3
    assert recall(RANKING, GAINS, k=1) == 0
    assert reciprocal_rank(RANKING, GAINS) == 1 / 2
    best = 2 + 1 / math.log2(3) + 1 / 2
    assert ndcg(RANKING, GAINS, k=3) == pytest.approx((2 / math.log2(3) + 1 / 2) / best)
    assert context_precision(RANKING, GAINS, k=3) == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_nothing_relevant_and_nothing_found_are_zero():
    for gains in ({}, {"z": 1.0}, {"a": 0.0}):
        assert recall(RANKING, gains, k=4) == 0
        assert reciprocal_rank(RANKING, gains) == 0
        assert ndcg(RANKING, gains, k=4) == 0
        assert context_precision(RANKING, gains, k=4) == 0


def test_equal_scores_rank_as_trec_eval_does():
    assert ranked({"a": 1.0, "b": 1.0, "é": 1.0, "c": 2.0}) == ["c", "é", "b", "a"]
    # One score in single precision, which is what trec_eval keeps.
    assert ranked({"a": 0.1 + 1e-12, "b": 0.1}) == ["b", "a"]


@pytest.mark.parametrize("seed", range(20))
def test_rankings_equal_pytrec_eval(seed):
    pytrec_eval = pytest.importorskip("pytrec_eval")
    chance = random.Random(seed)
    names = [f"p{number}" for number in range(30)] + ["é", "z z", "p"]
    judged, runs = {}, {}
    for number in range(12):
        query = f"q{number}"
        judged[query] = {n: chance.choice([-1, 0, 0, 1, 2, 3]) for n in chance.sample(names, 12)}
        retrieved = chance.sample(names, chance.randint(1, len(names)))
        # Six different scores for up to 33 passages: most of them are tied.
        runs[query] = {n: chance.choice([0.0, 0.1, 0.1 + 1e-12, 0.5, 1.5, -2.0]) for n in retrieved}
    cuts = (1, 3, 5, 10)
    measures = {"recip_rank", "ndcg"} | {f"{m}_{k}" for m in ("recall", "ndcg_cut") for k in cuts}
    expected = pytrec_eval.RelevanceEvaluator(judged, measures).evaluate(runs)
    assert len(expected) == len(runs)
    for query, figures in expected.items():
        ranking, gains = ranked(runs[query]), judged[query]
        ours = {"recip_rank": reciprocal_rank(ranking, gains), "ndcg": ndcg(ranking, gains, k=99)}
        for k in cuts:
            ours[f"recall_{k}"] = recall(ranking, gains, k=k)
            ours[f"ndcg_cut_{k}"] = ndcg(ranking, gains, k=k)
        assert ours == pytest.approx(figures, abs=1e-9)


@given(st.permutations(list("abcdef")), st.dictionaries(st.sampled_from("abcdefgh"), st.just(1.0)))
def test_context_precision_is_best_where_relevant_ones_lead(ranking, gains):
    figure = context_precision(ranking, gains, k=6)
    leading = sorted(ranking, key=lambda name: name not in gains)
    assert figure <= context_precision(leading, gains, k=6)
    assert context_precision(leading, gains, k=6) in (0.0, 1.0)


# --- grounds ------------------------------------------------------------------------------------

ADAM = Source("1", "optax.adam(learning_rate, b1=0.9)\nThe Adam optimizer keeps moments.", "o", 1.0)
CLIP = Source("2", "optax.clip(max_delta)\nClips updates element-wise.", "o", 0.5)
QUESTION = "What does optax.adam do?"


def test_groundedness_counts_what_stands_in_the_sources():
    # moments, 0.9 stand there; momentum, 0.95, some_name and its two words do not
    grounds = judge_grounds("Moments 0.9, momentum 0.95 some_name.", [ADAM], question=QUESTION)
    assert grounds.num_claims == 6
    assert grounds.groundedness == pytest.approx(2 / 6)


def test_words_of_the_question_and_glue_claim_nothing():
    grounds = judge_grounds("It does what optax.adam would do [1].", [ADAM], question=QUESTION)
    assert grounds == (None, None, None, 0, 0, 0)


def test_no_sources_hold_nothing():
    grounds = judge_grounds("It keeps moments.", [], question=QUESTION)
    assert (grounds.groundedness, grounds.citation_precision, grounds.citation_recall) == (
        0,
        None,
        0,
    )


@pytest.mark.parametrize(
    ("answer", "precision", "recall_"),
    [
        ("The optimizer keeps moments [1].", 1.0, 1.0),
        ("The optimizer keeps moments. [1]", 1.0, 1.0),
        ("The optimizer keeps moments. [1] It clips updates element-wise. [2]", 1.0, 1.0),
        ("The optimizer keeps moments [2].", 0.0, 0.0),
        ("The optimizer keeps moments [1, 2].", 0.5, 1.0),
        ("The optimizer keeps moments [1]. It clips updates.", 1.0, 0.5),
        ("The optimizer keeps moments.", None, 0.0),
        ("The optimizer keeps moments [7].", None, 0.0),
        ("Keeps moments 0.9\nclips updates element-wise [2]", 1.0, 0.5),
    ],
)
def test_citations_by_hand(answer, precision, recall_):
    grounds = judge_grounds(answer, [ADAM, CLIP], question=QUESTION)
    assert (grounds.citation_precision, grounds.citation_recall) == (precision, recall_)


def test_a_marker_is_no_number_that_an_answer_claims():
    with_marker = judge_grounds("Keeps moments [1].", [ADAM], question=QUESTION)
    without = judge_grounds("Keeps moments.", [ADAM], question=QUESTION)
    assert with_marker.num_claims == without.num_claims
