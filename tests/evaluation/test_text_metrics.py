"""Overlap equals what sacrebleu and rouge-score say of the same tokens, and operators count."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF

from coderllm_jax.errors import DataError
from coderllm_jax.evaluation.text_metrics import (
    TOKENIZER,
    corpus_scores,
    sentence_scores,
    tokenize,
)

PAIRS = [
    ("Decay rate for momentum. The default is `0.9`.", "The momentum's decay, 0.9 by default."),
    ("`optax.adam(learning_rate, b1=0.9)`", "`optax.adam(learning_rate, b1=0.99, eps=1e-08)`"),
    ("```python\nx = a + b\n```", "```python\nx = a - b\n```"),
    ("the same words in the same order", "the same words in the same order"),
    ("", "an empty answer"),
    ("nothing alike", "entirely different"),
    ("Привет, мир", "Привет, мир и все"),
    ("日本語のテキスト", "日本語の文字"),
    ("a", "a"),
]
ANSWERS, REFERENCES = ([pair[side] for pair in PAIRS] for side in (0, 1))


class Tokenizer:
    def tokenize(self, text):
        return tokenize(text)


# ---------------------------------------------------------------------------------------- tokens


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        (
            "Use `optax.adam(b1=0.9)`, not a - b.",
            "Use optax . adam ( b1 = 0.9 ) , not a - b .",
        ),
        ("```python\nx **= 2\n```", "x **= 2"),
        ("```\nx\n```\nand", "x and"),
        ("a//b != c->d x:=1 <<= ...", "a // b != c -> d x := 1 <<= ..."),
        ("1e-06 0xFF 1_000 .5 2D 3j", "1e-06 0xFF 1_000 .5 2D 3j"),
        ("a-1 and a - 1", "a - 1 and a - 1"),
        ("scale_by_adam ScaleByAdam", "scale_by_adam ScaleByAdam"),
        ("日本語", "日 本 語"),
        ("Größe naïve", "Größe naïve"),
        ("한국어 단어", "한국어 단어"),
        ("", ""),
    ],
)
def test_tokens(text, tokens):
    assert tokenize(text) == tokens.split()


@given(st.text(max_size=60))
def test_tokens_hold_no_blanks_and_lose_nothing(text):
    """sacrebleu splits at blanks what we joined with them."""
    tokens = tokenize(text)
    assert " ".join(tokens).split() == tokens
    if "`" not in text and text.isascii():
        assert "".join(tokens) == "".join(text.split())


# ----------------------------------------------------------------------------------------- items


@pytest.mark.parametrize(("answer", "reference"), PAIRS)
def test_items_equal_their_libraries(answer, reference):
    found = sentence_scores(answer, reference)
    rouge = RougeScorer(["rouge1", "rouge2", "rougeL"], tokenizer=Tokenizer())
    theirs = rouge.score(reference, answer)
    bleu = BLEU(tokenize="none", effective_order=True, force=True)
    tokens, expected = " ".join(tokenize(answer)), " ".join(tokenize(reference))
    assert found == pytest.approx(
        {
            "bleu": bleu.sentence_score(tokens, [expected]).score,
            "chrf": CHRF().sentence_score(answer, [reference]).score,
            "rouge1": theirs["rouge1"].fmeasure,
            "rouge2": theirs["rouge2"].fmeasure,
            "rouge_l": theirs["rougeL"].fmeasure,
        },
        abs=1e-9,
    )


def test_rouge_by_hand():
    found = sentence_scores("a + b", "a - b")
    assert found["rouge1"] == pytest.approx(2 / 3)
    assert (found["rouge2"], found["rouge_l"]) == (0, pytest.approx(2 / 3))
    # Precision 3 / 4, recall 3 / 5 for single tokens; 2 / 3 and 2 / 4 for pairs.
    found = sentence_scores("f ( x +", "f ( x - y")
    assert found["rouge1"] == pytest.approx(2 * 0.75 * 0.6 / 1.35)
    assert found["rouge2"] == pytest.approx(2 * (2 / 3) * 0.5 / (2 / 3 + 0.5))


def test_an_operator_and_a_letter_outside_ascii_count():
    """What rouge-score's own tokenizer does not see."""
    theirs = RougeScorer(["rouge1"])
    assert theirs.score("a + b", "a - b")["rouge1"].fmeasure == 1
    assert theirs.score("Привет", "Привет")["rouge1"].fmeasure == 0
    for name in ("bleu", "rouge1", "rouge2", "rouge_l", "chrf"):
        same, other = (
            sentence_scores("x = a + b", "x = a + b"),
            sentence_scores("x = a - b", "x = a + b"),
        )
        assert other[name] < same[name]
        assert sentence_scores("Привет, мир", "Привет, мир")[name] == pytest.approx(same[name])


def test_markup_and_composition_do_not_count_but_case_does():
    plain = sentence_scores("optax.adam(b1=0.9)", "optax.adam(b1=0.9)")
    for answer in ("`optax.adam(b1=0.9)`", "```python\noptax.adam(b1=0.9)\n```"):
        found = sentence_scores(answer, "optax.adam(b1=0.9)")
        assert (found["bleu"], found["rouge_l"]) == (plain["bleu"], plain["rouge_l"])
    assert sentence_scores("cafe\u0301", "caf\u00e9") == sentence_scores("caf\u00e9", "caf\u00e9")
    assert sentence_scores("None", "none")["rouge1"] == 0


# ---------------------------------------------------------------------------------------- corpus


def test_a_corpus_equals_sacrebleu():
    found = corpus_scores(ANSWERS, REFERENCES)
    bleu, chrf = BLEU(tokenize="none", force=True), CHRF()
    spaced = [[" ".join(tokenize(text)) for text in texts] for texts in (ANSWERS, REFERENCES)]
    assert found["bleu"] == pytest.approx(bleu.corpus_score(spaced[0], [spaced[1]]).score, abs=1e-9)
    assert found["chrf"] == pytest.approx(chrf.corpus_score(ANSWERS, [REFERENCES]).score, abs=1e-9)
    assert found["bleu_signature"] == str(bleu.get_signature())
    assert found["chrf_signature"] == str(chrf.get_signature())
    assert "tok:none" in found["bleu_signature"]
    assert (found["tokenizer"], found["num_items"]) == (TOKENIZER, len(PAIRS))


def test_a_corpus_has_intervals():
    found = corpus_scores(ANSWERS * 5, REFERENCES * 5, seed=1)
    for name in ("bleu", "chrf"):
        assert 0 <= found[f"{name}_low"] < found[name] < found[f"{name}_high"] <= 100 + 1e-9
    assert found == corpus_scores(ANSWERS * 5, REFERENCES * 5, seed=1)
    assert found != corpus_scores(ANSWERS * 5, REFERENCES * 5, seed=2)
    clusters = list(range(len(PAIRS))) * 5
    clustered = corpus_scores(ANSWERS * 5, REFERENCES * 5, clusters=clusters, seed=1)
    assert clustered["bleu"] == pytest.approx(found["bleu"])
    wide, narrow = (each["bleu_high"] - each["bleu_low"] for each in (clustered, found))
    assert wide > 1.5 * narrow  # five copies are one piece of evidence


def test_a_corpus_of_none_and_of_one():
    nothing = corpus_scores([], [])
    assert (nothing["bleu"], nothing["chrf"], nothing["num_items"]) == (None, None, 0)
    one = corpus_scores(["a b c d e"], ["a b c d f"])
    assert one["bleu"] > 0
    assert one["bleu_low"] is one["bleu_high"] is None
    assert corpus_scores([""], [""])["bleu"] == 0
    with pytest.raises(DataError, match="1 answers for 2 references"):
        corpus_scores(["a"], ["a", "b"])


def test_importing_the_metrics_loads_no_library():
    program = (
        "import sys\n"
        "from coderllm_jax.evaluation import code_metrics, facts, statistics, text_metrics\n"
        "print([name for name in ('scipy', 'sacrebleu', 'rouge_score', 'nltk', 'jax')"
        " if name in sys.modules])"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"
