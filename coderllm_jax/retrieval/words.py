"""The words of a text, as word search knows them: identifiers are names and made of words.

    Clips updates of `optax.scale_by_adam`   →  clip update optax scale adam scale_by_adam
                                                optax.scale_by_adam
    ScaleByAdamState(b1=0.9)                 →  scale adam state scalebyadamstate b 1 b1 0.9

A dotted name counts as itself, as each of its identifiers and as each word in those: so "scale by
adam" finds `scale_by_adam`, and a full name finds its own passage before its namesakes'. English
function words count for nothing, and plurals as singulars. Writing without spaces between words
(Chinese, Japanese) is not segmented.
"""

from __future__ import annotations

import re
from typing import NamedTuple

# Written into an index: words that were split otherwise cannot be looked up in it.
WORDS_VERSION = 1

_TOKEN = re.compile(r"(?P<name>[^\W\d]\w*(?:\.[^\W\d]\w*)*)|\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")
_PART = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+")
_CAMEL = re.compile(r"[a-z0-9][A-Z]|[A-Z][A-Z][a-z]")

_ENGLISH = """
    a about above after again all also am an and any are as at be because been before being below
    between both but by can could did do does doing down during each few for from further had has
    have having he her here hers him his how i if in into is it its itself just me more most my
    myself no nor not now of off on once only or other our ours out over own same she should so some
    such than that the their theirs them then there these they this those through to too under
    until up very was we were what when where which while who whom why will with would you your
    yours yourself
"""
FUNCTION_WORDS = frozenset(_ENGLISH.split())


class Words(NamedTuple):
    """All words in order, and the names among them: what is dotted or written together."""

    all: list[str]
    names: list[str]


def split_words(text: str) -> Words:
    """Lower-case words: see the drawing at the top of this module."""
    words: list[str] = []
    names: list[str] = []
    for match in _TOKEN.finditer(text):
        token = match[0]
        if match["name"] is None:
            words.append(token.lower())
            continue
        identifiers = token.split(".")
        for identifier in identifiers:
            words += _words_of(identifier)
            if "_" in identifier.strip("_") or _CAMEL.search(identifier):
                names.append(identifier.lower())
        if len(identifiers) > 1:
            words.append(token.lower())
            names.append(token.lower())
    return Words(words, names)


def _words_of(identifier: str) -> list[str]:
    if identifier.islower() and identifier.isalpha():
        return [] if identifier in FUNCTION_WORDS else [_singular(identifier)]
    parts = _PART.findall(identifier) if identifier.isascii() else identifier.split("_")
    parts = [part.lower() for part in parts if part]
    whole = identifier.lower()
    if parts == [whole]:
        return [] if whole in FUNCTION_WORDS else [_singular(whole)]
    return [*(_singular(part) for part in parts if part not in FUNCTION_WORDS), whole]


def _singular(word: str) -> str:
    """Harman's s-stemmer (JASIS 42, 1991): plurals only, so that no name changes its meaning."""
    if len(word) < 4 or not word.isalpha():
        return word
    if word.endswith("sses"):
        return word[:-2]
    if word.endswith("ies") and not word.endswith(("eies", "aies")):
        return f"{word[:-3]}y"
    if word.endswith("es") and not word.endswith(("aes", "ees", "oes")):
        return word[:-1]
    if word.endswith("s") and not word.endswith(("us", "ss", "is")):
        return word[:-1]
    return word
