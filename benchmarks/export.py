"""A trained run exported in every format, and each library's answers beside ours.

    python -m benchmarks.export [--model_path=runs/lora] [--json=FILE] [--report=FILE.md]

    runs/lora ──► coderllm_jax.export, all formats, proven ──► 20 questions, greedy, each library
              └─► our engine, float32, adapter beside the kernels ──► the same questions

Answers are compared token by token. Where one differs, its first differing token is shown with the
lead that ours had there: the difference of our two largest logits, from a forward pass over the
prompt and what both had said until then. A lead below a library's own rounding is a near tie, and
nobody's mistake; it is reported all the same.

Prints tables and exits with 0 either way; what an export itself refuses ends it with one line.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import app, flags

from benchmarks.export_arm import cut
from benchmarks.measure import peak_memory_bytes, run_module

_MODEL_PATH = flags.DEFINE_string(
    "model_path", "runs/lora", "What is exported.", allow_override=True
)
_ITEMS = flags.DEFINE_string(
    "items", "data/evaluation/unseen.jsonl", "Where the questions are.", allow_override=True
)
_QUESTIONS = flags.DEFINE_integer("questions", 20, "How many.", lower_bound=1, allow_override=True)
_TOKENS = flags.DEFINE_integer(
    "tokens", 48, "Longest answer, in tokens.", lower_bound=1, allow_override=True
)
_EXPORTS = flags.DEFINE_string(
    "exports",
    "",
    "A folder of exports that are there already, beside which what is missing is made. "
    "Empty: a temporary one.",
    allow_override=True,
)
_JSON = flags.DEFINE_string("json", "", "Also write the figures to this file.", allow_override=True)
_REPORT = flags.DEFINE_string(
    "report", "", "Also write them as Markdown to this file.", allow_override=True
)

GGUF_TYPES = ("f32", "f16", "bf16", "q8_0")
_LIBRARIES = {
    "huggingface": "transformers",
    "peft": "peft",
    "keras": "keras_hub",
    "gguf": "llama.cpp",
}


_LEGEND = (
    "Logits at 36 positions of three prompts, from the written file to what its library says: the "
    "largest difference and KL divergence; `rounding` is what the number format cost before that. "
    "Every tensor was read back as it was meant. Answers are greedy and compared token by token, "
    "ours in float32 with the adapter beside the kernels; the last column is the mean number of "
    "tokens before the first that differs. `Our lead` is the difference of our two largest logits "
    "there: where it is below what `logits differ` says, the two were near a tie."
)


class Difference(NamedTuple):
    """Where an answer leaves ours: after how many tokens, ours and theirs, our lead in logits.

    rank: which of our likeliest tokens theirs is, 2 being the next.
    """

    question: int
    at: int
    ours: str
    theirs: str
    lead: float
    rank: int


class Outcome(NamedTuple):
    """One artifact: its size, what its proof found, and how its answers compare.

    mean_common: tokens until the first that differs, of mean_length that ours have.
    """

    name: str
    library: str
    num_bytes: int
    verification: Mapping[str, Any]
    num_equal: int
    num_answers: int
    mean_common: float
    mean_length: float
    differences: Sequence[Difference]
    seconds: float


def first_difference(ours: Sequence[int], theirs: Sequence[int]) -> int | None:
    """The index of the first token that differs, or where one of them ended; None if equal."""
    for i, (one, other) in enumerate(zip(ours, theirs, strict=False)):
        if one != other:
            return i
    return None if len(ours) == len(theirs) else min(len(ours), len(theirs))


class Own:
    """Our side: prompts, answers, and the lead at a place where another answer differs."""

    def __init__(self, model_path: str, questions: Sequence[str], num_new: int) -> None:
        from coderllm_jax.config.training import ModelSection
        from coderllm_jax.data.prompts import encode_prompt
        from coderllm_jax.generation.engine import Engine, Request
        from coderllm_jax.generation.trained import load_trained
        from coderllm_jax.model.precision import FLOAT32
        from coderllm_jax.records import Turn

        cache_dir = ModelSection().cache_dir
        self.model = load_trained(model_path, precision=FLOAT32, cache_dir=cache_dir)
        self.tokenizer = self.model.tokenizer
        self.stops = [self.tokenizer.eos_id, self.tokenizer.end_of_turn_id]
        self.prompts = [
            encode_prompt(self.tokenizer, [Turn("user", question)]) for question in questions
        ]
        engine = Engine(
            self.model.architecture,
            self.tokenizer,
            self.model.weights,
            self.model.adapters,
            options=self.model.options,
            num_slots=len(questions),
            max_length=max(map(len, self.prompts)) + num_new,
            merge=False,
        )
        requests = [Request(str(i), prompt, num_new) for i, prompt in enumerate(self.prompts)]
        self.answers = [cut(completion.ids, self.stops) for completion in engine.generate(requests)]

    def describe(self, question: int, at: int, theirs: Sequence[int]) -> Difference:
        """The difference of that answer's token, with what our logits say of both."""
        from coderllm_jax.export.probes import Probes, own_logits

        said = self.answers[question]
        prompt = np.concatenate([self.prompts[question], said[:at]]).astype(np.int32)
        position = np.array([len(prompt) - 1], np.int32)
        (logits,) = own_logits(self.model, Probes((prompt,), (position,)))
        likeliest = np.argsort(logits[0])[::-1]
        other = theirs[at] if at < len(theirs) else None
        ends = [token for token in likeliest[:8].tolist() if token in self.stops]
        token = other if other is not None else (ends or self.stops)[0]
        return Difference(
            question=question,
            at=at,
            ours=self._shown(said[at] if at < len(said) else None),
            theirs=self._shown(other),
            lead=float(logits[0][likeliest[0]] - logits[0][token]),
            rank=int(np.flatnonzero(likeliest == token)[0]) + 1,
        )

    def _shown(self, token: int | None) -> str:
        return "(end)" if token is None else repr(self.tokenizer.decode([token]))


def make_exports(out: Path, model_path: str) -> None:
    """Every format that is not there yet, by the command, as a user makes them."""
    missing = [wanted for wanted in _LIBRARIES if not (out / wanted / "export.json").is_file()]
    if not missing:
        return
    problem = run_module(
        "coderllm_jax.export",
        f"--config.model_path={model_path}",
        f"--config.out={out}",
        f"--config.formats={','.join(missing)}",
        f"--config.gguf_types={','.join(GGUF_TYPES)}",
        environment={},
    )
    if problem:
        raise SystemExit(f"error: {', '.join(missing)} were not exported: {problem}")


def ask_library(folder: Path, library: str, artifact: Path, base: str, own: Own) -> float:
    """Starts the library's process on the job; its answers lie in the folder. Seconds it took."""
    job = {
        "library": library,
        "artifact": str(artifact.resolve()),
        "base": base,
        "prompts": [prompt.tolist() for prompt in own.prompts],
        "num_new": _TOKENS.value,
        "stops": own.stops,
    }
    (folder / "job.json").write_text(json.dumps(job))
    started = time.perf_counter()
    environment = {"JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1"}
    problem = run_module("benchmarks.export_arm", str(folder), environment=environment)
    if problem:
        raise SystemExit(f"error: {library} did not answer: {problem}")
    return time.perf_counter() - started


def compare(name: str, library: str, artifact: Path, *, found: Any, own: Own, base: str) -> Outcome:
    """Asks one artifact's library and holds its answers against ours."""
    with tempfile.TemporaryDirectory() as folder:
        seconds = ask_library(Path(folder), library, artifact, base, own)
        answers = json.loads((Path(folder) / "answers.json").read_text())
    differences, common = [], []
    for question, (ours, theirs) in enumerate(zip(own.answers, answers, strict=True)):
        at = first_difference(ours, theirs)
        common.append(len(ours) if at is None else at)
        if at is not None:
            differences.append(own.describe(question, at, theirs))
    files = artifact.rglob("*") if artifact.is_dir() else [artifact]
    weights = (".safetensors", ".gguf", ".h5")
    return Outcome(
        name=name,
        library=library,
        num_bytes=sum(path.stat().st_size for path in files if path.suffix in weights),
        verification=found,
        num_equal=len(answers) - len(differences),
        num_answers=len(answers),
        mean_common=float(np.mean(common)),
        mean_length=float(np.mean([len(ours) for ours in own.answers])),
        differences=differences,
        seconds=seconds,
    )


def compare_all(out: Path, own: Own, base: Path) -> list[Outcome]:
    """Every artifact of every format. `base` is where the base lies that an adapter is put onto."""
    outcomes = []
    for wanted, library in _LIBRARIES.items():
        record = json.loads((out / wanted / "export.json").read_text())
        for name, found in record["verification"].items():
            artifact = out / wanted / name if wanted == "gguf" else out / wanted
            under = str(base.resolve()) if wanted == "peft" else ""
            outcomes.append(compare(name, library, artifact, found=found, own=own, base=under))
    return outcomes


def table(outcomes: Sequence[Outcome]) -> str:
    """The outcomes in Markdown."""
    lines = [
        "| artifact | loaded by | GB | logits differ | KL, nats | rounding, KL | equal answers "
        "| equal from the start, of tokens |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for outcome in outcomes:
        found = outcome.verification
        versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
        rounding = f"{found['rounding']['kl']:.2g}" if found["rounding"] else ""
        lines.append(
            f"| {outcome.name} | {versions} | {outcome.num_bytes / 1e9:.2f} | "
            f"{found['program']['difference']:.2g} | {found['program']['kl']:.2g} | {rounding} | "
            f"{outcome.num_equal} of {outcome.num_answers} | "
            f"{outcome.mean_common:.1f} of {outcome.mean_length:.1f} |"
        )
    return "\n".join(lines)


def differences_table(outcomes: Sequence[Outcome]) -> str:
    """Every answer that differs, and where; a sentence where there is none."""
    rows = [
        f"| {outcome.name} | {each.question + 1} | {each.at + 1} | {each.ours} | {each.theirs} | "
        f"{each.lead:.4f} | {each.rank} |"
        for outcome in outcomes
        for each in outcome.differences
    ]
    if not rows:
        return "No answer differs."
    header = [
        "| artifact | question | token | ours | theirs | our lead in logits | its rank with us |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    return "\n".join([*header, *rows])


def main(argv: list[str]) -> None:
    """Exports, asks, compares, prints and writes."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    from coderllm_jax.export.huggingface_folder import write_huggingface
    from coderllm_jax.export.merging import MergedModel

    lines = Path(_ITEMS.value).read_text(encoding="utf-8").splitlines()[: _QUESTIONS.value]
    questions = [json.loads(line)["question"] for line in lines]
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(_EXPORTS.value or Path(scratch) / "exports")
        make_exports(out, _MODEL_PATH.value)
        own = Own(_MODEL_PATH.value, questions, _TOKENS.value)
        base = Path(scratch) / "base"
        base.mkdir()
        merged = MergedModel.of(own.model).base()
        write_huggingface(base, merged, dtype="float32", max_shard_bytes=1 << 40)
        outcomes = compare_all(out, own, base)
    num_tokens = sum(map(len, own.answers))
    conditions = (
        f"{_MODEL_PATH.value} (adapter {own.model.identity['trained']['sha256'][:12]}), "
        f"{len(questions)} questions of {_ITEMS.value}, greedy, at most {_TOKENS.value} tokens "
        f"({num_tokens} in all); {os.cpu_count()} cores, load {load_before:.1f} before, "
        f"{time.strftime('%Y-%m-%d')}."
    )
    print(f"{conditions}\n\n{table(outcomes)}\n\n{differences_table(outcomes)}")
    if _JSON.value:
        content = {
            "conditions": conditions,
            "questions": questions,
            "answers": [own.tokenizer.decode(ids) for ids in own.answers],
            "peak_memory_bytes": peak_memory_bytes(),
            "outcomes": [
                {**each._asdict(), "differences": [d._asdict() for d in each.differences]}
                for each in outcomes
            ],
        }
        Path(_JSON.value).write_text(f"{json.dumps(content, indent=1)}\n")
    if _REPORT.value:
        text = (
            f"# Exports beside the model they were made from\n\n`python -m benchmarks.export`: "
            f"{conditions}\n\n{table(outcomes)}\n\n{_LEGEND}\n\nAnswers that differ, at their "
            f"first differing token:\n\n{differences_table(outcomes)}\n"
        )
        Path(_REPORT.value).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    app.run(main)
