"""How good a ranking is, and how far an answer rests on what it was shown.

Rankings: gains are what a passage is worth to a question, 0 where it is worth nothing (judged or
not). All are between 0 and 1, for one question; a mean over questions is the caller's.

    ranking   b    a    c    d            gains   {a: 2, c: 1, e: 1}
    recall@3  = 2 of 3 found              context precision@3 = (1/2 + 2/3) / 2
    MRR       = 1/2, of the first found   nDCG@3 = (2/log2 3 + 1/log2 4) / (2 + 1/log2 3 + 1/log2 4)

`ranked`, `recall`, `reciprocal_rank` and `ndcg` give trec_eval's numbers (tests compare them with
pytrec_eval, ties included): a run is ranked by score in single precision, equal scores by id from
last to first, and a question without anything relevant gets 0.

Grounds: a claim is what an answer could have taken from a source or made up: an identifier, a
number, or a word that is neither English's glue nor in the question. Claims are compared as lower
case words, so this measures where words come from, not whether a sentence follows.

Covers: invented names, numbers and terms. Does not cover: a right name in a wrong sentence,
negation, and true things that no source says.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from coderllm_jax.records import Source
from coderllm_jax.retrieval.citations import CitationFilter
from coderllm_jax.retrieval.words import FUNCTION_WORDS, split_words

_SUPPORT = 0.5
_SHORTEST_WORD = 4
_SENTENCE_END = re.compile(r"(?<=[.!?])(?:[ \t]*\[[\d \t,;]+\])*(?:\s+|$)|\n+")


# --- rankings -----------------------------------------------------------------------------------


def ranked(scores: Mapping[str, float]) -> list[str]:
    """Ids by falling score as trec_eval ranks them: equal in single precision, later id first."""
    return sorted(scores, key=lambda name: (float(np.float32(scores[name])), name.encode()))[::-1]


def recall(ranking: Sequence[str], gains: Mapping[str, float], *, k: int) -> float:
    """The part of everything relevant that is among the first k."""
    relevant = _relevant(gains)
    return len(relevant.intersection(ranking[:k])) / len(relevant) if relevant else 0.0


def reciprocal_rank(ranking: Sequence[str], gains: Mapping[str, float]) -> float:
    """1 / the rank of the first that is relevant; its mean over questions is MRR."""
    relevant = _relevant(gains)
    return next((1 / rank for rank, name in enumerate(ranking, 1) if name in relevant), 0.0)


def ndcg(ranking: Sequence[str], gains: Mapping[str, float], *, k: int) -> float:
    """Discounted gain of the first k over that of the best possible order.

    Järvelin and Kekäläinen, TOIS 2002, with gains as they are and log2(1 + rank), as trec_eval.
    """
    best = _discounted(sorted((max(gain, 0) for gain in gains.values()), reverse=True)[:k])
    found = _discounted([max(gains.get(name, 0), 0) for name in ranking[:k]])
    return found / best if best else 0.0


def context_precision(ranking: Sequence[str], gains: Mapping[str, float], *, k: int) -> float:
    """Whether what is relevant comes first in what a prompt holds.

    The mean of precision@rank over the ranks of relevant passages among the first k (RAGAS, Es et
    al., 2024); 0 where none of them is relevant. Unlike recall, it costs nothing to have found
    little, but it costs to have put chaff before it.
    """
    relevant = _relevant(gains)
    precisions: list[float] = []
    for rank, name in enumerate(ranking[:k], start=1):
        if name in relevant:
            precisions.append((len(precisions) + 1) / rank)
    return sum(precisions) / len(precisions) if precisions else 0.0


def _relevant(gains: Mapping[str, float]) -> set[str]:
    return {name for name, gain in gains.items() if gain > 0}


def _discounted(gains: Sequence[float]) -> float:
    return sum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains, start=1))


# --- grounds ------------------------------------------------------------------------------------


class Grounds(NamedTuple):
    """How far an answer rests on its sources; None where it has nothing to be judged by.

    groundedness: the part of the answer's claims that stand in any of its sources.
    citation_precision: the part of its citations whose source has at least half of the claims of
    the sentence that cites it.
    citation_recall: the part of its sentences with claims that are cited so that at least half of
    their claims stand in the cited sources together (after ALCE, Gao et al., EMNLP 2023, with
    shared claims in place of its entailment model).
    """

    groundedness: float | None
    citation_precision: float | None
    citation_recall: float | None
    num_claims: int
    num_citations: int
    num_sentences: int


def judge_grounds(answer: str, sources: Sequence[Source], *, question: str) -> Grounds:
    """See `Grounds`. `[1]` cites the first source; markers that point nowhere count for nothing."""
    asked = set(split_words(question).all)
    held = [set(split_words(source.text).all) for source in sources]
    everything = set().union(*held)
    claims = claims_of(_without_markers(answer), asked)
    num_right = num_citations = num_supported = num_sentences = 0
    for sentence, cited in _sentences(answer, len(sources)):
        own = claims_of(sentence, asked)
        if not own:
            continue
        num_sentences += 1
        num_citations += len(cited)
        num_right += sum(_supports(held[number - 1], own) for number in cited)
        together = set().union(*(held[number - 1] for number in cited))
        num_supported += bool(cited) and _supports(together, own)
    return Grounds(
        groundedness=len(claims & everything) / len(claims) if claims else None,
        citation_precision=num_right / num_citations if num_citations else None,
        citation_recall=num_supported / num_sentences if num_sentences else None,
        num_claims=len(claims),
        num_citations=num_citations,
        num_sentences=num_sentences,
    )


def claims_of(text: str, asked: set[str]) -> set[str]:
    """Identifiers, numbers and words of four letters or more that `asked` has not said."""
    words = split_words(text)
    long = {w for w in words.all if len(w) >= _SHORTEST_WORD or any(m.isdigit() for m in w)}
    return (long | set(words.names)) - FUNCTION_WORDS - asked


def _supports(source: set[str], claims: set[str]) -> bool:
    return len(claims & source) >= _SUPPORT * len(claims)


def _sentences(answer: str, num_sources: int) -> list[tuple[str, tuple[int, ...]]]:
    """Each sentence without its markers, and the sources it cites, before or behind its stop."""
    found = []
    start = 0
    for end in [*(match.end() for match in _SENTENCE_END.finditer(answer)), len(answer)]:
        part = answer[start:end]
        start = end
        citations = CitationFilter(num_sources)
        citations.feed(part)
        citations.finish()
        if part.strip():
            found.append((_without_markers(part), citations.cited))
    return found


def _without_markers(text: str) -> str:
    """A text without any marker: to a filter that knows no source, all of them point nowhere."""
    citations = CitationFilter(0)
    return citations.feed(text) + citations.finish()
