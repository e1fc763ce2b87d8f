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

from coderllm_jax.errors import DataError

TOKENIZER = "code-aware 1"
"""Name and version of `tokenize`: figures made with another are not to be compared."""

_MARKUP = re.compile(r"```+[ \t]*[\w+.-]*(?=[ \t]*\n)|`+")
# Han, kana, Thai, Lao, Myanmar, Khmer: words are not divided by blanks.
_UNDIVIDED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_TOKEN = re.compile(
    rf"""
    0[xXoObB][0-9a-fA-F_]+                              # 0xff
    | (?:\d[\d_]*(?:\.\d[\d_]*)?|\.\d[\d_]*)(?:[eE][+-]?\d+)?[jJ]?(?!\w)   # 1e-06
    | [{_UNDIVIDED}]
    | (?:(?![{_UNDIVIDED}])\w)+
    | \*\*=?|//=?|<<=?|>>=?|\.\.\.|->|:=|[-+*/%&|^@=!<>]=
    | \S
    """,
    re.VERBOSE,
)
_ROUGE = {"rouge1": "rouge1", "rouge2": "rouge2", "rougeL": "rouge_l"}


def tokenize(text: str) -> list[str]:
    """The tokens of prose and code; see the drawing above. Canonically equal texts agree (NFC)."""
    return _TOKEN.findall(_MARKUP.sub(" ", unicodedata.normalize("NFC", text)))


def sentence_scores(answer: str, reference: str) -> dict[str, float]:
    """One answer's bleu and chrf (0 to 100), rouge1, rouge2 and rouge_l (F-measures, 0 to 1).

    Sentence BLEU has effective order: no penalty for n-grams longer than the answer.
    """
    tokens, expected = " ".join(tokenize(answer)), " ".join(tokenize(reference))
    rouge = _rouge_scorer().score(reference, answer)
    return {
        "bleu": float(_bleu(effective_order=True).sentence_score(tokens, [expected]).score),
        "chrf": float(_chrf().sentence_score(answer, [reference]).score),
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
    pairs = {
        "bleu": (
            _bleu(effective_order=False),
            [" ".join(tokenize(answer)) for answer in answers],
            [" ".join(tokenize(reference)) for reference in references],
        ),
        "chrf": (_chrf(), list(answers), list(references)),
    }
    found: dict[str, Any] = {"tokenizer": TOKENIZER, "num_items": len(answers)}
    for name, (metric, texts, expected) in pairs.items():
        value, low, high, signature = None, None, None, ""
        if answers:
            value = float(metric.corpus_score(texts, [expected]).score)
            signature = str(metric.get_signature())
        found |= {name: value, f"{name}_low": low, f"{name}_high": high}
        found[f"{name}_signature"] = signature
    return found


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
