"""Credentials appear in nothing that a command prints or writes.

Canaries stand in the environment and in the hubs' own files of a home that is made for the test.
Then real commands run, among them failing ones against servers that say back what they were sent,
and every byte they left is searched for the canaries: as they are, URL-encoded, and in base64.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
import urllib.parse
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import pytest

from coderllm_jax.redaction import BLOT, known_secrets, redact

CHECKOUT = Path(__file__).parents[1]
# With characters that URLs and base64 spell differently.
CANARIES = {
    "HF_TOKEN": "hf_Canary/of+the=Hub~1",
    "HUGGING_FACE_HUB_TOKEN": "hf_Canary?of&the older=2",
    "KAGGLE_KEY": "c4n4ry/of+kaggle==3",
    "WANDB_API_KEY": "local-c4n4ry%of?wandb~4",
}
FILE_CANARIES = {
    ".cache/huggingface/token": "hf_Canary/in+a=file~5",
    ".kaggle/kaggle.json": "c4n4ry/in+kaggle.json==6",
    ".netrc": "c4n4ry/in+netrc==7",
}
USER = "somebody"


def spellings(secret: str) -> dict[str, bytes]:
    """What a secret looks like in a text: plain, in a URL, and at each offset of a base64 text."""
    forms = {"plain": secret.encode(), "url": urllib.parse.quote(secret, safe="").encode()}
    for offset in range(3):
        # Groups of three bytes that hold nothing but the secret, at least nine of its bytes.
        body = secret.encode()[-offset % 3 :]
        body = body[: len(body) // 3 * 3]
        forms[f"base64, {offset}"] = base64.b64encode(body)
        forms[f"base64 for URLs, {offset}"] = base64.urlsafe_b64encode(body)
    return forms


def leaks(content: bytes) -> list[str]:
    """Which canaries the bytes hold, and in what spelling."""
    return [
        f"{name} ({form})"
        for name, secret in (CANARIES | FILE_CANARIES).items()
        for form, spelling in spellings(secret).items()
        if spelling in content
    ]


def leaks_below(folder: Path) -> dict[str, list[str]]:
    """Every file below the folder that holds a canary, in its name or its bytes."""
    found = {}
    for path in folder.rglob("*"):
        content = os.fsencode(path) + (path.read_bytes() if path.is_file() else b"")
        if names := leaks(content):
            found[str(path)] = names
    return found


class Echo(BaseHTTPRequestHandler):
    """Refuses everything and says what it was sent, in body, reason and headers."""

    def do_GET(self) -> None:
        sent = f"{self.headers.get('Authorization')} for {self.path}"
        body = json.dumps({"error": sent, "message": sent}).encode()
        self.send_response(403, sent)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Error-Message", sent)
        self.end_headers()
        self.wfile.write(body)

    do_HEAD = do_POST = do_GET

    def log_message(self, *arguments: object) -> None:
        """Nothing: pytest's output is not its log."""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


class Place(NamedTuple):
    """Where commands run; `home` holds the planted files and is not searched."""

    work: Path
    home: Path
    environment: dict[str, str]

    def run(self, *options: str, files_only: bool = False) -> subprocess.CompletedProcess[bytes]:
        """`train` with canaries in environment and files, or in files alone."""
        environment = {
            name: value
            for name, value in (os.environ | self.environment).items()
            if not (files_only and name in CANARIES)
        }
        return subprocess.run(
            [
                sys.executable,
                "-m",
                "coderllm_jax.train",
                f"--config={CHECKOUT / 'configs' / 'tiny.py'}",
                f"--config.model.cache_dir={self.work / 'cache'}",
                f"--config.data.path={self.work / 'rows.jsonl'}",
                *options,
            ],
            check=False,
            capture_output=True,
            cwd=self.work,
            env=environment,
            timeout=200,
        )


@pytest.fixture
def place(tmp_path, server) -> Place:
    home, work, modules = tmp_path / "home", tmp_path / "work", tmp_path / "modules"
    for name, secret in FILE_CANARIES.items():
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            {
                "token": secret,
                "kaggle.json": json.dumps({"username": USER, "key": secret}),
                ".netrc": f"machine api.wandb.ai login user password {secret}\n",
            }[path.name]
        )
        path.chmod(0o600)
    work.mkdir()
    with (work / "rows.jsonl").open("w") as file:
        for i in range(20):
            row = {"question": f"What is f{i}?", "answer": f"It adds {i % 5}."}
            file.write(json.dumps(row) + "\n")
    modules.mkdir()
    # As the real one may: its message holds what it was given.
    (modules / "wandb.py").write_text(
        "import os\n"
        "def init(**given):\n"
        "    raise RuntimeError('401 for api:' + os.environ['WANDB_API_KEY'])\n"
    )
    environment = {
        **CANARIES,
        "HOME": str(home),
        "KAGGLE_USERNAME": USER,
        "HF_ENDPOINT": server,
        "KAGGLE_API_ENDPOINT": server,
        "PYTHONPATH": f"{CHECKOUT}:{modules}",
        "JAX_PLATFORMS": "cpu",
    }
    return Place(work, home, environment)


@pytest.mark.long
def test_a_run_whose_writer_fails_leaves_none(place):
    place.environment["WANDB_PROJECT"] = "ours"
    done = place.run("--config.workdir=run", "--config.steps=3", "--config.logging.clu=True")
    assert done.returncode == 0, done.stderr
    assert b"W&B failed" in done.stderr
    assert b"401 for api:***" in done.stderr
    written = {path.name for path in (place.work / "run").rglob("*")}
    assert written >= {"manifest.json", "config.json", "metrics.jsonl", "index.html", "checkpoints"}
    assert any(name.startswith("events.out.tfevents") for name in written)
    assert leaks(done.stdout + done.stderr) == []
    assert leaks_below(place.work) == {}


@pytest.mark.parametrize("files_only", [False, True], ids=["environment", "files"])
def test_a_hub_that_says_back_what_it_was_sent(place, files_only):
    done = place.run("--config.model_name=hf://org/name", files_only=files_only)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(b"error: model 'hf://org/name' was not fetched")
    assert leaks(done.stdout + done.stderr) == []
    assert leaks_below(place.work) == {}


@pytest.mark.parametrize("files_only", [False, True], ids=["environment", "files"])
def test_kaggle_that_says_back_what_it_was_sent(place, files_only):
    done = place.run("--config.model_name=gemma3_1b", files_only=files_only)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith(b"error: KerasHub preset gemma3_1b was not fetched"), done.stderr
    assert leaks(done.stdout + done.stderr) == []
    assert leaks_below(place.work) == {}


def test_a_card_and_options_that_hold_one(place):
    card = place.work / "card.py"
    card.write_text(
        "import os\ndef get_config():\n    raise KeyError(os.environ['HF_TOKEN'] + ' is nobody')\n"
    )
    token = CANARIES["HF_TOKEN"]
    commands = [
        [f"--config={card}"],
        [f"--config.hf_token={token}"],
        [f"--config.steps={token}"],
        [f"--config.data.path=https://hub/data.jsonl?token={urllib.parse.quote(token, safe='')}"],
    ]
    for options in commands:
        done = place.run(*options)
        assert done.returncode == 1, options
        assert done.stderr.splitlines()[-1].startswith(b"error: "), done.stderr
        assert leaks(done.stdout + done.stderr) == [], options
    assert leaks_below(place.work) == {}


# ------------------------------------------------------------------- the search and the blotting


@pytest.mark.parametrize("name", CANARIES | FILE_CANARIES)
def test_the_search_finds_every_spelling(name, tmp_path):
    secret = (CANARIES | FILE_CANARIES)[name]
    for before in ("", "a", "ab", f"{USER}:"):
        inside = base64.b64encode(f"{before}{secret}:after".encode())
        assert leaks(b"\0\1" + inside + b"\n")
    assert leaks(f"x{secret}y".encode())
    assert leaks(f"https://hub?token={urllib.parse.quote(secret, safe='')}&x".encode())
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "events").write_bytes(b"\x0a" + secret.encode() + b"\x12")
    assert list(leaks_below(tmp_path)) == [str(tmp_path / "deep" / "events")]
    assert leaks(b"nothing of the kind: hf_, KAGGLE_KEY, Canary") == []


@pytest.fixture
def known(place, monkeypatch) -> None:
    for name, value in place.environment.items():
        if name in ("HOME", *CANARIES):
            monkeypatch.setenv(name, value)
    for name in ("HF_HOME", "HF_TOKEN_PATH", "XDG_CACHE_HOME", "NETRC", "KAGGLE_CONFIG_DIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("known")
@pytest.mark.parametrize("name", CANARIES | FILE_CANARIES)
def test_every_spelling_is_blotted_out(name):
    secret = (CANARIES | FILE_CANARIES)[name]
    for before in ("", "a", "ab", f"{USER}:"):
        encoded = base64.b64encode(f"{before}{secret}:after".encode()).decode()
        for_urls = base64.urlsafe_b64encode(f"{before}{secret}:after".encode()).decode()
        quoted = urllib.parse.quote(secret, safe="")
        text = redact(f"403 for {encoded} at /{for_urls}?token={quoted}&x ({secret})")
        assert leaks(text.encode()) == []
        assert text.startswith("403 for ")
        assert text.endswith(f"&x ({BLOT})")


@pytest.mark.usefixtures("known")
def test_other_words_stay(monkeypatch, tmp_path):
    monkeypatch.setenv("USE_TOKEN", "true")  # a switch
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path))  # a path
    monkeypatch.setenv("EMPTY_KEY", "")
    text = f"true: {tmp_path}: {USER} sets HF_TOKEN and KAGGLE_KEY"
    assert redact(text) == text


def test_damaged_files_of_the_hubs_are_no_obstacle(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".kaggle").mkdir()
    (tmp_path / ".kaggle" / "kaggle.json").write_bytes(b"{\xff")
    (tmp_path / ".cache" / "huggingface" / "token").mkdir(parents=True)
    (tmp_path / ".cache" / "huggingface" / "stored_tokens").write_bytes(b"\xff[\n= =")
    assert isinstance(known_secrets(), set)
