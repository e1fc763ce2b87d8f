"""One question: streamed on stdout, and nothing else there."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from coderllm_jax import ask, entry
from coderllm_jax.config.ask import AskConfig
from coderllm_jax.config.command_line import Shorthand
from coderllm_jax.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]


def resolve(*words: str) -> AskConfig:
    return entry.resolve_config(
        ["ask", *words], AskConfig, "", environ={}, shorthand=Shorthand(words="question")
    )


def test_the_words_of_the_command_line_are_the_question() -> None:
    config = resolve("How", "do", "I", "--config.max_new_tokens=3", "clip?")
    assert (config.question, config.max_new_tokens) == ("How do I clip?", 3)
    assert resolve("--config.question=What?").question == "What?"
    assert config.origins["question"] == "command line"


def test_without_a_question_there_is_one_line() -> None:
    with pytest.raises(ConfigError, match="there is no question"):
        ask.main(resolve())


def test_the_answer_alone_is_on_stdout(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "coderllm_jax.ask", "What is this?"]
    command += ["--config.model_path=tiny", "--config.max_new_tokens=6"]
    command += [f"--config.model.cache_dir={tmp_path}", "--config.prompt.style=chat"]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1].startswith("[tiny: ready after ")
    from coderllm_jax.config.evaluation import GenerationSection, PromptSection
    from coderllm_jax.generation.answering import answer_all
    from coderllm_jax.generation.opening import open_local
    from coderllm_jax.records import Query

    answerer = open_local(
        "tiny",
        generation=GenerationSection(num_slots=2),
        prompt=PromptSection(style="chat"),
        cache_dir=str(tmp_path),
    )
    (answer,) = answer_all(answerer, [Query.from_question("q", "What is this?", max_new_tokens=6)])
    assert done.stdout == f"{answer.text}\n"


def test_text_is_written_as_it_becomes_certain(monkeypatch, tmp_path: Path) -> None:
    from tests.fakes import Chunk, FakeAnswerer, FakeClock, Reply

    class Watched(io.StringIO):
        def flush(self) -> None:
            seen.append(self.getvalue())

    seen: list[str] = []
    monkeypatch.setattr(sys, "stdout", Watched())
    reply = Reply(chunks=(Chunk(0.1, "one "), Chunk(0.2, "two")))
    answer = ask.stream_answer(FakeAnswerer(FakeClock(), reply), AskConfig(question="q"))
    assert answer.text == "one two"
    assert seen[0] == "one "
