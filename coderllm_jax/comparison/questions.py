"""What is asked, and which arm could have known it.

    evaluation items ─┬─ trained on twice, and in the chunks ───────┬─ validation   for prompts
                      │                                             └─ seen         compared
                      ├─ never trained on, and in the newer chunks ─── unseen       apart
                      └─ neither ───────────────────────────────────── left out
    test_queries ──────────────────────────────────────────────────── asked         unscored

On `seen` questions training and retrieval had exactly the same knowledge, so that is where they are
compared. `unseen` is another case, knowledge that is newer than the training: the trained arm
cannot have it, and retrieval may look it up.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from coderllm_jax.errors import DataError
from coderllm_jax.evaluation.items import choose_questions
from coderllm_jax.records import Chunk, EvalItem
from coderllm_jax.training.inputs import vary_kinds

SEEN, UNSEEN, ASKED = "seen", "unseen", "asked"
LEAST_TIMES = 2
# At most this part of the questions is given up for choosing prompts.
_LARGEST_VALIDATION = 0.25


class Question(NamedTuple):
    """One question of a set; `item` has its reference and facts, where there are any."""

    id: str
    set: str
    text: str
    item: EvalItem | None = None


class Chosen(NamedTuple):
    """The questions that are compared, those on which prompts are chosen, and what was left out."""

    questions: tuple[Question, ...]
    validation: tuple[EvalItem, ...]
    left_out: Mapping[str, int]

    def of_set(self, name: str) -> list[Question]:
        """The questions of one set, in order."""
        return [question for question in self.questions if question.set == name]

    @property
    def sets(self) -> list[str]:
        """The sets that hold questions, in order."""
        return list(dict.fromkeys(question.set for question in self.questions))


def choose(
    items: Sequence[EvalItem],
    *,
    num_seen: int,
    num_unseen: int,
    num_validation: int,
    times_seen: Mapping[str, int] | None,
    trained_chunks: Sequence[Chunk] | None = None,
    newer_chunks: Sequence[Chunk] = (),
) -> Chosen:
    """Which items are compared, and on which prompts are chosen; the same whatever their order.

    times_seen: how often rows of each symbol were trained on; None where no run says so, and the
    file's word counts. trained_chunks: None where no arm looks anything up.
    """
    placed = choose_questions(
        items, len(items), times_seen=times_seen, least_times=LEAST_TIMES
    ).items
    seen = [item for item in placed if item.split == "seen"]
    unseen = [item for item in placed if item.split == "unseen"]
    left_out = {"trained on, but once only": len(items) - len(placed)}
    if trained_chunks is not None:
        all_seen, all_unseen = len(seen), len(unseen)
        seen = _held(seen, trained_chunks)
        unseen = _held(unseen, newer_chunks)
        left_out["not in the chunks that retrieval may look up"] = (
            all_seen - len(seen) + all_unseen - len(unseen)
        )
    shuffled = vary_kinds(sorted(seen, key=_by_chance))
    num_validation = min(num_validation, int(len(seen) * _LARGEST_VALIDATION))
    validation = tuple(shuffled[:num_validation])
    rest = {item.id for item in shuffled[num_validation:]}
    compared = [item for item in seen if item.id in rest][:num_seen]
    return Chosen(
        tuple(
            Question(item.id, name, item.question, item)
            for name, of_set in ((SEEN, compared), (UNSEEN, unseen[:num_unseen]))
            for item in of_set
        ),
        validation,
        {reason: count for reason, count in left_out.items() if count},
    )


def choose_own(queries: Sequence[str], validation: tuple[EvalItem, ...]) -> Chosen:
    """A user's own questions, in their order; prompts are still chosen on prepared items."""
    if len(set(queries)) < len(queries):
        twice = next(query for query in queries if queries.count(query) > 1)
        raise DataError(f"test_queries holds {twice!r} twice; drop one of them")
    return Chosen(
        tuple(Question(f"query:{n}", ASKED, text) for n, text in enumerate(queries, 1)),
        validation,
        {},
    )


def _held(items: Sequence[EvalItem], chunks: Collection[Chunk]) -> list[EvalItem]:
    """Items about symbols that the chunks hold; of what names no symbol, nobody can tell."""
    symbols = {chunk.symbol for chunk in chunks}
    return [item for item in items if item.symbol in symbols]


def _by_chance(item: EvalItem) -> bytes:
    """An order that has nothing to do with the one in which items are compared."""
    return hashlib.sha256(f"validation:{item.id}".encode()).digest()
