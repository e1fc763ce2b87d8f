"""Every bad input ends in one line that names what was found and what to do, and leaves nothing.

The table is in tests/bad_inputs.py. Each case is run through the command's own entry: exit code 1,
its line and nothing else on stderr, no traceback, and a file tree that is byte for byte as before.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import safetensors.numpy

from coderllm_jax import entry, train
from coderllm_jax.config.training import TrainingConfig
from coderllm_jax.data.tokenizer import build_sentencepiece
from coderllm_jax.model.architecture import TINY
from coderllm_jax.model.tiny import random_leaves
from tests.bad_inputs import DATA_CASES, MODEL_CASES, RUN_CASES, good_rows, rows
from tests.model.test_gguf import write_gguf
from tests.model.test_huggingface import CONFIG, huggingface_tensors

CHECKOUT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def good_model(tmp_path_factory, small_vocabulary) -> Path:
    folder = tmp_path_factory.mktemp("models") / "model"
    folder.mkdir()
    safetensors.numpy.save_file(
        huggingface_tensors(dict(random_leaves(TINY, seed=0))), folder / "model.safetensors"
    )
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "tokenizer.model").write_bytes(build_sentencepiece(*small_vocabulary))
    (folder / "wild.gguf").write_bytes(b"GGUF\3\0\0\0" + b"\xff" * 64)
    return folder


@pytest.fixture
def here(tmp_path, good_model, monkeypatch) -> Path:
    """Where a case lies and the command runs; a good model is there to be spoiled."""
    folder = tmp_path / "here"
    folder.mkdir()
    shutil.copytree(good_model, folder / "model")
    monkeypatch.chdir(folder)
    return folder


def tree(folder: Path) -> dict[str, str]:
    """Every path below the folder, and the sha256 of what is a file."""
    found = {}
    for path in sorted(folder.rglob("*")):
        regular = path.is_file() and path.stat().st_size < 1 << 28
        digest = hashlib.sha256(path.read_bytes()).hexdigest() if regular else ""
        found[str(path.relative_to(folder))] = digest
    return found


def arguments(here: Path, options: list[str]) -> list[str]:
    """A run of `tiny` in `here/run`; its cache, which may be written, lies beside `here`."""
    return [
        "train",
        f"--config={CHECKOUT / 'configs' / 'tiny.py'}",
        f"--config.workdir={here / 'run'}",
        f"--config.model.cache_dir={here.parent / 'cache'}",
        "--config.logging.progress=False",
        *options,
    ]


def run(here: Path, options: list[str]) -> int:
    with pytest.raises(SystemExit) as end:
        entry.run(train.main, TrainingConfig, "", argv=arguments(here, options))
    return end.value.code


def as_shown(text: str, here: Path) -> str:
    return text.replace(str(here), "~")


@pytest.mark.parametrize(
    "case", [*DATA_CASES, *MODEL_CASES, *RUN_CASES], ids=lambda case: case.name
)
def test_one_line_and_nothing_written(case, here, capfd):
    options = case.prepare(here)
    before = tree(here)
    code = run(here, options)
    printed = capfd.readouterr()
    line = as_shown(printed.err, here)
    assert tree(here) == before
    assert code == 1
    assert re.fullmatch(re.escape(f"error: {case.line}\n").replace("…", ".*"), line), line
    assert printed.out == ""


# Takes from root what lets it read and write everything (Linux capabilities), then goes on.
OBEYING = """
import ctypes, os, sys
for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP
os.execv(sys.executable, [sys.executable, "-c", sys.argv[1]])
"""
IN_ONE_PROCESS = """
import contextlib, io, json, sys
from coderllm_jax import entry, train
from coderllm_jax.config.training import TrainingConfig
for argv in json.load(sys.stdin):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            entry.run(train.main, TrainingConfig, "", argv=argv)
        except SystemExit as end:
            code = end.code
    print(json.dumps([code, out.getvalue(), err.getvalue()]))
"""


def run_elsewhere(
    here: Path, all_options: list[list[str]], *, obeying: bool = False, **environment: str
) -> list[tuple[int, str, str]]:
    """Exit code, stdout and stderr of each run, all in one process of its own."""
    code = [OBEYING, IN_ONE_PROCESS] if obeying else [IN_ONE_PROCESS]
    done = subprocess.run(
        [sys.executable, "-c", *code],
        check=False,
        input=json.dumps([arguments(here, options) for options in all_options]),
        capture_output=True,
        text=True,
        timeout=120,
        cwd=here,
        env=os.environ | {"PYTHONPATH": str(CHECKOUT), "HOME": str(here.parent)} | environment,
    )
    assert done.returncode == 0, done.stderr
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


def assert_lines(here: Path, results: list[tuple[int, str, str]], lines: list[str]) -> None:
    assert len(results) == len(lines)
    for (code, out, err), expected in zip(results, lines, strict=True):
        line = as_shown(err, here)
        assert re.fullmatch(re.escape(f"error: {expected}\n").replace("…", ".*"), line), line
        assert (code, out) == (1, "")


@pytest.mark.skipif(sys.platform != "linux", reason="capabilities are Linux's")
def test_what_may_not_be_read_or_written(here):
    good = rows(*good_rows())(here)
    (here / "secret.jsonl").write_text("{}")
    (here / "secret.jsonl").chmod(0)
    for name in ("closed", "read_only"):
        (here / name).mkdir()
    (here / "read_only" / "run").mkdir()
    (here / "closed" / "rows.jsonl").write_text("{}")
    (here / "closed").chmod(0)
    (here / "read_only" / "run").chmod(0o555)
    (here / "read_only").chmod(0o555)
    for name in ("config.json", "model.safetensors", "tokenizer.model"):
        shutil.copytree(here / "model", here / name)
        (here / name / name).chmod(0)
    model_names = [
        [*good, f"--config.model_name={here / name}"]
        for name in ("config.json", "model.safetensors", "tokenizer.model")
    ]
    before = tree(here) if os.geteuid() == 0 else {}
    results = run_elsewhere(
        here,
        [
            [f"--config.data.path={here / 'secret.jsonl'}"],
            [f"--config.data.path={here / 'closed' / 'rows.jsonl'}"],
            [f"--config.data.path={here / 'closed'}"],
            *model_names,
            [*good, f"--config.workdir={here / 'read_only' / 'other'}"],
            [*good, f"--config.workdir={here / 'read_only' / 'run'}"],
            [*good, f"--config.model.cache_dir={here / 'read_only' / 'cache'}"],
        ],
        obeying=True,
        JAX_COMPILATION_CACHE_DIR="",  # else compiled programs would not go to model.cache_dir
    )
    for folder in (here / "closed", here / "read_only", here / "read_only" / "run"):
        folder.chmod(0o755)  # so that pytest can remove them
    assert not before or tree(here) == before
    assert_lines(
        here,
        results,
        [
            "~/secret.jsonl: cannot be read (Permission denied); check its permissions",
            (
                "~/closed/rows.jsonl: cannot be read (Permission denied); check data.path and "
                "its permissions"
            ),
            ("~/closed: cannot be read (Permission denied); check data.path and its permissions"),
            (
                "~/config.json/config.json: cannot be read (Permission denied); check its "
                "permissions"
            ),
            (
                "~/model.safetensors/model.safetensors: cannot be read (Permission denied); "
                "check its permissions"
            ),
            (
                "~/tokenizer.model/tokenizer.model: cannot be read (Permission denied); check "
                "its permissions"
            ),
            "workdir ~/read_only/other cannot be made in ~/read_only; name another one",
            (
                "workdir ~/read_only/run may not be written by this user; change its permissions "
                "or name another workdir"
            ),
            (
                "~/read_only/cache/compiled: cannot be made (Permission denied); name another "
                "model.cache_dir"
            ),
        ],
    )


class Hub(BaseHTTPRequestHandler):
    """A hub that refuses, and says back what it was sent, as a careless server may."""

    def do_GET(self) -> None:
        name = self.path.split("/")[4] if self.path.startswith("/api/models/") else ""
        code, reason = {
            "gated": (403, "GatedRepo"),
            "private": (401, "RepoNotFound"),
            "absent": (404, "RepoNotFound"),
        }.get(name, (500, ""))
        body = json.dumps({"error": f"refused {self.headers.get('Authorization')}"}).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Error-Code", reason)
        self.send_header("X-Error-Message", f"refused {self.headers.get('Authorization')}")
        self.end_headers()
        self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *arguments: object) -> None:
        """Nothing: pytest's output is not its log."""


@pytest.fixture
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_gated_private_or_absent_repository(here, hub):
    good = rows(*good_rows())(here)
    before = tree(here)
    results = run_elsewhere(
        here,
        [
            [*good, f"--config.model_name=hf://org/{name}"]
            for name in ("gated", "private", "absent", "../../etc")
        ],
        HF_ENDPOINT=hub,
        HF_TOKEN="hf_canary_of_a_token",
        HF_HOME=str(here.parent / "hub"),
    )
    assert tree(here) == before
    assert "canary" not in json.dumps(results)
    assert_lines(
        here,
        results,
        [
            (
                "model 'hf://org/gated' was not fetched (GatedRepoError: …); accept its "
                "licence on huggingface.co and set HF_TOKEN"
            ),
            (
                "model 'hf://org/private' was not fetched (RepositoryNotFoundError: …); check "
                "the name; a private or gated one needs HF_TOKEN"
            ),
            (
                "model 'hf://org/absent' was not fetched (RepositoryNotFoundError: …); check "
                "the name; a private or gated one needs HF_TOKEN"
            ),
            (
                "model 'hf://org/../../etc' was not fetched (HFValidationError: …); write "
                "hf://organization/name"
            ),
        ],
    )


def test_a_network_that_is_down(here):
    good = rows(*good_rows())(here)
    results = run_elsewhere(
        here,
        [[*good, "--config.model_name=hf://org/name"]],
        HF_ENDPOINT="http://127.0.0.1:9",
        HF_HOME=str(here.parent / "hub"),
    )
    assert_lines(
        here,
        results,
        [
            (
                "model 'hf://org/name' was not fetched (LocalEntryNotFoundError: …); check the "
                "network, or download the folder elsewhere and name its path"
            ),
        ],
    )


def test_no_room_for_the_converted_model(here, small_vocabulary, monkeypatch, capfd):
    write_gguf(here / "small.gguf", small_vocabulary)
    options = [*rows(*good_rows())(here), f"--config.model_name=gguf:{here / 'small.gguf'}"]
    before = tree(here)
    usage = shutil.disk_usage(here)._replace(free=1000)
    monkeypatch.setattr("coderllm_jax.model.cache.shutil.disk_usage", lambda path: usage)
    code = run(here, options)
    line = capfd.readouterr().err
    assert_lines(
        here,
        [(code, "", line.replace(str(here.parent), "~"))],
        [
            (
                "~/cache/weights: 0.0 GB free, 0.0 GB needed for the converted weights; free "
                "some space or name another model.cache_dir"
            ),
        ],
    )
    assert tree(here) == before
    assert not list((here.parent / "cache" / "weights").iterdir())
