"""The markers by which an answer cites its sources; those that point nowhere are removed.

    three sources     Adam keeps two moments [1]. It is fast [7], see [2, 9].
    cleaned           Adam keeps two moments [1]. It is fast, see [2].          2 removed

A marker is numbers in brackets that stand in prose: at the beginning of a line, after a space or
punctuation, or behind another marker. What comes in pieces is held back only where it may still
become one, so that an answer can be shown while it is written.

Covers: indexing and lists in code, fenced, indented, in backticks or recognisable by what stands
before them (`x[1]`, `x = [1]`, `f([1])`, `return [1]`), and links (`[1](…)`), which stay.
Does not cover: markers glued to a word (`Adam[1]`) or behind an opening parenthesis, which look
like code and stay; a list in prose (`a list such as [4, 5]`), which looks like markers.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_MARKER = re.compile(r"\[[ \t]*\d{1,4}(?:[ \t]*[,;][ \t]*\d{1,4})*[ \t]*\]")
# What may yet become a marker, or a link's brackets.
_BEGINNING = re.compile(r"\[[\d \t,;]*\]?")
_ALLOWED_BEFORE = frozenset(" \t.,;:!?\"'-\u2019\u201d\u2013\u2014")
_OPERATORS = frozenset("=([{+*/<>|&%^~\\")
_STATEMENTS = ("return", "yield")


class _Cleaned(NamedTuple):
    text: str
    cited: list[int]
    num_removed: int


class CitationFilter:
    """Cleans one answer, whole or as it comes: what `feed` and `finish` give, joined."""

    def __init__(self, num_sources: int) -> None:
        self._num_sources = num_sources
        self._line = ""  # the last line as it came, whole
        self._told = 0  # how much of it, cleaned, was given out
        self._in_fence = False
        self._cited: list[int] = []
        self._num_removed = 0

    @property
    def num_removed(self) -> int:
        """Numbers that pointed nowhere, so far."""
        return self._num_removed

    @property
    def cited(self) -> tuple[int, ...]:
        """Numbers of the sources that were cited, each once, in order of appearance."""
        return tuple(dict.fromkeys(self._cited))

    def feed(self, text: str) -> str:
        """Takes more of the answer and gives what is certain by now."""
        *whole, rest = text.split("\n")
        told = ""
        for line in whole:
            self._line += line
            told += f"{self._end_line()}\n"
        self._line += rest
        certain = self._clean(_decided(self._line)).text
        told += certain[self._told :]
        self._told = max(self._told, len(certain))
        return told

    def finish(self) -> str:
        """What was held back, at the answer's end."""
        return self._end_line()

    def _end_line(self) -> str:
        cleaned = self._clean(self._line)
        told = cleaned.text[self._told :]
        self._cited += cleaned.cited
        self._num_removed += cleaned.num_removed
        if self._line.lstrip().startswith("```"):
            self._in_fence = not self._in_fence
        self._line, self._told = "", 0
        return told

    def _clean(self, line: str) -> _Cleaned:
        is_code = self._in_fence or line.startswith(("    ", "\t"))
        if is_code or line.lstrip().startswith("```"):
            return _Cleaned(line, [], 0)
        return _clean_prose(line, self._num_sources)


def clean_citations(text: str, num_sources: int) -> tuple[str, tuple[int, ...], int]:
    """(the text without markers that point nowhere, sources cited, how many were removed)."""
    whole = CitationFilter(num_sources)
    cleaned = whole.feed(text) + whole.finish()
    return cleaned, whole.cited, whole.num_removed


def _clean_prose(line: str, num_sources: int) -> _Cleaned:
    text = ""
    cited: list[int] = []
    done = num_removed = 0
    marker_end = -1
    for match in _MARKER.finditer(line):
        if not _stands_in_prose(line, match, behind_marker=match.start() == marker_end):
            continue
        marker_end = match.end()
        numbers = [int(number) for number in re.findall(r"\d+", match[0])]
        right = [number for number in numbers if 1 <= number <= num_sources]
        cited += right
        if len(right) == len(numbers):
            continue
        num_removed += len(numbers) - len(right)
        text += line[done : match.start()]
        done = match.end()
        if right:
            text += f"[{', '.join(map(str, right))}]"
        elif line[done : done + 1] != "[":  # or the next marker would be glued to a word
            text = text.rstrip(" \t")
        if not text:  # the line begins with it
            done += len(line[done:]) - len(line[done:].lstrip(" \t"))
    return _Cleaned(text + line[done:], cited, num_removed)


def _stands_in_prose(line: str, match: re.Match[str], *, behind_marker: bool) -> bool:
    after = line[match.end() : match.end() + 1]
    if after in ("(", "_") or after.isalnum():
        return False
    before = line[: match.start()]
    if behind_marker or not before:
        return True
    if before.count("`") % 2 or before[-1] not in _ALLOWED_BEFORE:
        return False
    before = before.rstrip(" \t")
    return before[-1:] not in _OPERATORS and before.split(" ")[-1] not in _STATEMENTS


def _decided(line: str) -> str:
    """The beginning of an unfinished line that stays as it is, whatever comes."""
    start = line.rfind("[")
    if start >= 0 and _BEGINNING.fullmatch(line, start):
        line = line[:start]
    return line.rstrip(" \t")
