"""What a program can look for in an answer in prose: the words that make it this answer.

    question  What does optax.lion do?
    answer    The Lion optimizer. Unlike most adaptive optimizers, Lion only tracks momentum.
    facts     ("unlike", "adaptive", "momentum")

Names, arguments and defaults are facts that `statements` knows; these are added for prose. A word
counts as distinctive by how few of all answers use it, and only if the question does not say it.
"""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Iterable

from coderllm_jax.data.statements import Statement

PROSE_KINDS = frozenset(
    {"purpose", "module", "argument", "attribute", "returns", "raises", "document"}
)
_MOST_FACTS = 3
_WORD = re.compile(r"\b[A-Za-z][A-Za-z-]{3,}[A-Za-z]\b(?!['-])")
# Words that right and wrong answers share.
_GENERIC = frozenset(
    re.findall(
        r"\w+",
        """
        about above after along also allows another argument arguments array before being below
        between called cannot class computes contains containing corresponding creates current
        default defines different during either element elements every false first following from
        function given having input instance itself method module number object optional other
        otherwise output parameter parameters passed performs provided representing represents
        result returned returns same second should single specified specifies string tensor their
        there these those true type types under used uses using value values where whether which
        while whose within without would
        """,
    )
)


def with_distinctive_facts(statements: Iterable[Statement]) -> list[Statement]:
    """The statements, those in prose with up to three of their answer's rarest words as facts.

    Rare among all statements given: a right answer about `optax.lion` says "sign", not "update".
    """
    statements = list(statements)
    counts: collections.Counter[str] = collections.Counter()
    for statement in statements:
        counts.update(set(_words(statement.answer)))
    return [_completed(statement, counts) for statement in statements]


def _completed(statement: Statement, counts: collections.Counter[str]) -> Statement:
    if statement.kind not in PROSE_KINDS:
        return statement
    asked = " ".join(statement.fields.values()).lower()
    words = [word for word in dict.fromkeys(_words(statement.answer)) if word not in asked]
    words = [word for word in words if word not in " ".join(statement.facts).lower()]
    room = _MOST_FACTS - len(statement.facts)
    rare = sorted(words, key=lambda word: (counts[word], word))[:room]
    return dataclasses.replace(
        statement, facts=(*statement.facts, *(word for word in words if word in rare))
    )


def _words(text: str) -> list[str]:
    words = (word.lower() for word in _WORD.findall(text))
    return [word for word in words if word not in _GENERIC]
