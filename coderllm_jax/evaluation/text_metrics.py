"""Overlap with a reference text: BLEU and chrF by sacrebleu, ROUGE by rouge-score, one tokenizer.

    text      Use `optax.adam(b1=0.9)`, not a - b.
    tokens    Use optax . adam ( b1 = 0.9 ) , not a - b .

Their own tokenizers are made for news: rouge-score drops operators, so that `a + b` equals `a - b`,
lower-cases, and drops every letter outside ASCII; BLEU's depend on the language. Ours keeps
identifiers, numbers and operators whole, keeps case, takes scripts without blanks letter by letter,
and drops backticks with the fence's language, which are markup around code and never part of it.

Covers: overlap of tokens and their order. Does not cover: meaning (a right answer in other words
scores low, a wrong default costs one token), indentation. Facts and execution say more.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from coderllm_jax.errors import DataError
from coderllm_jax.evaluation.statistics import bootstrap_totals
from coderllm_jax.records import Estimate

TOKENIZER = "code-aware 1"
"""Name and version of `tokenize`: figures made with another are not to be compared."""

_MARKUP = re.compile(r"```+[ \t]*[\w+.-]*(?=[ \t]*\n)|`+")
# Han, kana, Thai, Lao, Myanmar, Khmer: words are not divided by blanks.
_UNDIVIDED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_TOKEN = re.compile(
    rf"""
    0[xXoObB][0-9a-fA-F_]+                              # 0xff
    | (?:\d[\d_]*(?:\.\d[\d_]*)?|\.\d[\d_]*)(?:[eE][+-]?\d+)?[jJ]?(?!\w)   # 1e-06
    | (?:(?![{_UNDIVIDED}])\w)+                          # their letters are left to the last line
    | \*\*=?|//=?|<<=?|>>=?|\.\.\.|->|:=|[-+*/%&|^@=!<>]=
    | \S
    """,
    re.VERBOSE,
)
_ROUGE = {"rouge1": "rouge1", "rouge2": "rouge2", "rougeL": "rouge_l"}


def tokenize(text: str) -> list[str]:
    """The tokens of prose and code; see the drawing above. Canonically equal texts agree (NFC)."""
    return _TOKEN.findall(_MARKUP.sub(" ", _composed(text)))


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def sentence_scores(answer: str, reference: str) -> dict[str, float]:
    """One answer's bleu and chrf (0 to 100), rouge1, rouge2 and rouge_l (F-measures, 0 to 1).

    Sentence BLEU has effective order: no penalty for n-grams longer than the answer.
    """
    rouge = _rouge_scorer().score(reference, answer)
    return {
        "bleu": float(
            _bleu(effective_order=True).sentence_score(_spaced(answer), [_spaced(reference)]).score
        ),
        "chrf": float(_chrf().sentence_score(_composed(answer), [_composed(reference)]).score),
        **{name: float(rouge[theirs].fmeasure) for theirs, name in _ROUGE.items()},
    }


def corpus_scores(
    answers: Sequence[str],
    references: Sequence[str],
    *,
    clusters: Sequence[Hashable] | None = None,
    num_resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Corpus BLEU and chrF (0 to 100) with intervals, sacrebleu's signatures and the tokenizer.

    {"bleu": .., "bleu_low": .., "bleu_high": .., "bleu_signature": .., "chrf": .., "tokenizer": ..}

    Intervals are 95 % percentiles over resampled items, or clusters of them (Koehn 2004). Without
    answers the figures are None.
    """
    if len(answers) != len(references):
        raise DataError(f"{len(answers)} answers for {len(references)} references; expected pairs")
    bleu = _bleu(effective_order=False)
    tokens = [_spaced(answer) for answer in answers], [_spaced(text) for text in references]
    composed = [_composed(answer) for answer in answers], [_composed(text) for text in references]
    found: dict[str, Any] = {"tokenizer": TOKENIZER, "num_items": len(answers)}
    for name, metric, (texts, expected) in (
        ("bleu", bleu, tokens),
        ("chrf", _chrf(), composed),
    ):
        estimate = _estimate(
            metric, texts, expected, clusters=clusters, num_resamples=num_resamples, seed=seed
        )
        found[name] = estimate.value
        found[f"{name}_low"], found[f"{name}_high"] = estimate.low, estimate.high
        found[f"{name}_signature"] = str(metric.get_signature()) if answers else ""
    return found


def _estimate(
    metric: Any,
    texts: Sequence[str],
    expected: Sequence[str],
    *,
    clusters: Sequence[Hashable] | None,
    num_resamples: int,
    seed: int,
) -> Estimate:
    if not texts:
        return Estimate(None)
    # The two steps of sacrebleu's own corpus_score, and of its own bootstrap, which has no
    # clusters and takes its seed from the environment.
    counts_IS = metric._extract_corpus_statistics(texts, [expected])  # noqa: SLF001
    score = metric._compute_score_from_stats  # noqa: SLF001
    return bootstrap_totals(
        np.array(counts_IS),
        lambda totals_RS: [score(totals_S.tolist()).score for totals_S in totals_RS],
        clusters=clusters,
        num_resamples=num_resamples,
        seed=seed,
    )


def _spaced(text: str) -> str:
    """The tokens as sacrebleu's `tokenize="none"` splits them: at blanks, which no token has."""
    return " ".join(tokenize(text))


class _Tokenizer:
    """What rouge-score expects of a tokenizer."""

    def tokenize(self, text: str) -> list[str]:
        return tokenize(text)


@functools.cache
def _rouge_scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(list(_ROUGE), tokenizer=_Tokenizer())


def _bleu(*, effective_order: bool) -> Any:
    from sacrebleu.metrics import BLEU

    return BLEU(tokenize="none", effective_order=effective_order, force=True)


def _chrf() -> Any:
    from sacrebleu.metrics import CHRF

    return CHRF()
