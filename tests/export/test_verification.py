"""What another library is asked, and which of its answers are refused."""

from __future__ import annotations

import subprocess

import numpy as np
import pytest

from coderllm_jax.config.export import GGUF_TYPES
from coderllm_jax.data.prompts import encode_prompt
from coderllm_jax.errors import ModelError
from coderllm_jax.export import verification
from coderllm_jax.export.drift import Drift
from coderllm_jax.export.probes import CHATS, TEXTS, Probes
from coderllm_jax.export.reload_protocol import Reply
from coderllm_jax.export.verification import LIMITS, verify
from coderllm_jax.records import Turn
from tests.export.small_model import small_tokenizer

PROBES = Probes((np.array([2, 7, 8], np.int32),), (np.array([0, 2], np.int32),))
LOGITS = [np.array([[0.0, 1.0], [2.0, 0.0]], np.float32)]


@pytest.fixture
def tokenizer(small_vocabulary):
    return small_tokenizer(small_vocabulary)


def chat_ids(tokenizer):
    return [encode_prompt(tokenizer, [Turn(*turn) for turn in chat]).tolist() for chat in CHATS]


def text_ids(tokenizer):
    return [[tokenizer.bos_id, *tokenizer.encode(text)] for text in TEXTS]


def verified(tmp_path, tokenizer, monkeypatch, *, number_format="float32", **more):
    """A folder's verification where the library answers so; right, but for what is named."""
    asked = []
    given = {"logits": LOGITS, "text_ids": text_ids(tokenizer), "chat_ids": chat_ids(tokenizer)}
    options = {name: more.pop(name) for name in tuple(more) if name not in given}

    def ask(loader, job):
        asked.append(job)
        return Reply(versions={}, **(given | more))

    monkeypatch.setattr(verification, "_ask", ask)
    found = verify(
        tmp_path,
        format="huggingface",
        number_format=number_format,
        tokenizer=tokenizer,
        probes=PROBES,
        reference=LOGITS,
        **({"chat": True} | options),
    )
    return found, asked[0]


def test_the_job_says_all_that_is_asked(tmp_path, tokenizer, monkeypatch):
    found, job = verified(tmp_path, tokenizer, monkeypatch)
    assert (job.artifact, job.base, job.base_is_multimodal) == (str(tmp_path.resolve()), "", False)
    assert (job.prompts, job.positions) == ([[2, 7, 8]], [[0, 2]])
    assert tuple(job.texts) == TEXTS
    # By the roles that chat templates know.
    assert [turn["role"] for turn in job.chats[2]] == ["user", "assistant", "user"]
    assert job.chats[1][0] == {"role": "system", "content": "Answer in one line."}
    for text, ids in zip(job.chat_texts, chat_ids(tokenizer), strict=True):
        assert [tokenizer.bos_id, *tokenizer.encode(text, control=True)] == ids
    assert (found.num_texts, found.num_chats) == (len(TEXTS), len(CHATS))
    base = tmp_path / "base"
    _, job = verified(tmp_path, tokenizer, monkeypatch, base=base, base_is_multimodal=True)
    assert (job.base, job.base_is_multimodal) == (str(base.resolve()), True)


def test_program_and_rounding_are_measured_from_what_was_rounded(tmp_path, tokenizer, monkeypatch):
    rounded = [LOGITS[0] + np.float32([[0.0, 0.01], [0.0, 0.0]])]
    found, _ = verified(
        tmp_path,
        tokenizer,
        monkeypatch,
        number_format="bfloat16",
        rounded=rounded,
        logits=rounded,
    )
    assert found.program.difference == 0
    assert found.rounding.difference == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("logits", "rounded", "said"),
    [
        ([LOGITS[0] + np.float32([[0.0, 0.01]])], None, "by transformers, logits differ by 0.01"),
        (LOGITS, [-LOGITS[0]], "by bfloat16, KL divergence"),
        # Arithmetic in float32 has no part in what rounding may cost.
        ([LOGITS[0] + np.float32([[0.0, 0.01]])], LOGITS, "by transformers, logits differ by 0.01"),
    ],
)
def test_logits_beyond_their_limit_are_refused(
    tmp_path, tokenizer, monkeypatch, logits, rounded, said
):
    number_format = "float32" if rounded is None else "bfloat16"
    options = {"number_format": number_format, "rounded": rounded, "logits": logits}
    with pytest.raises(ModelError, match=said):
        verified(tmp_path, tokenizer, monkeypatch, **options)


def test_ids_are_compared_one_by_one_and_none_may_be_missing(tmp_path, tokenizer, monkeypatch):
    texts, chats = text_ids(tokenizer), chat_ids(tokenizer)
    no_bos = [texts[0][1:], *texts[1:]]
    other_end = [*chats[:2], [*chats[2][:-1], 9]]
    for changes, said in (
        ({"text_ids": no_bos}, "text 'def f"),
        ({"text_ids": texts[:-1]}, "4 of 5 texts"),
        ({"chat_ids": other_end}, "conversation '<start_of_turn>user"),
        ({"chat_ids": []}, "0 of 3 conversations"),
        # A template where none was written.
        ({"chat_ids": other_end, "chat": False}, "conversation '<start_of_turn>user"),
    ):
        with pytest.raises(ModelError, match=said):
            verified(tmp_path, tokenizer, monkeypatch, **changes)
    found, _ = verified(tmp_path, tokenizer, monkeypatch, chat_ids=[], chat=False)
    assert found.num_chats == 0


def test_a_library_is_asked_offline_and_its_signal_is_told(tmp_path, tokenizer, monkeypatch):
    started = []

    def run(command, *, env, **more):
        started.append((command, env))
        return subprocess.CompletedProcess(command, -9, stderr="a warning\n")

    _, job = verified(tmp_path, tokenizer, monkeypatch)
    monkeypatch.undo()
    monkeypatch.setattr(verification.subprocess, "run", run)
    with pytest.raises(ModelError, match=r"llama\.cpp does not load it \(ended by signal 9"):
        verification._ask(verification.LOADERS["gguf"], job)
    [(command, environment)] = started
    assert command[1:3] == ["-m", "coderllm_jax.export.reload_llama_cpp"]
    assert environment["HF_HUB_OFFLINE"] == "1"
    assert environment["JAX_PLATFORMS"] == "cpu"


def drift(*, difference=0.0, kl=0.0):
    return Drift(difference, kl, kl, 0, 0.0, 36)


def test_limits_let_honest_programs_pass_and_none_that_computes_another_model():
    """Divergences that were measured of the 270M, see `LIMITS`."""
    assert LIMITS.keys() == {"float32", "bfloat16", *GGUF_TYPES}
    rounding = {"f16": 5e-5, "bf16": 6e-4, "bfloat16": 6e-4, "q8_0": 4e-3}
    program = {"f32": 8e-6, "f16": 8e-6, "bf16": 4e-4, "q8_0": 0.03}
    for number_format, limits in LIMITS.items():
        # What llama.cpp rounds on its way is no part of a difference between logits.
        apart = drift(difference=0.5, kl=program.get(number_format, 0.0))
        assert bool(limits.program.violation(apart)) == (number_format not in program)
        assert not limits.rounding.violation(drift(kl=rounding.get(number_format, 0.0)))
        # A wrong scale of queries; a soft cap that nobody has, which Q8_0's own noise hides.
        assert limits.program.violation(drift(kl=0.12))
        assert bool(limits.program.violation(drift(kl=0.01))) == (number_format != "q8_0")
        assert limits.rounding.violation(drift(kl=0.12))
