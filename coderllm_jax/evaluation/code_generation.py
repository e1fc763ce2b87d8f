"""The code_generation suite: programs asked for, taken out of answers, judged in the sandbox.

    set             asked as                                                judged by
    human_eval      the function's beginning, continued; or in a chat turn  its own `check`
    hand_written    data/questions.jsonl, as questions                      script of asserts
    items           evaluation items with tests, as questions               script of asserts

Answers made elsewhere (`samples`, human-eval's rows) are judged the same way, without a model.

Verdicts are kept beside the answers, keyed by the program, its tests and the time limit: a verdict
depends on nothing else, so that a second run judges only what is new.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from coderllm_jax.config.evaluation import CodeSection
from coderllm_jax.data.files import find_files, iterate_records
from coderllm_jax.data.prepared import read_evaluation_items
from coderllm_jax.errors import DataError
from coderllm_jax.evaluation.asking import AnswerProgress, Kept, read_kept
from coderllm_jax.evaluation.code_metrics import pass_at_k_estimate
from coderllm_jax.evaluation.context import Context
from coderllm_jax.evaluation.extraction import completion_from_answer, extract_code
from coderllm_jax.evaluation.judge import Verdict, judge_samples
from coderllm_jax.evaluation.results import SuiteResult
from coderllm_jax.evaluation.tasks import CodeTask, load_human_eval, tasks_from_items
from coderllm_jax.records import Answer, Estimate, EvalItem, Query, Sampling, Turn

_HUMAN_EVAL_QUESTION = (
    "Complete this Python function. Answer with the whole function in one code block.\n\n"
    "```python\n{prompt}```"
)
# Where a continued function is over: a line that begins something else at the top level.
_FUNCTION_ENDS = ("\ndef ", "\nclass ", "\nif ", "\nprint(", "\n#", "\n@", "\n```", "\nassert ")
_LETTERS_SHOWN = 200


@dataclasses.dataclass(frozen=True)
class Problem:
    """A task, the set it belongs to, and how it is put."""

    set: str
    task: CodeTask
    question: str
    is_continued: bool


def run_code_generation(context: Context) -> SuiteResult:
    """Asks, judges and counts; see the table above."""
    config, section = context.config, context.config.code
    continues = section.prompt == "completion" or (
        section.prompt == "auto" and not _is_instructed(context.answerer.identity)
    )
    problems = list(_choose(section, context.items, continues=continues))
    if not problems:
        return SuiteResult("code_generation", {}, notes=("none of the sets holds a problem",))
    queries = [
        _query(problem, section, number, seed=config.seed)
        for problem in problems
        for number in range(section.num_samples)
    ]
    context.note(f"asking for {len(queries)} programs")
    answers = context.ask(queries)
    asked = [problem for problem in problems for _ in range(section.num_samples)]
    samples = [
        {"task_id": problem.task.task_id, "completion": completion_of(problem, answer)}
        for problem, answer in zip(asked, answers, strict=True)
    ]
    tasks = {problem.task.task_id: problem.task for problem in problems}
    context.note(f"judging {len(samples)} programs")
    verdicts = judge_kept(tasks, samples, section, context.folder / "verdicts.jsonl")
    rows = [
        {
            **sample_row(problem.set, sample, verdict),
            "id": query.id,
            "question": problem.question,
            "answer": answer.text,
            "finish": answer.finish,
        }
        for problem, query, answer, sample, verdict in zip(
            asked, queries, answers, samples, verdicts, strict=True
        )
    ]
    put = {"human_eval": "continued" if continues else "in a chat turn"}
    return summarize_code(rows, section, seed=config.seed, details={"put": put})


def judge_file(path: str, section: CodeSection, folder: Path, *, seed: int) -> SuiteResult:
    """The suite over answers made elsewhere: rows of `{"task_id", "completion"}`."""
    tasks = load_human_eval()
    samples = read_samples(path, tasks)
    verdicts = judge_kept(tasks, samples, section, folder / "verdicts.jsonl")
    counts: Counter[str] = Counter()
    rows = []
    for sample, verdict in zip(samples, verdicts, strict=True):
        number = counts[sample["task_id"]]
        counts[sample["task_id"]] += 1
        rows.append(
            {
                **sample_row("human_eval", sample, verdict),
                "id": f"{sample['task_id']}/{number}",
                "question": tasks[sample["task_id"]].prompt,
                "answer": sample["completion"],
            }
        )
    return summarize_code(rows, section, seed=seed, details={"samples": Path(path).name})


def read_samples(path: str, tasks: Mapping[str, CodeTask]) -> list[dict[str, str]]:
    """The rows of a file of samples; DataError, with file and line, for one that is none."""
    samples = []
    for file in find_files(path, option="samples"):
        for record in iterate_records(file):
            try:
                row = record.fields()
            except DataError as error:
                raise DataError(f"{record.location}: {error}") from None
            task_id, completion = row.get("task_id"), row.get("completion")
            if not isinstance(task_id, str) or not isinstance(completion, str):
                raise DataError(
                    f"{record.location}: expected 'task_id' and 'completion', both strings, as "
                    f"human-eval writes them; found the keys {sorted(row)}"
                )
            if task_id not in tasks:
                raise DataError(
                    f"{record.location}: there is no task {task_id!r}; expected HumanEval/0 to "
                    "HumanEval/163; drop the row"
                )
            samples.append({"task_id": task_id, "completion": completion})
    return samples


def judge_kept(
    tasks: Mapping[str, CodeTask],
    samples: Sequence[Mapping[str, str]],
    section: CodeSection,
    path: Path,
) -> list[Verdict]:
    """A verdict for each sample, those judged before taken from `path`.

    A refusal is never kept: another day the sandbox may be there.
    """
    known = read_kept(path, "verdict")
    keys = [_key(tasks[sample["task_id"]], sample, section.timeout_s) for sample in samples]
    missing = {key: sample for key, sample in zip(keys, samples, strict=True) if key not in known}
    fresh: dict[str, Verdict] = {}
    if missing:
        judged = judge_samples(
            tasks,
            list(missing.values()),
            workers=section.workers or None,
            timeout_s=section.timeout_s,
            progress=AnswerProgress("programs judged"),
        )
        fresh = dict(zip(missing, judged, strict=True))
        with Kept(path, name="verdict") as kept:
            for key, verdict in fresh.items():
                if verdict.verdict != "refused":
                    kept.add(key, verdict._asdict())
    return [fresh[key] if key in fresh else Verdict(**known[key]) for key in keys]


def completion_of(problem: Problem, answer: Answer) -> str:
    """What follows the task's prompt so that the answer's program results."""
    if problem.is_continued:
        return answer.text
    task = problem.task
    if not task.entry_point:
        return extract_code(answer.text)
    return completion_from_answer(answer.text, prompt=task.prompt, entry_point=task.entry_point)


def sample_row(set_name: str, sample: Mapping[str, str], verdict: Verdict) -> dict[str, Any]:
    """One program's row of samples.jsonl."""
    return {
        "suite": "code_generation",
        "set": set_name,
        "task_id": sample["task_id"],
        "completion": sample["completion"],
        "verdict": verdict.verdict,
        "cause": verdict.cause,
        "reason": verdict.reason,
        "scores": {"passed": float(verdict.verdict == "passed")},
    }


def summarize_code(
    rows: Sequence[Mapping[str, Any]],
    section: CodeSection,
    *,
    seed: int,
    details: Mapping[str, Any],
) -> SuiteResult:
    """pass@k of each set with intervals clustered by problem, and what went wrong how often."""
    figures: dict[str, Estimate] = {}
    sets: dict[str, Any] = {}
    notes: list[str] = []
    for name, group in itertools.groupby(sorted(rows, key=_set_of), key=_set_of):
        of_set = list(group)
        refused = [row for row in of_set if row["verdict"] == "refused"]
        judged = [row for row in of_set if row["verdict"] != "refused"]
        sets[name] = {
            "problems": len({row["task_id"] for row in of_set}),
            "samples": len(of_set),
            "verdicts": dict(Counter(row["verdict"] for row in of_set).most_common()),
            "causes": dict(Counter(row["cause"] for row in of_set if row["cause"]).most_common()),
        }
        if refused:
            notes.append(
                f"{name}: {len(refused)} programs were not executed: "
                f"{refused[0]['reason'][:_LETTERS_SHOWN]}"
            )
        counts = Counter(row["task_id"] for row in judged)
        passed = Counter(row["task_id"] for row in judged if row["verdict"] == "passed")
        pairs = [(counts[task], passed[task]) for task in counts]
        for k in section.k:
            figures[f"{name}/pass@{k}"] = pass_at_k_estimate(pairs, k, seed=seed)
    return SuiteResult(
        "code_generation",
        figures,
        details={**details, "sets": sets},
        samples=list(rows),
        notes=notes,
        is_whole=not any(row["verdict"] == "refused" for row in rows),
    )


def _choose(
    section: CodeSection, items: Sequence[EvalItem], *, continues: bool
) -> Iterator[Problem]:
    def first(tasks: Mapping[str, CodeTask]) -> list[CodeTask]:
        return list(tasks.values())[: section.max_problems or None]

    if "human_eval" in section.sets:
        for task in first(load_human_eval()):
            question = _HUMAN_EVAL_QUESTION.format(prompt=task.prompt)
            # Without its last line break, which belongs to the token that the body begins with.
            beginning = task.prompt.rstrip()
            yield Problem("human_eval", task, beginning if continues else question, continues)
    for name in ("hand_written", "items"):
        if name not in section.sets:
            continue
        group = read_evaluation_items(section.hand_written_path) if name != "items" else items
        questions = {item.id: item.question for item in group}
        for task in first(tasks_from_items(group)):
            yield Problem(name, task, questions[task.task_id], is_continued=False)


def _query(problem: Problem, section: CodeSection, number: int, *, seed: int) -> Query:
    sampling = Sampling(
        temperature=section.temperature, top_p=section.top_p, seed=(seed + number) % 2**32
    )
    return Query(
        f"code/{problem.task.task_id}/{number}",
        turns=() if problem.is_continued else (Turn("user", problem.question),),
        continues=problem.question if problem.is_continued else "",
        max_new_tokens=section.max_new_tokens,
        sampling=sampling,
        stop=_FUNCTION_ENDS if problem.is_continued else (),
    )


def _key(task: CodeTask, sample: Mapping[str, str], timeout_s: int) -> str:
    judged = [task.prompt, task.tests, task.entry_point, sample["completion"], timeout_s]
    return hashlib.sha256(json.dumps([task.task_id, *judged]).encode()).hexdigest()


def _set_of(row: Mapping[str, Any]) -> str:
    return row["set"]


def _is_instructed(identity: Mapping[str, Any]) -> bool:
    """Whether the answerer's makers taught it turns; of what is not ours, that is to be expected.

    A pretrained model that was fine-tuned here still continues code better than it chats about it.
    """
    model = identity.get("model")
    return bool(model.get("is_instructed", True)) if isinstance(model, Mapping) else True
