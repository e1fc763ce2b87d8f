"""Which symbols are never trained on, and which statements become evaluation items.

    seen     a new phrasing about a symbol whose rows are trained on
    unseen   a symbol of which no row is trained on, under any of its names

The split is over groups, not symbols: a class with its methods, and everything whose docstring
has the same words (aliases, wrappers, templates), falls on one side as a whole. Which side is
decided by a hash of the group's first name, so adding a package moves no other symbol.

Word runs of 13 that training rows share with evaluation items (see `dedupe`) are contamination:

    unseen   in question or answer: the answer must not be in the training rows at all
    seen     in the question only: its answer is what training teaches, its question must be new

Candidates that training rows overlap are passed over where there are others; the rows that
overlap with what was chosen nevertheless are dropped by `contamination`, and both are counted.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

from coderllm_jax.data.dedupe import normalised
from coderllm_jax.data.statements import Statement
from coderllm_jax.data.templates import held_out_question, stable_hash
from coderllm_jax.records import EvalItem

Split = Literal["seen", "unseen"]


class Subject(NamedTuple):
    """What the grouping looks at: a symbol's name, the class or file it belongs to, its text."""

    name: str
    owner: str
    text: str


def group_subjects(subjects: Iterable[Subject]) -> dict[str, str]:
    """The group of each name, called by the first name in it (alphabetically)."""
    parent: dict[str, str] = {}

    def find(node: str) -> str:
        while parent.setdefault(node, node) != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    names = []
    for subject in subjects:
        names.append(subject.name)
        for link in (f"owner {subject.owner}", f"text {normalised(subject.text)}"):
            parent[find(f"name {subject.name}")] = find(link)
    first: dict[str, str] = {}
    for name in sorted(names):
        first.setdefault(find(f"name {name}"), name)
    return {name: first[find(f"name {name}")] for name in names}


def choose_unseen(groups: Mapping[str, str], *, fraction: float) -> frozenset[str]:
    """The names kept from training: whole groups, by hash, until they are `fraction` of all.

    Groups of more than a tenth of the fraction are always trained on: one template's docstring
    would otherwise decide what the split measures.
    """
    members: dict[str, list[str]] = collections.defaultdict(list)
    for name, group in groups.items():
        members[group].append(name)
    wanted = fraction * len(groups)
    largest = max(wanted / 10, 8)
    chosen: set[str] = set()
    for group in sorted(members, key=lambda g: (stable_hash(g), g)):
        if len(chosen) >= wanted:
            break
        if len(members[group]) <= largest:
            chosen.update(members[group])
    return frozenset(chosen)


def as_item(statement: Statement, split: Split) -> EvalItem:
    """A statement asked in the phrasing that no training row uses."""
    return EvalItem(
        id=f"{split}:{statement.key}",
        question=held_out_question(statement.kind, statement.fields),
        answer=statement.answer,
        split=split,
        source=statement.source,
        symbol=statement.symbol,
        kind=statement.kind,
        license=statement.license,
        facts=statement.facts,
        tests=statement.tests,
    )


def choose_items(candidates: Sequence[tuple[EvalItem, int]], *, limit: int) -> list[EvalItem]:
    """Up to `limit` of (item, number of training rows that overlap it), in a mixed fixed order.

    Kinds take turns, symbols within a kind too; what no row overlaps comes first, then what can
    be judged by running it. Items that no program can check (no facts, no tests) and items whose
    question was chosen already are out.
    """
    by_symbol: dict[str, list[_Candidate]] = collections.defaultdict(list)
    for item, overlaps in candidates:
        if item.facts or item.tests:
            order = stable_hash(item.id)
            by_symbol[item.symbol].append(_Candidate(overlaps > 0, not item.tests, 0, order, item))
    queues: dict[str, list[_Candidate]] = collections.defaultdict(list)
    for members in by_symbol.values():
        for turn, candidate in enumerate(sorted(members, key=_rank)):
            queues[candidate.item.kind].append(candidate._replace(turn=turn))
    for queue in queues.values():
        queue.sort(key=_rank, reverse=True)
    chosen: dict[str, EvalItem] = {}
    while len(chosen) < limit and any(queues.values()):
        # One turn: of every kind that is left the next item, those without overlap before others.
        clean = any(queue and not queue[-1].overlaps for queue in queues.values())
        for kind in sorted(queues):
            queue = queues[kind]
            if queue and len(chosen) < limit and not (clean and queue[-1].overlaps):
                item = queue.pop().item
                chosen.setdefault(item.question, item)
    return sorted(chosen.values(), key=lambda item: (stable_hash(item.id), item.id))


class _Candidate(NamedTuple):
    """A candidate and what decides when its turn comes, most important first."""

    overlaps: bool
    untested: bool
    turn: int  # of its symbol's items it is this one
    order: int
    item: EvalItem


def _rank(candidate: _Candidate) -> tuple:
    return (*candidate[:-1], candidate.item.id)
