"""Whether an artifact is what it should be, by the library that people will load it with.

    artifact ──► a process: transformers, peft, llama.cpp or keras_hub ──► logits, ids
                                                                            │  held against
    the trained model, in float32, by our forward pass ─────────────────────┤  `reference`
    what was written, read back by our own reader (where it was rounded) ───┘  `rounded`

Two drifts are measured. From `rounded` to the library's logits everything is program, not weights:
a wrong transposition, rotation or window shows there, under a narrow limit. From `reference` to
`rounded` is what the number format costs, under a limit of its own; without rounding the two are
one. Ids of texts and conversations must be equal, id for id.

The limits, and what they were measured against, are in `LIMITS`.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from coderllm_jax.data.prompts import encode_prompt
from coderllm_jax.data.tokenizer import Tokenizer
from coderllm_jax.errors import ConfigError, ModelError
from coderllm_jax.export.drift import Drift, Limit, Logits, as_json, measure_drift
from coderllm_jax.export.probes import CHATS, TEXTS, Probes
from coderllm_jax.export.reload_protocol import Job, Reply, read_reply, write_job
from coderllm_jax.records import Turn


class Loader(NamedTuple):
    """A library that loads a format: its name, our module that calls it, what that imports."""

    title: str
    module: str
    imports: tuple[str, ...]
    distributions: str


LOADERS = {
    "huggingface": Loader(
        "transformers", "reload_transformers", ("transformers", "torch"), "transformers torch"
    ),
    "peft": Loader("peft", "reload_peft", ("peft", "transformers", "torch"), "peft torch"),
    "gguf": Loader("llama.cpp", "reload_llama_cpp", ("llama_cpp",), "llama-cpp-python"),
    "keras": Loader(
        "keras_hub",
        "reload_keras_hub",
        ("keras_hub", "tensorflow_text"),
        "keras-hub tensorflow-text",
    ),
}

_EXACT = Limit(difference=1e-3, kl=1e-6)


class Limits(NamedTuple):
    """What is allowed of a format: by its rounding, and between programs."""

    rounding: Limit
    program: Limit


# What the 270M trained on optax was measured at, on a CPU, largest KL divergence of 36 positions:
# rounding f16 5e-5, bf16 6e-4, q8_0 4e-3; llama.cpp's arithmetic f32 and f16 5e-6 to 8e-6 (its GELU
# is a table in float16; 1.3e-4 after 46 layers of a small random Gemma 2), bf16 4e-4, q8_0 0.03
# (activations become 8 bits). In the same model a wrong window costs 0.8, a wrong wavelength 0.14
# to 6, a wrong epsilon 0.9, a wrong query scale 0.12, an invented soft cap 0.01: each beyond these
# limits, but for the last one under q8_0.
LIMITS = {
    "float32": Limits(_EXACT, _EXACT),
    "bfloat16": Limits(Limit(math.inf, 0.01), _EXACT),
    "f32": Limits(_EXACT, Limit(math.inf, 1e-3)),
    "f16": Limits(Limit(math.inf, 1e-3), Limit(math.inf, 1e-3)),
    "bf16": Limits(Limit(math.inf, 0.01), Limit(math.inf, 5e-3)),
    "q8_0": Limits(Limit(math.inf, 0.03), Limit(math.inf, 0.05)),
}


@dataclasses.dataclass(frozen=True)
class Verification:
    """What was found of one artifact. `rounding` is None where nothing was rounded."""

    loader: str
    versions: Mapping[str, str]
    program: Drift
    rounding: Drift | None
    num_texts: int
    num_chats: int

    def to_dict(self) -> dict[str, Any]:
        """For export.json."""
        return {
            "loader": self.loader,
            "versions": dict(self.versions),
            "program": as_json(self.program),
            "rounding": None if self.rounding is None else as_json(self.rounding),
            "num_texts": self.num_texts,
            "num_chats": self.num_chats,
        }


def check_loaders(formats: Sequence[str]) -> None:
    """ConfigError where a format could not be verified here, before anything is written."""
    for wanted in formats:
        loader = LOADERS[wanted]
        if any(importlib.util.find_spec(name) is None for name in loader.imports):
            raise ConfigError(
                f"formats has {wanted}, which {loader.title} must verify, and that is not "
                f"installed here: pip install {loader.distributions}, drop {wanted} from formats, "
                "or set verify=False to have it unverified"
            )


def verify(
    artifact: Path,
    *,
    format: str,
    number_format: str,
    tokenizer: Tokenizer,
    probes: Probes,
    reference: Logits,
    rounded: Logits | None = None,
    base: Path | None = None,
    base_is_multimodal: bool = False,
    chat: bool,
) -> Verification:
    """Loads and compares; ModelError with one line where the artifact is not the model.

    reference, rounded: see the drawing. base: the folder under an adapter, which is loaded as the
    text model of a multimodal one where that is what the adapter is for. chat: whether the artifact
    has chat turns.
    """
    limits = LIMITS[number_format]
    rounding = None
    if rounded is not None:
        rounding = measure_drift(reference, rounded)
        if problem := limits.rounding.violation(rounding):
            raise _refused(artifact, number_format, problem)
    loader = LOADERS[format]
    job = _job(
        artifact,
        tokenizer=tokenizer,
        probes=probes,
        base=base,
        base_is_multimodal=base_is_multimodal,
    )
    reply = _ask(loader, job)
    program = measure_drift(reference if rounded is None else rounded, reply.logits)
    if problem := limits.program.violation(program):
        raise _refused(artifact, loader.title, problem)
    _check_ids(artifact, loader, job, reply, tokenizer=tokenizer, chat=chat)
    return Verification(
        loader=loader.title,
        versions=reply.versions,
        program=program,
        rounding=rounding,
        num_texts=len(reply.text_ids),
        num_chats=len(reply.chat_ids),
    )


def _job(
    artifact: Path,
    *,
    tokenizer: Tokenizer,
    probes: Probes,
    base: Path | None,
    base_is_multimodal: bool,
) -> Job:
    roles = {"user": "user", "model": "assistant", "system": "system"}
    return Job(
        artifact=str(artifact.resolve()),
        prompts=[prompt.tolist() for prompt in probes.prompts],
        positions=[positions.tolist() for positions in probes.positions],
        texts=TEXTS,
        chats=[
            [{"role": roles[role], "content": content} for role, content in chat] for chat in CHATS
        ],
        chat_texts=[tokenizer.decode(ids[1:], skip_control=False) for ids in _chat_ids(tokenizer)],
        base=str(base.resolve()) if base is not None else "",
        base_is_multimodal=base_is_multimodal,
    )


def _chat_ids(tokenizer: Tokenizer) -> list[list[int]]:
    return [
        encode_prompt(tokenizer, [Turn(*turn) for turn in chat]).tolist()  # type: ignore[arg-type]
        for chat in CHATS
    ]


def _ask(loader: Loader, job: Job) -> Reply:
    """Runs the library in a process of its own, offline."""
    package = Path(__file__).resolve().parents[2]
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "JAX_PLATFORMS": "cpu",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(package), os.environ.get("PYTHONPATH")])),
    }
    with tempfile.TemporaryDirectory(prefix="reload-") as name:
        folder = Path(name)
        write_job(folder, job)
        done = subprocess.run(
            [sys.executable, "-m", f"coderllm_jax.export.{loader.module}", str(folder)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            check=False,
        )
        if done.returncode:
            raise ModelError(
                f"{job.artifact}: {loader.title} does not load it ({_reason(done)}); it was deleted"
            )
        return read_reply(folder)


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    if done.returncode < 0:
        return f"ended by signal {-done.returncode}; too little memory?"
    lines = done.stderr.strip().splitlines()
    return lines[-1].strip()[:300] if lines else f"exit code {done.returncode}"


def _check_ids(
    artifact: Path, loader: Loader, job: Job, reply: Reply, *, tokenizer: Tokenizer, chat: bool
) -> None:
    """Texts and conversations become the same ids, with one <bos> in front."""
    texts = [[tokenizer.bos_id, *tokenizer.encode(text)] for text in job.texts]
    chats = _chat_ids(tokenizer) if chat or reply.chat_ids else []
    for what, asked, expected, found in (
        ("text", job.texts, texts, reply.text_ids),
        ("conversation", job.chat_texts, chats, reply.chat_ids),
    ):
        if len(found) != len(expected):
            raise _refused(artifact, loader.title, f"{len(found)} of {len(expected)} {what}s")
        for text, ours, theirs in zip(asked, expected, found, strict=False):
            if ours != list(theirs):
                raise _refused(
                    artifact, loader.title, f"{what} {text[:40]!r} is {theirs[:8]}, not {ours[:8]}"
                )


def _refused(artifact: Path, by: str, problem: str) -> ModelError:
    return ModelError(
        f"{artifact}: by {by}, {problem}; it is not the model that was trained, and was deleted"
    )
