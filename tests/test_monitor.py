"""`python -m coderllm_jax.monitor`, from its first line to its last."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from coderllm_jax.config.monitoring import MonitoringConfig
from coderllm_jax.errors import ConfigError
from coderllm_jax.monitor import page_access
from tests.web.served import wait_until

TOKEN = "canary-token-0123456789"
HEAVY = {"jax", "keras", "tensorflow", "torch", "pandas", "scipy", "sklearn", "dygraphs"}


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A folder with one run of three rows."""
    folder = tmp_path / "runs"
    write_rows(folder / "first", range(1, 4))
    return folder


def write_rows(run: Path, steps: Any) -> None:
    (run / "metrics").mkdir(parents=True, exist_ok=True)
    with (run / "metrics" / "metrics.jsonl").open("a") as file:
        for step in steps:
            row = {"step": step, "time": 1.7e9 + step, "loss": 5 - step / 10, "tokens_per_s": 100.0}
            file.write(json.dumps(row) + "\n")


class Monitor:
    """The command as a process; `line` is its first."""

    def __init__(self, runs: Path, tmp_path: Path, *options: str, **environ: str) -> None:
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "coderllm_jax.monitor"),
                *(f"--config.runs={runs}", f"--config.state_dir={tmp_path / 'state'}"),
                *(f"--config.traffic.logs={tmp_path / 'requests.jsonl'}", "--config.poll_s=0.05"),
                *("--config.page.port=0", *options),
            ],
            env=os.environ | environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def url(self) -> str:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if found := re.fullmatch(r"monitor: (http://\S+)", line.strip()):
                return found[1]
        raise AssertionError(self.process.communicate()[1])

    def end(self) -> tuple[int, str]:
        """Its exit code, and everything it said that was not read yet."""
        self.process.send_signal(signal.SIGTERM)
        said, errors = self.process.communicate(timeout=60)
        return self.process.returncode, said + errors


@pytest.fixture
def start(runs: Path, tmp_path: Path) -> Iterator[Any]:
    started: list[Monitor] = []

    def begin(*options: str, **environ: str) -> Monitor:
        started.append(Monitor(runs, tmp_path, *options, **environ))
        return started[-1]

    yield begin
    for monitor in started:
        if monitor.process.poll() is None:
            monitor.process.kill()
        monitor.process.communicate()


def everything_in(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.stat().st_size)
        for path in folder.rglob("*")
    }


def test_it_follows_a_run_writes_nothing_to_it_and_may_be_restarted(runs: Path, start: Any) -> None:
    monitor = start()
    url = monitor.url()

    def steps() -> list[int]:
        found = httpx.get(url + "api/overview").json()["runs"]
        if not found:
            return []
        query = {"id": found[0]["id"], "name": "loss"}
        return httpx.get(url + "api/series", params=query).json()["loss"]["step"]

    wait_until(lambda: steps() == [1, 2, 3])
    write_rows(runs / "first", range(4, 6))
    wait_until(lambda: steps() == [1, 2, 3, 4, 5])
    assert 'coderllm_monitor_run_loss{name="first"' in httpx.get(url + "metrics").text
    before = everything_in(runs)
    assert monitor.end() == (0, "")
    assert everything_in(runs) == before

    write_rows(runs / "first", [6])
    write_rows(runs / "second", [1])
    again = start()
    url = again.url()
    wait_until(lambda: len(httpx.get(url + "api/overview").json()["runs"]) == 2)
    assert again.end()[0] == 0


def test_a_token_opens_it_and_is_never_said(runs: Path, start: Any) -> None:
    monitor = start(MONITOR_TOKEN=TOKEN)
    url = monitor.url()
    assert httpx.get(url).status_code == 401
    client = httpx.Client(follow_redirects=True)
    with client:
        opened = client.get(url, params={"token": TOKEN})
        assert (opened.status_code, str(opened.url)) == (200, url)
        assert client.get(url + "api/overview").status_code == 200
        texts = [client.get(url + path).text for path in ("", "api/overview", "metrics", "nothing")]
    code, said = monitor.end()
    assert code == 0
    assert not any("canary" in text for text in [*texts, said])


def test_a_taken_port_ends_in_one_line(start: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monitor = start(f"--config.page.port={port}")
        said, errors = monitor.process.communicate(timeout=60)
    assert monitor.process.returncode == 1
    assert said == ""
    assert errors == (
        f"error: 127.0.0.1:{port} is in use; stop what listens there, or set port "
        "(0: any that is free)\n"
    )


def access(**changes: Any) -> Any:
    return page_access(dataclasses.replace(MonitoringConfig().page, **changes))


def test_only_this_machine_may_look_without_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MONITOR_TOKEN", raising=False)
    assert access().token is None
    for host in ("0.0.0.0", "::", "192.168.1.5", "box.example"):
        with pytest.raises(ConfigError, match=r"^page.host is .*the variable MONITOR_TOKEN to"):
            access(host=host)
    monkeypatch.setenv("MONITOR_TOKEN", TOKEN)
    assert access(host="0.0.0.0", hosts=("box.example",)).token == TOKEN
    assert "box.example" in access(hosts=("box.example",)).hosts
    assert "0.0.0.0" not in access(host="0.0.0.0", hosts=("box.example",)).hosts
    with pytest.raises(ConfigError, match=r"page.hosts is empty; set page.hosts to the names"):
        access(host="0.0.0.0")
    monkeypatch.setenv("MONITOR_TOKEN", "short")
    with pytest.raises(ConfigError, match="the token has 5 characters") as caught:
        access()
    assert "short" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hosts": ["box:8765"]}, r"page.hosts has 'box:8765'.*leave out http:// and the port"),
        ({"hosts": ["http://box"]}, r"page.hosts has 'http://box'"),
        ({"token_variable": "CODERLLM_TOKEN"}, r"page.token_variable .*be read as an option"),
        ({"token_variable": "PAGE"}, r"ends in TOKEN.*such as MONITOR_TOKEN"),
    ],
)
def test_what_the_page_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MonitoringConfig.from_config_dict({"page": options})
    MonitoringConfig.from_config_dict({"page": {"hosts": ["box_1.example", "::1", "[fe80::1]"]}})


def test_it_loads_nothing_that_computes(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from coderllm_jax.config.monitoring import MonitoringConfig\n"
        "import coderllm_jax.monitor, coderllm_jax.web.server\n"
        "from coderllm_jax.monitoring.page.application import Page\n"
        "from coderllm_jax.monitoring.watching import Watch\n"
        f"config = MonitoringConfig(runs=('x',), state_dir={str(tmp_path / 'state')!r})\n"
        "page = Page(Watch(config), poll_s=1)\n"
        f"print(sorted({HEAVY!r} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")
