"""The page in a real browser: a conversation, streamed; what a model writes stays text."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.browser import CHROMIUM, WHY_NOT, Browser
from coderllm_jax.records import Delta, Source
from coderllm_jax.serving.tickets import Lane
from tests.fakes import Chunk, FakeAnswerer, FakeClock, Reply
from tests.serving.running import running

PLANTED = (
    "<script>document.documentElement.dataset.planted=1</script>"
    '<img src=x onerror="document.documentElement.dataset.planted=2">'
)
ANSWER = f"It clips [1].\n\n    optax.clip(1.0)\n{PLANTED}"


class Sourced(FakeAnswerer):
    """Its answers rest on a passage with a hostile name."""

    def poll(self, timeout_s: float = 0.0) -> list[Delta]:
        sources = (Source(f"optax.clip#1{PLANTED}", "text", "optax 0.2", 0.8125),)
        return [
            delta
            if delta.answer is None
            else delta._replace(answer=dataclasses.replace(delta.answer, sources=sources))
            for delta in super().poll(timeout_s)
        ]


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    pieces = tuple(Chunk(0.1 * i, ANSWER[i : i + 3]) for i in range(0, len(ANSWER), 3))
    fake = Sourced(FakeClock(), Reply(chunks=pieces), num_places=4, poll_s=0.1)
    with running(Lane({"base": fake, "rag": fake}, fake, 4)) as up:
        yield up, fake


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip(WHY_NOT)
    with Browser(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


def ask(browser: Browser, question: str, number: int) -> None:
    browser.run(f"document.getElementById('question').value = {json.dumps(question)}")
    browser.run("document.getElementById('ask').requestSubmit()")
    browser.wait_for(f"document.querySelectorAll('.assistant[data-done]').length === {number}")


def test_a_conversation(server: Any, browser: Browser, tmp_path: Path) -> None:
    up, fake = server
    browser.open(up.url)
    browser.wait_for("document.getElementById('state').textContent === 'ready'")
    assert browser.run("document.getElementById('model').value") == "rag"
    ask(browser, f"What does clip do? {PLANTED}", 1)
    ask(browser, "And then?", 2)
    assert [turn.role for turn in fake.queries[-1].turns] == ["user", "model", "user"]
    assert fake.queries[-1].turns[1].content == ANSWER
    texts = browser.run("[...document.querySelectorAll('.text')].map((x) => x.textContent)")
    assert texts == [f"What does clip do? {PLANTED}", ANSWER, "And then?", ANSWER]
    assert "score 0.81" in browser.run("document.querySelector('.sources').textContent")
    assert "tokens in" in browser.run("document.querySelector('.about').textContent")
    assert browser.run("document.documentElement.dataset.planted ?? ''") == ""
    assert browser.run("document.querySelectorAll('#talk script, #talk img').length") == 0
    assert browser.said == []
    for width, is_dark in ((1280, False), (390, True)):
        browser.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=800,
            deviceScaleFactor=1,
            mobile=False,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        browser.call("Emulation.setEmulatedMedia", features=[scheme])
        browser.take_picture(tmp_path / f"{width}.png")
        assert browser.run("document.documentElement.scrollWidth") <= width
    browser.run("document.getElementById('clear').click()")
    assert browser.run("document.getElementById('talk').children.length") == 0


def test_an_error_is_shown_as_text(server: Any, browser: Browser) -> None:
    up, _ = server
    browser.open(up.url)
    browser.wait_for("document.getElementById('state').textContent === 'ready'")
    browser.run("document.getElementById('model').add(new Option('gone', 'gone', true, true))")
    ask(browser, "What?", 1)
    assert "no such model" in browser.run("document.querySelector('.wrong').textContent")


def test_its_files_are_three_and_under_a_strict_policy(server: Any) -> None:
    up, _ = server
    for path, kind in (("", "text/html"), ("page.css", "text/css"), ("page.js", "text/javascript")):
        answer = httpx.get(f"{up.url}{path}")
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith(kind)
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
    page = httpx.get(up.url).text
    assert "http" not in page.replace("http-equiv", "")
    assert " style=" not in page
    assert " onclick=" not in page
    script = httpx.get(f"{up.url}page.js").text
    assert not any(word in script for word in ("innerHTML", "outerHTML", "insertAdjacent", "eval("))


@pytest.mark.parametrize(
    "path",
    [
        "../pyproject.toml",
        "..%2fpyproject.toml",
        "%2e%2e/serve.py",
        "page.py",
        "page.css/../page.py",
        "....//page.py",
        "/etc/passwd",
        "page.css%00.py",
        "__init__.py",
    ],
)
def test_no_other_file_is_served(server: Any, path: str) -> None:
    up, _ = server
    host, port = up.url.removeprefix("http://").rstrip("/").split(":")
    import http.client

    connection = http.client.HTTPConnection(host, int(port))  # sends a path as it is
    connection.request("GET", f"/{path}")
    answer = connection.getresponse()
    assert answer.status == 404
    assert json.loads(answer.read())["error"]["code"] == "not_found"
    connection.close()
