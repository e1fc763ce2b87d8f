"""How questions are asked: phrasings that are trained on, and one of each kind that is not.

    kind       trained on                             held out for evaluation
    purpose    What does optax.adam do?               I came across optax.adam in some code. ...
    argument   In optax.adam, what is b1?             What should I pass as b1 to optax.adam?

Which phrasing a statement gets is a function of its identity alone (a sha256, not Python's
salted hash), so that rows do not change when others are added. Answers are not made here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import NamedTuple


class Phrasings(NamedTuple):
    """The ways to ask one kind of question; fields in braces are filled from the statement."""

    trained: tuple[str, ...]
    held_out: str


_STUB = "\n\n```python\n{stub}\n```"

PHRASINGS: Mapping[str, Phrasings] = {
    "purpose": Phrasings(
        (
            "What does {name} do?",
            "What is {name} for?",
            "Explain {name} briefly.",
            "What is the purpose of {name}?",
        ),
        "I came across {name} in some code. What is it?",
    ),
    "module": Phrasings(
        (
            "What is in the module {name}?",
            "What is the module {name} for?",
            "Describe the module {name}.",
        ),
        "When would I import {name}?",
    ),
    "signature": Phrasings(
        (
            "What is the signature of {name}?",
            "Which arguments does {name} take?",
            "How do I call {name}?",
        ),
        "Write out the parameters of {name} with their defaults.",
    ),
    "argument": Phrasings(
        (
            "What does the argument {subject} of {name} mean?",
            "In {name}, what is {subject}?",
            "Explain the argument {subject} of {name}.",
        ),
        "What should I pass as {subject} to {name}?",
    ),
    "attribute": Phrasings(
        (
            "What does the attribute {subject} of {name} hold?",
            "In {name}, what is the attribute {subject}?",
        ),
        "What can I read from {subject} on a {name}?",
    ),
    "returns": Phrasings(
        (
            "What does {name} return?",
            "What is the result of {name}?",
        ),
        "What do I get back from {name}?",
    ),
    "raises": Phrasings(
        (
            "When does {name} raise {subject}?",
            "Why would {name} raise {subject}?",
        ),
        "I got {subject} from {name}. What went wrong?",
    ),
    "example": Phrasings(
        (
            "Show an example of {name}.",
            "How do I use {name} in code?",
            "Give a short usage example of {name}.",
        ),
        "Write a few lines of code that use {name}.",
    ),
    "which": Phrasings(
        (
            "Which API in {package} fits this description? {summary}",
            "Name the API in {package}. {summary}",
            "What is this called in {package}? {summary}",
        ),
        "I need something from {package}, and know only what its documentation says: {summary}",
    ),
    "implementation": Phrasings(
        (
            "Implement this Python function." + _STUB,
            "Complete the function." + _STUB,
        ),
        "Here are a signature and a docstring; write the whole function." + _STUB,
    ),
    "document": Phrasings(
        (
            "What does {title} say about {subject}?",
            "Explain {subject}, as in {title}.",
        ),
        "I am reading {title}. What is the part on {subject} about?",
    ),
}


def trained_questions(
    kind: str, fields: Mapping[str, str], *, key: str, count: int | None = None
) -> list[str]:
    """The first `count` (or all) of a kind's phrasings, from where `key` enters their circle."""
    trained = PHRASINGS[kind].trained
    start = stable_hash(key) % len(trained)
    order = trained[start:] + trained[:start]
    return [phrasing.format(**fields) for phrasing in order[:count]]


def held_out_question(kind: str, fields: Mapping[str, str]) -> str:
    """The phrasing that no training row uses."""
    return PHRASINGS[kind].held_out.format(**fields)


def stable_hash(text: str) -> int:
    """A 64-bit hash that is the same in every process and on every machine."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
