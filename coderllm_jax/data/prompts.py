r"""The one place where a prompt is made: for training, evaluation, generation and serving.

Owns Gemma's chat turns, their token ids and which of them are supervised:

    <bos><start_of_turn>user\n{question}<end_of_turn>\n<start_of_turn>model\n{answer}<end_of_turn>
      0         0          0        0          0       0        0           0       1        1

Gemma has no system role: a system turn stands before the first user turn's text, as in Gemma's
own template. User text is stripped, as there; a model's text is kept as it is, because leading
indentation is part of an answer that is code.

A query's conversation becomes a prompt in one of two styles (`PromptStyle`): chat turns, or plain
text with worked examples before it for a model that does not know turns. A text to be continued is
neither: it follows <bos> as it stands.

Control tokens enter by id and text is encoded with control parsing off, so a question that
contains `<end_of_turn>` cannot end its turn. `model\n` and the answer are encoded apart: what
generation starts from is then an exact prefix of what training saw.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from coderllm_jax.data.tokenizer import Tokenizer
from coderllm_jax.errors import DataError
from coderllm_jax.records import Query, Role, Turn

FEW_SHOT_STOP = "\n\n"
# Where a model goes on with a question of its own. A blank line is no such place: code has them.
_NEXT_QUESTION = "\n\nQuestion:"


class Encoded(NamedTuple):
    """One sequence: `ids` int32 [L] and, under each, whether it is part of an answer."""

    ids: npt.NDArray[np.int32]
    supervised: npt.NDArray[np.bool_]


class PromptStyle(NamedTuple):
    """How a conversation becomes a prompt: in chat turns, or after `shots` (question, answer)."""

    kind: Literal["chat", "few_shot"] = "chat"
    shots: tuple[tuple[str, str], ...] = ()


class _Piece(NamedTuple):
    content: str | int  # text to be encoded, or the id of a control token
    supervised: bool = False


_NEWLINE, _MODEL_HEADER = _Piece("\n"), _Piece("model\n")


class _Controls(NamedTuple):
    """A tokenizer's control tokens as pieces, made once for many conversations."""

    bos: _Piece
    start: _Piece
    end: _Piece
    end_of_answer: _Piece

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> _Controls:
        return cls(
            bos=_Piece(tokenizer.bos_id),
            start=_Piece(tokenizer.start_of_turn_id),
            end=_Piece(tokenizer.end_of_turn_id),
            end_of_answer=_Piece(tokenizer.end_of_turn_id, supervised=True),
        )


def encode_conversation(tokenizer: Tokenizer, turns: Sequence[Turn]) -> Encoded:
    """A whole conversation for training, ending with the last <end_of_turn>."""
    return encode_conversations(tokenizer, [turns])[0]


def encode_conversations(
    tokenizer: Tokenizer, conversations: Iterable[Sequence[Turn]]
) -> list[Encoded]:
    """`encode_conversation` of each, in one pass through the tokenizer."""
    controls = _Controls.of(tokenizer)
    return _encode(tokenizer, [_chat(turns, controls, last="model") for turns in conversations])


def encode_prompt(tokenizer: Tokenizer, turns: Sequence[Turn]) -> npt.NDArray[np.int32]:
    """What generation starts from: turns that end with the user's, and the model's turn opened."""
    controls = _Controls.of(tokenizer)
    pieces = _chat(turns, controls, last="user")
    pieces += [_NEWLINE, controls.start, _MODEL_HEADER]
    return _encode(tokenizer, [pieces])[0].ids


def encode_few_shot(
    tokenizer: Tokenizer,
    shots: Sequence[tuple[str, str]],
    *,
    question: str,
    answer: str | None = None,
) -> Encoded:
    """A plain-text prompt for a model that does not know chat turns.

    A pretrained Gemma owes most of its loss under chat turns to the turns, so its loss under this
    prompt is reported beside it. With `answer`, that text and the blank line that ends it
    (FEW_SHOT_STOP) are supervised; without, this is what generation starts from.
    """
    shown = "".join(f"Question: {q.strip()}\nAnswer: {a}{FEW_SHOT_STOP}" for q, a in shots)
    prompt = f"{shown}Question: {question.strip()}\nAnswer:"
    pieces = [_Piece(tokenizer.bos_id), _Piece(prompt)]
    if answer is not None:
        pieces += [_Piece(f" {answer}", supervised=True), _Piece(FEW_SHOT_STOP, supervised=True)]
    return _encode(tokenizer, [pieces])[0]


def encode_query(tokenizer: Tokenizer, query: Query, style: PromptStyle) -> npt.NDArray[np.int32]:
    """A query's prompt, int32 [L]. Raises DataError where its turns are in no order to answer.

    Under a few-shot style, the conversation's earlier turns become examples like the others, and a
    system turn stands before the question.
    """
    if query.continues:
        pieces = [_Piece(tokenizer.bos_id), _Piece(query.continues)]
        return _encode(tokenizer, [pieces])[0].ids
    if style.kind == "chat":
        return encode_prompt(tokenizer, query.turns)
    if problem := turn_problem(query.turns, last="user"):
        raise DataError(problem)
    turns = query.turns
    system = ""
    if turns[0].role == "system":
        system, turns = f"{turns[0].content}\n\n", turns[1:]
    earlier = [
        (user.content, model.content) for user, model in zip(turns[:-1:2], turns[1::2], strict=True)
    ]
    shots = [*style.shots, *earlier]
    return encode_few_shot(tokenizer, shots, question=f"{system}{turns[-1].content}").ids


def encode_reference(
    tokenizer: Tokenizer, query: Query, style: PromptStyle, reference: str
) -> Encoded:
    """A query's prompt followed by an answer to be scored, with what ends it where a style has it.

    The prompt is `encode_query`'s, id for id; supervised is the answer alone.
    """
    prompt = encode_query(tokenizer, query, style)
    if query.continues:
        pieces = [_Piece(reference, supervised=True)]
    elif style.kind == "chat":
        end = _Controls.of(tokenizer).end_of_answer
        pieces = [_Piece(reference, supervised=True), end]
    else:
        pieces = [_Piece(f" {reference}", supervised=True), _Piece(FEW_SHOT_STOP, supervised=True)]
    answer = _encode(tokenizer, [pieces])[0]
    return Encoded(
        np.concatenate([prompt, answer.ids]),
        np.concatenate([np.zeros(len(prompt), np.bool_), answer.supervised]),
    )


def stops_of(query: Query, style: PromptStyle) -> tuple[str, ...]:
    """The texts that end the answer: the query's own, and the style's."""
    if query.continues or style.kind == "chat":
        return query.stop
    return (*query.stop, _NEXT_QUESTION)


def turn_problem(turns: Sequence[Turn], *, last: Role) -> str | None:
    """What is wrong with the order of turns, and the remedy; None where it is right.

    Right is: at most one system turn, first; then user and model in turn; `last` at the end.
    """
    spoken = turns[1:] if turns and turns[0].role == "system" else turns
    if not spoken:
        return "there is no user turn; drop the row or add the turns"
    for index, turn in enumerate(spoken):
        expected = "model" if index % 2 else "user"
        number = index + 1 + len(turns) - len(spoken)
        if turn.role == expected:
            continue
        if turn.role == "system":
            return f"turn {number} is a system turn; expected it first; move or merge it"
        if index == 0:
            return f"turn {number} is a {turn.role} turn; expected a user turn; drop it"
        return (
            f"turns {number - 1} and {number} are both {turn.role} turns; "
            f"expected user and model in turn; merge the two"
        )
    if spoken[-1].role != last:
        return (
            f"the conversation ends with a {spoken[-1].role} turn; expected a {last} turn; "
            f"drop its last turn or complete it"
        )
    return None


def _chat(turns: Sequence[Turn], controls: _Controls, *, last: Role) -> list[_Piece]:
    problem = turn_problem(turns, last=last)
    if problem:
        raise DataError(problem)
    system = ""
    if turns[0].role == "system":
        system, turns = f"{turns[0].content}\n\n", turns[1:]
    pieces = [controls.bos]
    for index, turn in enumerate(turns):
        if index > 0:
            pieces.append(_NEWLINE)
        pieces.append(controls.start)
        if turn.role == "model":
            pieces += [_MODEL_HEADER, _Piece(turn.content, supervised=True), controls.end_of_answer]
        else:
            before = system if index == 0 else ""
            pieces += [_Piece(f"user\n{before}{turn.content.strip()}"), controls.end]
    return pieces


def _encode(tokenizer: Tokenizer, sequences: Sequence[list[_Piece]]) -> list[Encoded]:
    """Ids of every sequence; a text that occurs often (the model's header) is tokenized once."""
    texts = {
        piece.content: None
        for pieces in sequences
        for piece in pieces
        if isinstance(piece.content, str)
    }
    ids_of = dict(zip(texts, tokenizer.encode_batch(list(texts)), strict=True))
    controls = {tokenizer.bos_id, tokenizer.start_of_turn_id, tokenizer.end_of_turn_id}
    for text, own in ids_of.items():
        assert controls.isdisjoint(own), f"the tokenizer made a control token out of {text!r}"

    encoded = []
    for pieces in sequences:
        ids: list[int] = []
        supervised: list[bool] = []
        for content, answers in pieces:
            own = [content] if isinstance(content, int) else ids_of[content]
            ids += own
            supervised += [answers] * len(own)
        encoded.append(Encoded(np.array(ids, np.int32), np.array(supervised, np.bool_)))
    return encoded
