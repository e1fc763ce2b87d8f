"""The command: what it refuses before it starts, and a real process from start to SIGTERM."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from coderllm_jax.config.serving import ServingConfig
from coderllm_jax.errors import ConfigError
from coderllm_jax.serve import access_of

ROOT = Path(__file__).resolve().parents[1]
TOKEN = "canary-token-0123456789abcdef"


def config(**options: Any) -> ServingConfig:
    return dataclasses.replace(ServingConfig(), **options)


def test_loopback_needs_no_token_and_uses_one_that_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("SERVE_TOKEN", raising=False)
    assert access_of(config()).token is None
    monkeypatch.setenv("SERVE_TOKEN", TOKEN)
    access = access_of(config(hosts=("box.example.com",)))
    assert access.token == TOKEN
    assert {"localhost", "127.0.0.1", "box.example.com"} <= set(access.hosts)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.5", "box.example.com"])
def test_other_addresses_need_a_token(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.delenv("SERVE_TOKEN", raising=False)
    with pytest.raises(ConfigError, match="there is no token; set the variable SERVE_TOKEN"):
        access_of(config(host=host, hosts=("box",)))


def test_every_address_needs_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVE_TOKEN", TOKEN)
    with pytest.raises(ConfigError, match="hosts is empty"):
        access_of(config(host="0.0.0.0"))
    assert "0.0.0.0" not in access_of(config(host="0.0.0.0", hosts=("box",))).hosts
    assert "10.0.0.5" in access_of(config(host="10.0.0.5")).hosts


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"token_variable": "CODERLLM_TOKEN"}, "would be read as an option"),
        ({"token_variable": "SERVE"}, "ends in TOKEN"),
        ({"hosts": ["box:8000"]}, "hosts has 'box:8000'; expected names and addresses alone"),
        ({"arms": ["base", "base"]}, "each of them once"),
        ({"arms": ["bsae"]}, "did you mean 'base'"),
        ({"limits": {"default_tokens": 1024}}, "room for a prompt"),
        ({"limits": {"max_choices": 100}}, "there is room for 80 answers"),
    ],
)
def test_what_the_configuration_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ServingConfig.from_config_dict(options)


def command(tmp_path: Path, *more: str) -> list[str]:
    options = {
        "run": "runs/none",
        "base_model": "tiny",
        "chunks_path": tmp_path / "none",
        "port": 0,
        "log.path": tmp_path / "requests.jsonl",
        "generation.num_slots": 2,
        "generation.max_length": 64,
        "limits.default_tokens": 8,
        "prompt.style": "chat",
    }
    given = [f"--config.{name}={value}" for name, value in options.items()]
    return [sys.executable, "-m", "coderllm_jax.serve", *given, *more]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Any]:
    process = subprocess.Popen(
        command(tmp_path),
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "SERVE_TOKEN": TOKEN},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        url = re.fullmatch(r"serve: (http://127\.0\.0\.1:\d+/)\n", line).group(1)  # type: ignore[union-attr]
        yield process, url
    finally:
        process.kill()
        process.communicate()


def test_a_process_from_start_to_sigterm(server: Any, tmp_path: Path) -> None:
    process, url = server
    assert httpx.get(f"{url}health").status_code == 200
    deadline_s = time.monotonic() + 280
    while httpx.get(f"{url}ready").status_code != 200:
        assert time.monotonic() < deadline_s
        assert process.poll() is None
        time.sleep(0.1)
    with openai.OpenAI(base_url=f"{url}v1", api_key=TOKEN, max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError):
            client.with_options(api_key="other").models.list()
        stream = client.chat.completions.create(
            model="base",
            messages=[{"role": "user", "content": "What?"}],
            temperature=0,
            max_tokens=40,
            stream=True,
        )
        next(stream)
        process.send_signal(signal.SIGTERM)
        chunks = list(stream)  # what was begun is ended
    assert chunks[-1].choices[0].finish_reason in ("stop", "length")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert out == ""
    assert "ready: base" in err
    assert "Traceback" not in err
    rows = [json.loads(line) for line in (tmp_path / "requests.jsonl").read_text().splitlines()]
    assert [(row["arm"], row["status"], row["streamed"]) for row in rows] == [("base", 200, True)]
    assert TOKEN not in out + err + (tmp_path / "requests.jsonl").read_text()


def test_a_signal_while_it_loads_ends_it(server: Any) -> None:
    process, url = server
    assert httpx.get(f"{url}ready").json() == {"status": "loading"}
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "Traceback" not in err


BUGGY = """
import dataclasses
from coderllm_jax import serve
from coderllm_jax.config.serving import ServingConfig
from coderllm_jax.serving.arms import Plan
from coderllm_jax.serving.metrics import Metrics

def have_a_bug(self, accept):
    raise RuntimeError("a bug with sk-canary0123456789abcdef in it")

Metrics.page = have_a_bug
serve.load = lambda *parts: None
config = ServingConfig()
config = dataclasses.replace(config, port=0, log=dataclasses.replace(config.log, path=""))
serve.serve_plan(config, Plan(("base",), {}, {}), serve.access_of(config), print)
"""


def test_bugs_are_told_without_what_they_quote_and_junk_is_not_told() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", BUGGY],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if k != "SERVE_TOKEN"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    try:
        assert process.stdout is not None
        url = httpx.URL(process.stdout.readline().removeprefix("serve: ").strip())
        assert httpx.get(f"{url}metrics").status_code == 500
        with socket.create_connection((url.host, url.port)) as junk:
            junk.sendall(b"\x16\x03\x01 this is no HTTP\r\n\r\n")
            assert junk.recv(100).startswith(b"HTTP/1.1 400")
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert "Traceback" in err
    assert "a bug with *** in it" in err
    assert "canary" not in err
    assert "Invalid HTTP" not in err


@pytest.mark.parametrize(
    ("more", "line"),
    [
        (["--config.arms=rag"], "error: rag cannot be served: chunks_path is "),
        (["--config.host=0.0.0.0"], "error: host is '0.0.0.0', which others can reach"),
        (["--config.port={port}"], "error: 127.0.0.1:{port} is in use; stop what listens there"),
    ],
)
def test_a_mistake_ends_in_one_line(tmp_path: Path, more: list[str], line: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(
            command(tmp_path, *(each.format(port=port) for each in more)),
            cwd=ROOT,
            env={k: v for k, v in os.environ.items() if k != "SERVE_TOKEN"},
            capture_output=True,
            encoding="utf-8",
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(line.format(port=port))
    assert "Traceback" not in done.stderr


def test_a_model_that_does_not_load_ends_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "gemma3_text"}')
    done = subprocess.run(
        command(tmp_path, f"--config.base_model={tmp_path / 'model'}"),
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in done.stderr
