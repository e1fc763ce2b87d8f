"""Every Gemma family through the one path: `python -m benchmarks.families [--report=FILE]`.

Each case of `family_models` is a small random model that KerasHub made and saved. Read back by us,

    keras          its logits, beside KerasHub's own of the same rows: the largest difference
    transformers   the same beside transformers', by way of a folder that transformers saved
    packed         two examples in one row, beside each in a row of its own
    cached         greedy tokens from the generator's caches, beside those of whole forward passes
    step           one LoRA step of the compiled training program: gradient finite, adapters moved,
                   and every frozen weight the same to the bit

All in float32 on the CPU. Exits with 1 where anything is not as it should be. Columns whose library
is not installed are left empty, and the page says so.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import json
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import numpy.typing as npt
from absl import app, flags

from benchmarks.family_models import (
    CASES,
    Case,
    Read,
    keras_logits,
    make_keras,
    mend_query_scale,
    read_keras,
    transformers_logits,
)
from coderllm_jax.config import TrainingConfig
from coderllm_jax.data.tokenizer import ByteTokenizer
from coderllm_jax.generation.engine import Engine, Request
from coderllm_jax.model.forward import ForwardOptions, hidden_states
from coderllm_jax.model.load import LoadedModel
from coderllm_jax.records import PackedBatch
from coderllm_jax.training.step import build_program

# Float32 sums in another order; a wrong scale, cap, window or wavelength is off by 1e-2 or more.
TOLERANCE = 2e-4
_ROWS, _LENGTH = 2, 40
_PROMPTS, _NEW_TOKENS = (5, 23, 37), 20
_OPTIONS = ForwardOptions()


class Parity(NamedTuple):
    """What was found of one case. Differences are the largest of any logit; None: not looked at.

    mended: whether KerasHub's blocks had to be told their query scale. cached: equal tokens, all.
    """

    name: str
    family: str
    keras: float
    mended: bool
    unmended: float | None
    transformers: float | None
    packed: float
    cached: tuple[int, int]
    gradient_norm: float
    adapters_moved: bool
    frozen_moved: bool

    def problems(self) -> list[str]:
        """What is not as it should be, a line each."""
        lines = [
            f"{self.name}: {what} differs by {value:.1e}; expected at most {TOLERANCE:.0e}"
            for what, value in (
                ("KerasHub", self.keras),
                ("transformers", self.transformers),
                ("packed", self.packed),
            )
            if value is not None and not value <= TOLERANCE
        ]
        equal, number = self.cached
        if equal != number:
            lines.append(f"{self.name}: {equal} of {number} cached tokens are the uncached ones")
        if not 0 < self.gradient_norm < float("inf"):
            lines.append(f"{self.name}: the gradient's norm is {self.gradient_norm}")
        if not self.adapters_moved or self.frozen_moved:
            lines.append(f"{self.name}: a step moved other weights than the adapters, or none")
        return lines


def measure(case: Case, *, with_transformers: bool) -> Parity:
    """Everything about one case."""
    stock = make_keras(case)
    tokens_BL = random_tokens(_ROWS, _LENGTH)
    read = read_keras(stock)
    ours = our_logits(read, tokens_BL)
    unmended = None
    if case.scales_by_width:
        unmended = _largest(ours, keras_logits(stock, tokens_BL))
        mend_query_scale(stock)
    torchs = None
    if with_transformers:
        logits, back = transformers_logits(read, tokens_BL)
        torchs = max(_largest(ours, logits), _largest(our_logits(back, tokens_BL), logits))
    moved = one_step(read)
    return Parity(
        name=case.name,
        family=read.architecture.family,
        keras=_largest(ours, keras_logits(stock, tokens_BL)),
        mended=case.scales_by_width,
        unmended=unmended,
        transformers=torchs,
        packed=packed_difference(read),
        cached=equal_tokens(read),
        **moved,
    )


def random_tokens(rows: int, length: int, *, seed: int = 0) -> npt.NDArray[np.int32]:
    """Token ids that no tokenizer would give."""
    return np.random.default_rng(seed).integers(6, 320, (rows, length)).astype(np.int32)


def our_logits(
    read: Read,
    tokens_BL: npt.NDArray[np.int32],
    positions_BL: npt.NDArray[np.int32] | None = None,
    segments_BL: npt.NDArray[np.int32] | None = None,
) -> npt.NDArray[np.float32]:
    """[B, L, V] from the forward pass that training uses; whole rows where nothing is said."""
    if positions_BL is None:
        positions_BL = np.broadcast_to(
            np.arange(tokens_BL.shape[1], dtype=np.int32), tokens_BL.shape
        )
    if segments_BL is None:
        segments_BL = np.ones_like(tokens_BL)
    hidden_BLD = _hidden(
        read.weights, {}, tokens_BL, positions_BL, segments_BL, architecture=read.architecture
    )
    logits_BLV = np.asarray(hidden_BLD) @ np.asarray(read.weights["embedding"]).T
    cap = read.architecture.final_soft_cap
    return cap * np.tanh(logits_BLV / cap) if cap else logits_BLV


_hidden = jax.jit(
    functools.partial(hidden_states, options=_OPTIONS), static_argnames="architecture"
)


def packed_difference(read: Read) -> float:
    """Of two examples in one row, against each in a row of its own."""
    first, second = random_tokens(1, 22, seed=1), random_tokens(1, 18, seed=2)
    lengths = (first.shape[1], second.shape[1])
    together = our_logits(
        read,
        np.concatenate([first, second], axis=1),
        np.concatenate([np.arange(n, dtype=np.int32) for n in lengths])[None],
        np.repeat(np.array([1, 2], np.int32), lengths)[None],
    )
    return max(
        _largest(together[:, : lengths[0]], _alone(read, first)),
        _largest(together[:, lengths[0] :], _alone(read, second)),
    )


def _alone(read: Read, tokens_BL: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
    """Its logits in a row filled up with padding, so that one program serves all lengths."""
    number = tokens_BL.shape[1]
    padding = ((0, 0), (0, _LENGTH - number))
    segments = np.pad(np.ones_like(tokens_BL), padding)
    return our_logits(read, np.pad(tokens_BL, padding), None, segments)[:, :number]


class Endless(ByteTokenizer):
    """No token ends an answer, so that lengths are what was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.end_of_turn_id = self.eos_id = -1


def equal_tokens(read: Read) -> tuple[int, int]:
    """Greedy tokens of the generator that whole forward passes give, too, and their number."""
    length = max(_PROMPTS) + _NEW_TOKENS
    engine = Engine(
        read.architecture,
        Endless(),
        read.weights,
        options=_OPTIONS,
        num_slots=len(_PROMPTS),
        max_length=length,
        head="whole",
    )
    prompts = [random_tokens(1, number, seed=number)[0] for number in _PROMPTS]
    requests = [Request(str(i), prompt, _NEW_TOKENS) for i, prompt in enumerate(prompts)]
    equal = 0
    for prompt, completion in zip(prompts, engine.generate(requests), strict=True):
        # What was answered is what the model would say of every prefix of it: one pass tells all.
        row = np.concatenate([prompt, np.array(completion.ids, np.int32)])[None]
        padded = np.pad(row, ((0, 0), (0, length - row.shape[1])))
        best = np.argmax(our_logits(read, padded)[0], axis=-1)
        expected = best[len(prompt) - 1 : row.shape[1] - 1]
        equal += int((expected == completion.ids).sum())
    return equal, len(prompts) * _NEW_TOKENS


def one_step(read: Read) -> dict[str, Any]:
    """One step of the compiled program: the gradient's norm, and what it moved."""
    config = TrainingConfig.create_default()
    config.model_name = "tiny"  # never loaded: the model is handed over
    config.batch_size = 2
    config.step.precision = "float32"
    config.optimizer.schedule = "constant"
    config.optimizer.warmup_fraction = 0.0
    config.data.sequence_length = _LENGTH
    model = LoadedModel(
        "small", read.architecture, read.weights, ByteTokenizer(), "random values", "0" * 64
    )
    before = jax.device_get(read.weights)
    program = build_program(TrainingConfig.from_config_dict(config), model, num_steps=10)
    tokens_BL = random_tokens(2, _LENGTH + 1, seed=3)
    positions_BL = np.broadcast_to(np.arange(_LENGTH, dtype=np.int32), (2, _LENGTH))
    ones_BL = np.ones((2, _LENGTH), np.int32)
    batch = PackedBatch(
        tokens_BL[:, :-1], tokens_BL[:, 1:], ones_BL.astype(np.float32), positions_BL, ones_BL
    )
    state = program.init_state()
    start = jax.device_get(state.trainable)
    state, metrics = program.train_step(state, program.put_batch(batch))
    return {
        "gradient_norm": float(metrics.grad_norm),
        "adapters_moved": _differ(start, jax.device_get(state.trainable)),
        "frozen_moved": _differ(before, jax.device_get(program.frozen)),
    }


def _differ(one: Any, other: Any) -> bool:
    return any(
        not np.array_equal(a, b)
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    )


def _largest(one: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> float:
    return float(np.abs(one - other).max())


# --- the table ----------------------------------------------------------------------------------


def table(found: Sequence[Parity]) -> str:
    """The figures as people read them."""
    head = (
        f"{'':<14}{'KerasHub':>10}{'transformers':>14}{'packed':>10}{'cached':>10}"
        f"{'gradient':>10}  {'a step moves':<14}"
    )
    lines = [head, "-" * len(head)]
    for each in found:
        torchs = "" if each.transformers is None else f"{each.transformers:.1e}"
        equal, number = each.cached
        frozen = "more than that" if each.frozen_moved else "only adapters"
        keras = f"{each.keras:.1e}{'*' if each.mended else ' '}"
        lines.append(
            f"{each.name:<14}{keras:>10}{torchs:>14}{each.packed:>10.1e}"
            f"{f'{equal}/{number}':>10}{each.gradient_norm:>10.2f}  "
            f"{frozen if each.adapters_moved else 'nothing':<14}".rstrip()
        )
    lines += [
        f"* {each.name}: KerasHub's blocks forget its query scale; left so, it differs by "
        f"{each.unmended:.1e}"
        for each in found
        if each.unmended is not None
    ]
    return "\n".join(lines)


def page(text: str, conditions: Mapping[str, Any]) -> str:
    """The Markdown page around what was printed."""
    versions = ", ".join(f"{name} {version}" for name, version in conditions["versions"].items())
    return (
        "# Every Gemma family through the one path\n\n"
        f"`python -m benchmarks.families`, {conditions['date']}, {conditions['machine']}, Python "
        f"{conditions['python']}, {versions}.\n\n"
        f"```\n{text}\n```\n\n"
        "Small random models, made and saved by KerasHub, read by our readers; float32. The first "
        "three columns are the largest difference of any logit: against KerasHub's own forward "
        "pass; against transformers' of the same values and, read back from what transformers "
        "saved, ours; and of packed rows against rows of their own. `cached` counts greedy tokens "
        "of the generator that whole forward passes give as well, over prompts on both sides of "
        "the window. `gradient` is the norm of one LoRA step's.\n"
    )


def _conditions() -> dict[str, Any]:
    names = ("jax", "keras", "keras-hub", "transformers", "torch")
    return {
        "date": time.strftime("%Y-%m-%d"),
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "versions": {
            name: importlib.metadata.version(name)
            for name in names
            if importlib.util.find_spec(name.replace("-", "_"))
        },
    }


def define_flags() -> None:
    """The command's flags; tests import this module beside others that have some of these names."""
    flags.DEFINE_string("json", "", "Also write the figures to this file.")
    flags.DEFINE_string("report", "", "Also write the page to this file (Markdown).")
    flags.DEFINE_list("case", [], "The cases by name; all where none is named.")


def main(argv: list[str]) -> None:
    """Measures every case, prints and writes the table, exits with 1 where something is wrong."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    known = [case.name for case in CASES]
    if unknown := [name for name in flags.FLAGS.case if name not in known]:
        raise app.UsageError(f"--case names {unknown[0]!r}; expected {', '.join(known)}")
    chosen = [case for case in CASES if case.name in (flags.FLAGS.case or known)]
    with_transformers = all(map(importlib.util.find_spec, ("torch", "transformers")))
    found = []
    for case in chosen:
        found.append(measure(case, with_transformers=with_transformers))
        print(found[-1], file=sys.stderr, flush=True)  # a busy machine takes minutes a case
    text, conditions = table(found), _conditions()
    print(text)
    if flags.FLAGS.json:
        content = {"conditions": conditions, "families": [each._asdict() for each in found]}
        Path(flags.FLAGS.json).write_text(json.dumps(content, indent=1) + "\n")
    if flags.FLAGS.report:
        Path(flags.FLAGS.report).write_text(page(text, conditions))
    if problems := [line for each in found for line in each.problems()]:
        raise SystemExit("\n".join(["", *problems]))


if __name__ == "__main__":
    define_flags()
    app.run(main)
