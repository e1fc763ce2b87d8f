"""Questions that nobody should ask, asked all at once beside ordinary ones.

    case             must end as
    empty, blank     an answer, or a clear refusal
    very_long        a refusal; or an answer to all of it, where there is room
    lone_surrogate   a refusal, or an answer: it is no valid Unicode
    fake_turns ...   an answer (`perturbations`, those to be survived)
    ordinary         an answer: one bad question must not cost the others

A case is survived where it ends once, as `stop` or `length` or as an error that says something;
its answer can be written as UTF-8, and holds no mark of turns that the question did not bring
along: a mark there would be the model's own structure, leaked into text. Whether an instruction
that was planted in a question is obeyed is no matter of survival: who asks may ask for that.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from coderllm_jax.evaluation.ledger import Ledger
from coderllm_jax.evaluation.perturbations import PERTURBATIONS, perturb
from coderllm_jax.records import Answer, Query

ORDINARY = "How do I reverse a list in Python?"
_NUM_ORDINARY = 2
# Gemma's, and those of servers that serve other models.
_MARKS = (
    *("<start_of_turn>", "<end_of_turn>", "<bos>", "<eos>", "<pad>", "<unk>"),
    *("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|start_header_id|>"),
)
_LETTERS_SHOWN = 300


@dataclasses.dataclass(frozen=True)
class Case:
    """One question. num_words: words that the prompt cannot do with fewer tokens than."""

    name: str
    question: str
    num_words: int = 0


@dataclasses.dataclass(frozen=True)
class Survival:
    """How a case ended. `problem` is empty where it was survived."""

    case: Case
    answer: Answer
    problem: str

    def to_sample(self) -> Mapping[str, Any]:
        """A row of samples.jsonl."""
        return {
            "suite": "robustness",
            "id": f"survival:{self.case.name}",
            "group": "survival",
            "question": shorten(self.case.question),
            "answer": shorten(self.answer.text),
            "finish": self.answer.finish,
            "error": shorten(self.answer.error),
            "problem": shorten(self.problem),
            "scores": {"survived": float(not self.problem)},
        }


def survival_cases(base: str, *, max_length: int, seed: int) -> list[Case]:
    """All of them. `base` is the question that is disturbed; max_length, tokens that have room."""
    fixed = {
        "empty": "",
        "blank": " \n\t \u00a0\n",
        "one_mark": "?",
        "null": "What does \x00 do in \x1b[31m a string?",
        "emoji": "Was macht \U0001f469\u200d\U0001f4bb\U0001f3fd in 例え на عربى \u0b95\u0bcd?",
        "not_a_character": "What is \uffff or \U0010ffff or \u2581\u2581?",
        "lone_surrogate": "What is \ud800 in Python?",
        "one_long_word": "a" * 200,
    }
    disturbed = {
        each.name: perturb(each, base, seed=seed) for each in PERTURBATIONS if not each.keeps_answer
    }
    num_words = 2 * max_length
    words = " ".join(f"word{number}" for number in range(num_words))
    return [
        *(Case(name, question) for name, question in {**fixed, **disturbed}.items()),
        Case("very_long", words, num_words),
        # An unclosed fence that is too long as well: code is counted differently.
        Case("very_long_code", "```python\n" + "x = (1,\n" * num_words, num_words),
    ]


def run_survival(
    open_ledger: Callable[[], Ledger], cases: Iterable[Case], *, max_new_tokens: int
) -> list[Survival]:
    """Asks all cases at once, between ordinary questions, and judges how each ended.

    Where that makes the answerer raise, everything is asked once more, each case alone, to tell
    which of them does.
    """
    ordinary = [Case(f"ordinary_{number}", ORDINARY) for number in range(_NUM_ORDINARY)]
    order = [ordinary[0], *cases, *ordinary[1:]]
    together = _ask(open_ledger(), order, max_new_tokens=max_new_tokens)
    if together is not None:
        return together
    alone = []
    for case in order:
        ledger = open_ledger()
        found = _ask(ledger, [case], max_new_tokens=max_new_tokens)
        alone += found or [Survival(case, Answer(case.name), f"the answerer's {ledger.crash}")]
    return alone


def _ask(ledger: Ledger, cases: Sequence[Case], *, max_new_tokens: int) -> list[Survival] | None:
    """All cases at once; None where that made the answerer raise."""
    answers = ledger.ask(
        [
            # A new id for every query: these are not asked for the first time.
            Query.from_question(
                f"survival/{len(cases)}/{case.name}", case.question, max_new_tokens=max_new_tokens
            )
            for case in cases
        ]
    )
    if ledger.crash:
        return None
    return [
        Survival(case, answer, _problem(case, answer, ledger.faults_of(answer.id)))
        for case, answer in zip(cases, answers, strict=True)
    ]


def find_leaks(question: str, answer: str) -> list[str]:
    """Marks of turns in an answer that its question does not hold."""
    return [mark for mark in _MARKS if mark in answer and mark not in question]


def shorten(text: str) -> str:
    """The beginning of a text, as what UTF-8 can hold."""
    written = text[:_LETTERS_SHOWN].encode("utf-8", "backslashreplace").decode()
    return written if len(text) <= _LETTERS_SHOWN else f"{written}… ({len(text)} characters)"


def _problem(case: Case, answer: Answer, faults: list[str]) -> str:
    if faults:
        return faults[0]
    if answer.finish == "error":
        if case.question == ORDINARY:
            return f"an ordinary question beside the others was refused: {answer.error}"
        return "" if answer.error.strip() else "it was refused without a word"
    if answer.finish not in ("stop", "length"):
        return f"it ended as {answer.finish or 'nothing'}"
    return _problem_of_text(case, answer)


def _problem_of_text(case: Case, answer: Answer) -> str:
    if 0 < answer.num_prompt_tokens < case.num_words:
        return (
            f"its prompt was cut without a word: {answer.num_prompt_tokens} tokens for "
            f"{case.num_words} words"
        )
    try:
        answer.text.encode()
    except UnicodeEncodeError:
        return "its answer is no valid Unicode"
    leaks = find_leaks(case.question, answer.text)
    return f"its answer holds {', '.join(leaks)}" if leaks else ""
