"""The page's addresses over a real port: what they answer, what they refuse, how streams end."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import coderllm_jax.monitoring.page as page_package
from coderllm_jax.errors import UserError
from coderllm_jax.monitoring.page import application, assets
from coderllm_jax.monitoring.page.application import HEALTH, Page
from coderllm_jax.web.guard import Access, guarded
from tests.monitoring_page.shown import PLANTED, FakeWatch
from tests.web.served import served

STATIC = Path(page_package.__file__).parent / "static"
TOKEN = "canary-token-0123456789"
ACCESS = Access(("127.0.0.1",), TOKEN, 100, 1.0, (HEALTH,))
EVERY_ADDRESS = (
    "",
    "static/main.js",
    "events",
    "api/overview",
    "api/series?id=run-0&name=loss",
    "metrics",
)


@pytest.fixture
def watch() -> FakeWatch:
    return FakeWatch(words=PLANTED)


@pytest.fixture
def url(watch: FakeWatch) -> Iterator[str]:
    page = Page(watch, poll_s=0.02)  # type: ignore[arg-type]
    with served(page.app, on_drain=page.drain) as server:
        yield server.url


def events(url: str, *, num: int, last_id: str = "", **query: Any) -> list[dict[str, str]]:
    """The first events of a stream, as browsers take them apart."""
    wanted = {"want": json.dumps({"run-0": ["loss"]}), **query}
    headers = {"last-event-id": last_id} if last_id else {}
    found: list[dict[str, str]] = []
    address = f"{url}events?{urllib.parse.urlencode(wanted)}"
    with httpx.stream("GET", address, headers=headers) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-store"
        event: dict[str, str] = {}
        for line in answer.iter_lines():
            if line:
                name, _, value = line.partition(": ")
                event[name] = value
            else:
                if "data" in event:
                    found.append(event)
                event = {}
            if len(found) >= num:
                return found
    return found


def test_the_page_and_its_files(url: str) -> None:
    page = httpx.get(url)
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    for name in re.findall(r'(?:src|href)="(static/[^"]+)"', page.text):
        file = httpx.get(url + name)
        assert file.status_code == 200
        kept = httpx.get(url + name, headers={"if-none-match": file.headers["etag"]})
        assert (kept.status_code, kept.content) == (304, b"")
    assert (
        httpx.get(url + "static/dygraph.js").headers["content-type"].startswith("text/javascript")
    )


@pytest.mark.parametrize(
    "path",
    [
        "static/../feed.py",
        "static/%2e%2e/feed.py",
        "static/..%2ffeed.py",
        "static/%2e%2e%2ffeed.py",
        "static//etc/passwd",
        "static/%2fetc%2fpasswd",
        "static/..\\feed.py",
        "static/main.js%00.html",
        "static/",
        "static/nothing.js",
        "../../etc/passwd",
        "api/nothing",
    ],
)
def test_no_path_leads_out(url: str, path: str) -> None:
    with httpx.Client() as client:
        # As it stands: a client's own tidying would hide the attack.
        request = client.build_request("GET", url)
        request.url = request.url.copy_with(raw_path=f"/{path}".encode())
        answer = client.send(request)
    assert answer.status_code == 404
    assert "import" not in answer.text


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
@pytest.mark.parametrize("path", ["", "api/overview", "events"])
def test_nothing_can_be_changed(url: str, method: str, path: str) -> None:
    assert httpx.request(method, url + path).status_code == 405


@pytest.mark.parametrize("path", EVERY_ADDRESS)
def test_without_the_token_there_is_nothing_to_see(path: str) -> None:
    page = Page(FakeWatch(), poll_s=0.02)  # type: ignore[arg-type]
    with served(guarded(page.app, ACCESS), on_drain=page.drain) as server:
        known = {"authorization": f"Bearer {TOKEN}"}
        for headers in ({}, {"authorization": "Bearer wrong"}):
            answer = httpx.get(server.url + path, headers=headers)
            assert answer.status_code == 401
            assert "lora" not in answer.text
        for name, value in (("host", "evil.example"), ("origin", "https://evil.example")):
            answer = httpx.get(server.url + path, headers=known | {name: value})
            assert answer.status_code in {403, 421}
        assert httpx.get(server.url + "health").json() == {"status": "ok"}
        if path != "events":
            answer = httpx.get(server.url + path, headers=known)
            assert answer.status_code == 200
            assert TOKEN not in answer.text


def test_growth_comes_as_events(url: str, watch: FakeWatch) -> None:
    watch.step = 100
    overview, first = events(url, num=2)
    assert (overview["event"], first["event"]) == ("overview", "series")
    assert set(json.loads(overview["data"])) == {"time", *application.SECTIONS}
    (piece,) = json.loads(first["data"])
    assert piece["is_new"]
    assert piece["series"]["loss"]["step"] == list(range(1, 101))

    watch.grow(3)
    (more,) = [
        each for each in events(url, num=2, last_id=first["id"]) if each["event"] == "series"
    ]
    (piece,) = json.loads(more["data"])
    assert not piece["is_new"]
    assert piece["series"]["loss"]["step"] == [101, 102, 103]


def test_a_long_run_is_thinned(url: str, watch: FakeWatch) -> None:
    watch.step = 300
    (_, first) = events(url, num=2, points=50)
    (piece,) = json.loads(first["data"])
    assert len(piece["series"]["loss"]["step"]) <= 60


@pytest.mark.parametrize("want", ["x", "[]", '{"run-0":5}', '{"run-9":["loss"]}', "[" * 9999])
def test_wanting_nonsense_is_wanting_nothing(url: str, want: str) -> None:
    (overview,) = events(url, num=1, want=want)
    assert overview["event"] == "overview"


def test_only_so_many_pages_at_once(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(application, "_MAX_WATCHERS", 1)
    with httpx.stream("GET", url + "events") as first:
        lines = first.iter_lines()
        next(lines)
        with httpx.stream("GET", url + "events") as second:
            assert second.status_code == 503
    deadline_s = time.monotonic() + 10
    while True:  # the first one's end is noticed with the next tick
        with httpx.stream("GET", url + "events") as again:
            if again.status_code == 200:
                break
        assert time.monotonic() < deadline_s


def test_streams_end_when_the_server_is_told_to(watch: FakeWatch) -> None:
    page = Page(watch, poll_s=30)  # type: ignore[arg-type]
    with (
        served(page.app, on_drain=page.drain) as server,
        httpx.stream("GET", server.url + "events") as answer,
    ):
        lines = answer.iter_lines()
        next(lines)
        started_s = time.monotonic()
        server.stop()
        list(lines)
        assert time.monotonic() - started_s < 10
    assert watch.is_closed


def test_series_and_overview_as_json(url: str, watch: FakeWatch) -> None:
    watch.step = 50
    overview = httpx.get(url + "api/overview").json()
    assert overview["runs"][0]["eta_s"].keys() == {"low", "expected", "high"}
    assert overview["runs"][2]["latest"]["loss"] == "NaN"
    got = httpx.get(url + "api/series?id=run-0&name=loss&name=none&since=47&points=nonsense").json()
    assert got["loss"]["step"] == [48, 49, 50]
    assert got["none"]["step"] == []
    got = httpx.get(url + "api/series?id=run-0&name=loss&since=10&until=12").json()
    assert got["loss"]["step"] == [11, 12]
    assert httpx.get(url + "api/series?id=run-9&name=loss").status_code == 404


def test_prometheus_reads_it(url: str) -> None:
    answer = httpx.get(url + "metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    assert 'coderllm_monitor_run_step{name="lora<script>' in answer.text
    if (promtool := shutil.which("promtool")) is None:
        pytest.skip("no promtool on PATH; on Debian: apt-get install prometheus")
    done = subprocess.run(
        [promtool, "check", "metrics"], input=answer.content, capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_no_file_of_the_page_reads_markup_or_runs_text() -> None:
    files = {file.name: file.read_text() for file in STATIC.glob("*.js")}
    assert {"dom.js", "main.js", "chart.js"} <= set(files)
    for name, text in files.items():
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function"
            r"|srcdoc|DOMParser|createContextualFragment|setTimeout\(\s*[\"'`]",
            text,
        ), name
    html = (STATIC / "index.html").read_text()
    assert not re.search(r"<script(?![^>]*src=)|<style|\son\w+=|style=|https?://", html)
    assert not re.search(r"url\(|@import|https?://", (STATIC / "style.css").read_text())


def test_a_missing_chart_library_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"dygraphs .*pip install 'coderllm-jax\[monitoring\]'"):
        assets.load_assets()


def test_the_wrapper_of_the_chart_library_is_not_imported() -> None:
    import sys

    assets.load_assets()
    assert "dygraphs" not in sys.modules
