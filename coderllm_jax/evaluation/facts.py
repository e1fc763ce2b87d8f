"""Fact F1: what an answer says of what it should, against what it says that nothing supports.

    question   What should I pass as momentum to optax.lars?
    reference  Decay rate for momentum. The default is `0.9`.
    facts      0.9   decay
    answer     The momentum's decay, `0.99` unless you set `nesterov`.
               found   decay                              recall     1 / (1 found + 1 missed)
               missed  0.9                                precision  1 / (1 found + 2 wrong)
               wrong   0.99   nesterov                    F1         2 / (2 + 1 + 2) = 0.4

**Found** is a fact whose tokens stand in the answer side by side: `b1` is not found in `b10`, nor
`0` in `0.9`. Numbers are equal by value (`1e-8` and `1e-08`), quotes alike. What the reference has
as code is found as it is written; any other word in any case and number (`Updates`, `update`).
What the question says already is found only in code that says more than the question does; a plain
word that the question says is no fact.

**Wrong** is a claim that neither reference, facts nor question make: each number, `True`, `False`,
`None`, name in inline code, and each name that looks like one (under_scores, CamelCase, dotted,
called, `keyword=`) counts once. What reference or question say beside the facts neither earns nor
costs. Plain words are free, or a right answer in other words would be wrong; but of those that are
new, every tenth after the first 20 counts as wrong, or a list of all words would find every fact.

What programs (fenced code) in an answer do depends on what was asked for, as the reference shows:

    reference           programs
    is a program        find facts; their names count as plain words, their numbers and strings not
                        at all: whether a program takes the right ones shows when it runs
    has all facts in    are read as inline code: find facts, make claims
    inline code
    is prose            illustrate: neither find nor claim

Covers: names, arguments, defaults, rare words; inventions beside them; lists of everything. Does
not cover: which default belongs to which argument, negation, right claims that the reference does
not make (they cost precision), wrong claims in plain words, wrong arguments in programs.
"""

from __future__ import annotations

import builtins
import functools
import keyword
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

from coderllm_jax.evaluation.code_metrics import is_program
from coderllm_jax.evaluation.extraction import FENCE, extract_code, parses
from coderllm_jax.records import EvalItem

# On the default domain's 240 items, the same answer to every question: the 30 commonest of their
# own facts that are plain words score 0.25, the most that such a list gets; all 388 facts 0.03, as
# inline code or as a program 0.01. Were words free, all that are words would score 0.62. Another
# item's reference answer scores 0.08.
_FREE_WORDS = 20
_WORDS_A_CLAIM = 10

_NUMBER = r"(?:0[xX][0-9a-fA-F]+|\d+(?:\.\d+){2,}|(?:\d[\d_]*(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)"
# A minus is part of a number where nothing stands before it that could be subtracted from.
_TOKEN = re.compile(rf"(?:(?<![\w)\]}}])-)?{_NUMBER}(?!\w)|\w+|[^\w\s]")
_VALUE = re.compile(r"-?(?:\d[\d.]*(?:e[+-]?\d+)?|inf)")
# No more than two backticks: what has more on one line is no markup, and takes a regex ages.
_SPAN = re.compile(r"(?<!`)(`{1,2})(?!`)([^`\n]+)\1(?!`)")
_CALL = re.compile(r"[A-Za-z_][\w.]*\((?:[^()\n]|\([^()\n]*\))*\)")
_LIST_MARKER = re.compile(r"^\s*\d+[.)]\s", re.MULTILINE)
_NAME_IN_PROSE = re.compile(
    r"""
    \b(?:
        (?P<dotted>[A-Za-z_]\w+(?:\.[A-Za-z_]\w+)+)
      | (?P<plain>\w*[^\W_]_\w*|_+[^\W_]\w*                    # under_score, _private
          | [A-Z]?[a-z0-9]+(?:[A-Z][a-z0-9]+)+\w*               # camelCase, CamelCase
          | [A-Za-z]\w*(?=\((?!s\))|=[^\s=])                    # called(, keyword=; argument(s)
          | True|False|None)
    )(?!\w)
    """,
    re.VERBOSE,
)
_QUOTES = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": "'", "\u201d": "'", '"': "'"})
_PLAIN_FENCES = ("", "text", "txt", "plaintext", "markdown", "md")
_DEFAULTS = frozenset({"True", "False", "None"})
# Python's own words claim nothing about a library; NaNs only looks like CamelCase.
_NEUTRAL = (
    frozenset({*keyword.kwlist, *dir(builtins), "self", "cls", "args", "kwargs", "NaNs"})
    - _DEFAULTS
)


class FactScore(NamedTuple):
    """An answer against an item's facts: figures of 0 to 1, and what they count.

    `wrong` are the claims that nothing supports: those in code, then those in prose. num_new_words
    counts plain words, and names in programs, that neither reference nor question have.
    """

    f1: float
    precision: float
    recall: float
    found: tuple[str, ...]
    missed: tuple[str, ...]
    wrong: tuple[str, ...]
    num_new_words: int


def score_facts(answer: str, item: EvalItem) -> FactScore | None:
    """Fact F1 of one answer, as drawn above; None where the item has no facts.

    The reference answer scores 1, an empty one 0.
    """
    reference = _read(item.answer)
    facts = _facts_beyond_question(item, reference)
    if not facts:
        return None
    asked_for = _asked_for(reference, facts)
    given = _read(answer, bare_programs=asked_for == "program")
    found = tuple(fact for fact in facts if _finds(fact, given, item, reference, asked_for))
    missed = tuple(fact for fact in facts if fact not in found)
    wrong = _unsupported(given, item, asked_for)
    num_new_words = _count_new_words(given, item, asked_for)
    num_found = len(found)
    num_wrong = len(wrong) + max(0, num_new_words - _FREE_WORDS) // _WORDS_A_CLAIM
    return FactScore(
        f1=2 * num_found / (2 * num_found + len(missed) + num_wrong),
        precision=num_found / (num_found + num_wrong) if num_found else 0.0,
        recall=num_found / len(facts),
        found=found,
        missed=missed,
        wrong=wrong,
        num_new_words=num_new_words,
    )


class _Text(NamedTuple):
    """An answer taken apart: fenced programs, inline code, and all but the programs."""

    programs: tuple[str, ...]
    spans: tuple[str, ...]
    rest: str

    @property
    def prose(self) -> str:
        """What stands in no code."""
        return _SPAN.sub(" ; ", self.rest)

    @property
    def code(self) -> tuple[str, ...]:
        """All that is code, and calls that are written without backticks."""
        return (*self.programs, *self.spans, *_CALL.findall(self.prose))


_AskedFor = Literal["program", "code", "prose"]


def _read(answer: str, *, bare_programs: bool = False) -> _Text:
    """bare_programs: whether an answer without a fence may be a program as a whole."""
    answer = unicodedata.normalize("NFC", answer.replace("\r\n", "\n"))
    programs: list[str] = []
    rest: list[str] = []
    end = 0
    for match in FENCE.finditer(answer):
        is_plain = match["language"].lower() in _PLAIN_FENCES and not parses(match["code"].strip())
        rest.append(answer[end : match.start()])
        (rest if is_plain else programs).append(match["code"])
        end = match.end()
    rest.append(answer[end:])
    if bare_programs and not programs and is_program(code := extract_code(answer)):
        programs, rest = [code], [answer.replace(code, "\n", 1)]
    text = "\n".join(rest)
    return _Text(tuple(programs), tuple(m[2] for m in _SPAN.finditer(text)), text)


def _asked_for(reference: _Text, facts: Sequence[str]) -> _AskedFor:
    if reference.programs:
        return "program"
    in_code = all(any(_holds(span, fact) for span in reference.spans) for fact in facts)
    return "code" if in_code else "prose"


# ----------------------------------------------------------------------------------------- found


def _facts_beyond_question(item: EvalItem, reference: _Text) -> list[str]:
    """The item's facts without words that the question says and that are no code."""
    return [
        fact
        for fact in dict.fromkeys(item.facts)
        if not _holds(item.question, fact, as_written=False)
        or any(_holds(code, fact) for code in reference.code)
    ]


def _finds(fact: str, given: _Text, item: EvalItem, reference: _Text, asked_for: _AskedFor) -> bool:
    as_written = any(_holds(code, fact) for code in reference.code)
    if as_written and _holds(item.question, fact) and _says_in_code(fact, reference, item.question):
        return _says_in_code(fact, given, item.question)
    earning = (given.rest,) if asked_for == "prose" else (given.rest, *given.programs)
    return any(_holds(text, fact, as_written=as_written) for text in earning)


def _says_in_code(fact: str, text: _Text, question: str) -> bool:
    """Whether code has the fact that is more than a piece of the question."""
    return any(_holds(code, fact) and not _holds(question, code) for code in text.code)


def _holds(text: str, part: str, *, as_written: bool = True) -> bool:
    """Whether the tokens of `part` stand in `text` side by side."""
    return _joined(part, as_written) in _joined(text, as_written)


@functools.lru_cache(maxsize=256)  # one answer is asked for every fact
def _joined(text: str, as_written: bool) -> str:
    tokens = _tokens(text)
    return f" {' '.join(tokens if as_written else _folded(tokens))} "


# ----------------------------------------------------------------------------------------- wrong


def _unsupported(given: _Text, item: EvalItem, asked_for: _AskedFor) -> tuple[str, ...]:
    """The claims that neither reference nor question make, each once, as first written."""
    inline = given.spans if asked_for != "code" else (*given.spans, *given.programs)
    known = _said(item)
    if asked_for == "program":  # an explanation may name what its program names
        known = known.union(*(_folded(_tokens(code)) for code in given.programs))
    claims = [*(name for code in inline for name in _names(code)), *_names_in_prose(given.prose)]
    first: dict[str, str] = {}
    for claim, key in zip(claims, _folded(claims), strict=True):
        first.setdefault(key, claim)
    return tuple(claim for key, claim in first.items() if key not in known)


def _count_new_words(given: _Text, item: EvalItem, asked_for: _AskedFor) -> int:
    programs = given.programs if asked_for == "program" else ()
    names = [name for code in programs for name in _names(code) if not _is_number(name)]
    return len(set(_folded([*names, *_words(given.prose)])) - _said(item))


def _said(item: EvalItem) -> set[str]:
    """Everything that the item itself says, so that saying it is no invention."""
    texts = (item.answer, item.question, item.symbol, *item.facts)
    return {token for text in texts for token in _folded(_tokens(text))}


def _names(code: str) -> Iterator[str]:
    """What inline code claims: names, numbers and defaults."""
    for token in _tokens(code):
        is_word = (token[0].isalpha() or token[0] == "_") and len(token) > 1
        if (is_word and token not in _NEUTRAL) or _is_number(token):
            yield token


def _names_in_prose(prose: str) -> Iterator[str]:
    for match in _NAME_IN_PROSE.finditer(prose):
        yield from _names(match["dotted"] or match["plain"])
    yield from filter(_is_number, _tokens(_LIST_MARKER.sub("\n", prose)))


def _words(prose: str) -> list[str]:
    """Words of four letters and more; in scripts without blanks whatever stands together."""
    return [token for token in _tokens(prose) if len(token) > 3 and token[0].isalpha()]


# ---------------------------------------------------------------------------------------- tokens


def _tokens(text: str) -> list[str]:
    """Words, numbers by value, and every other sign; backticks are no part of what is said."""
    return [_by_value(token) for token in _TOKEN.findall(text.translate(_QUOTES).replace("`", " "))]


def _by_value(token: str) -> str:
    """`1e-8`, `1e-08` and `0.00000001` as one; `0x10` as 16.0."""
    if not token.lstrip("-.")[:1].isdigit():
        return token
    try:
        return repr(float(int(token, 0) if "x" in token.lower() else float(token)))
    except (ValueError, OverflowError):
        return token  # 2D, 1.2.3


def _is_number(token: str) -> bool:
    return _VALUE.fullmatch(token) is not None


def _folded(tokens: Iterable[str]) -> list[str]:
    """Without case and plural, by the rules of the S stemmer (Harman 1991, JASIS 42)."""
    return [_singular(token.casefold()) for token in tokens]


def _singular(word: str) -> str:
    if len(word) > 3 and word.endswith("ies") and word[-4] not in "ae":
        return word[:-3] + "y"
    if len(word) > 3 and word.endswith("es") and word[-3] not in "aeo":
        return word[:-1]
    if len(word) > 3 and word.endswith("s") and word[-2] not in "us":
        return word[:-1]
    return word
