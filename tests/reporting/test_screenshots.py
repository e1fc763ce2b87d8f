"""The comparison's page in a real browser: what is drawn, what the filter does, what stays dead.

Skipped where there is no Chromium; `apt-get install chromium` brings one on Debian.
"""

from __future__ import annotations

import base64
import hashlib
import html as html_module
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from coderllm_jax.reporting.comparison_filter import SCRIPT
from coderllm_jax.reporting.comparison_report import render
from tests.reporting.comparisons import ARMS, a_comparison

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on PATH; on Debian: apt-get install chromium"
)
PLANTED = (
    "<script>document.documentElement.dataset.planted=1</script>"
    '<img src=x onerror="document.documentElement.dataset.planted=2">'
)
LIGHT, DARK = (255, 255, 255), (0x12, 0x15, 0x1A)
# Of the arms, in light and in dark.
SERIES = {
    LIGHT: [(0x0B, 0x62, 0xB8), (0xC2, 0x41, 0x0C), (0x15, 0x80, 0x3D), (0x7C, 0x3A, 0xED)],
    DARK: [(0x60, 0xA5, 0xFA), (0xFB, 0x92, 0x3C), (0x4A, 0xDE, 0x80), (0xC4, 0xB5, 0xFD)],
}
# Walks through the bar as a person would, and notes which questions are shown, in which order.
WALK = """
(() => {
  const seen = {}, find = (query) => document.querySelector(query);
  const note = (name) => {
    seen[name] = [...document.querySelectorAll("details.question")]
      .filter((card) => card.checkVisibility()).map((card) => Number(card.dataset.number));
  };
  const set = (query, value) => {
    find(query).value = value;
    find(query).dispatchEvent(new Event("change"));
  };
  note("all");
  set('select[data-arm="0"]', "right"); note("trained is right");
  set('select[data-arm="1"]', "part"); note("and rag partly");
  find("#clear").click(); note("cleared");
  set('select[data-by="set"]', "1"); note("unseen");
  set('select[data-by="kind"]', "0"); note("unseen, first kind");
  find("#clear").click();
  find('button.pick[data-words*="rag"], button.pick').click(); note("picked");
  seen.pickedWords = find("#only-words").textContent;
  seen.pickedNumbers = find("button.pick").dataset.numbers.split(" ").map(Number);
  find("#any").click(); note("not picked");
  set("#order", "spread"); note("by spread");
  set("#order", "worst"); note("by mean");
  set("#order", "number"); note("as asked");
  find("#search").value = "LION  mask";
  find("#search").dispatchEvent(new Event("input"));
  setTimeout(() => {
    note("lion");
    seen.told = find("#shown").textContent;
    find("#clear").click();
    find("#unfold").click();
    seen.open = document.querySelectorAll("details.question[open]").length;
    seen.width = [document.documentElement.scrollWidth, innerWidth];
    find("#unfold").click();
    set('select[data-by="set"]', "1");
    document.querySelector('a[href="#q0"]').click();
  }, 300);
  setTimeout(() => {
    note("led to the first");
    seen.openNow = [...document.querySelectorAll("details.question[open]")]
      .map((card) => Number(card.dataset.number));
    const result = document.createElement("pre");
    result.id = "result";
    result.textContent = JSON.stringify(seen);
    document.body.append(result);
  }, 600);
})();
"""


def browse(tmp_path: Path, html: str, *flags: str) -> bytes:
    """Opens the page and returns what Chromium prints."""
    page = tmp_path / "page.html"
    page.write_text(html, encoding="utf-8")
    assert CHROMIUM is not None
    done = subprocess.run(
        [
            CHROMIUM,
            *("--headless=new", "--disable-gpu", "--hide-scrollbars", "--no-first-run"),
            # Tests run as root, too, where Chromium has no sandbox of its own.
            "--no-sandbox",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--virtual-time-budget=2000",
            *flags,
            page.as_uri(),
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-2000:]
    return done.stdout


def take_picture(tmp_path: Path, html: str, size: tuple[int, int], *flags: str) -> Image.Image:
    """A picture of the page's first screen."""
    path = tmp_path / "picture.png"
    browse(tmp_path, html, f"--screenshot={path}", f"--window-size={size[0]},{size[1]}", *flags)
    picture = Image.open(path).convert("RGB")
    assert picture.size == size
    return picture


def with_walk(html: str) -> str:
    """The page whose one script goes on with the walk, under the same policy."""

    def digest(script: str) -> str:
        return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()

    longer = SCRIPT + WALK
    return html.replace(SCRIPT, longer).replace(digest(SCRIPT), digest(longer))


@pytest.fixture(scope="module")
def content() -> dict[str, Any]:
    return a_comparison()


def test_the_filter_shows_what_was_asked_for(tmp_path: Path) -> None:
    content = a_comparison(words=PLANTED)
    flags = ("--dump-dom", "--window-size=500,900")
    dom = browse(tmp_path, with_walk(render(content)), *flags).decode()
    assert "data-planted" not in dom
    found = re.search(r'<pre id="result">(.*?)</pre>', dom, re.DOTALL)
    assert found, "the page's script did not run to its end"
    seen = json.loads(html_module.unescape(found.group(1)))

    questions = content["questions"]
    scores = [
        [each["answers"][f"{arm}{PLANTED}"]["scores"]["fact_f1"] for arm in ARMS]
        for each in questions
    ]
    every = list(range(len(questions)))
    assert seen["all"] == seen["cleared"] == seen["not picked"] == seen["as asked"] == every
    assert seen["trained is right"] == [n for n in every if scores[n][0] == 1]
    assert seen["and rag partly"] == [n for n in every if scores[n][0] == 1 and scores[n][1] == 0.5]
    unseen = [n for n in every if questions[n]["set"] == "unseen"]
    first_kind = min(each["kind"] for each in questions)
    assert seen["unseen"] == unseen
    assert seen["unseen, first kind"] == [n for n in unseen if questions[n]["kind"] == first_kind]
    assert seen["picked"] == seen["pickedNumbers"] != every
    assert PLANTED in seen["pickedWords"]
    assert seen["by spread"] == sorted(every, key=lambda n: (min(scores[n]) - max(scores[n]), n))
    assert seen["by mean"] == sorted(every, key=lambda n: (sum(scores[n]), n))
    assert seen["lion"] == [n for n in every if "optax.lion" in questions[n]["symbol"]]
    assert seen["told"] == f"{len(seen['lion'])} of {len(every)} questions"
    assert seen["open"] == len(every)
    assert seen["width"][0] <= seen["width"][1]
    # A way to a question that is filtered out shows it all the same.
    assert seen["led to the first"] == every
    assert seen["openNow"] == [0]


@pytest.mark.parametrize("has_policy", [True, False])
def test_the_policy_stops_what_escaping_would_have_let_in(tmp_path: Path, has_policy: bool) -> None:
    html = render(a_comparison(num_seen=2)).replace("<footer>", f"{PLANTED}<footer>")
    if not has_policy:
        html = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", html)
    dom = browse(tmp_path, html, "--dump-dom").decode()
    assert ("data-planted" in dom) == (not has_policy)
    assert 'class="scripted"' in dom


@pytest.mark.parametrize(
    ("size", "paper"), [((1280, 2400), LIGHT), ((1280, 2400), DARK), ((500, 4000), LIGHT)]
)
def test_charts_are_drawn(
    tmp_path: Path, content: dict[str, Any], size: tuple[int, int], paper: tuple[int, int, int]
) -> None:
    scheme = 0 if paper == DARK else 1
    flags = [f"--blink-settings=preferredColorScheme={scheme}"]
    picture = take_picture(tmp_path, render(content), size, *flags)
    assert picture.getpixel((2, 2)) == picture.getpixel((size[0] - 3, size[1] - 3)) == paper
    colors = {color: n for n, color in picture.getcolors(size[0] * size[1]) or ()}
    for series in SERIES[paper]:
        assert colors.get(series, 0) > 200, series
    # The page's words, whatever font there is.
    assert colors[paper] < 0.97 * size[0] * size[1]


def test_it_prints(tmp_path: Path, content: dict[str, Any]) -> None:
    path = tmp_path / "page.pdf"
    browse(tmp_path, render(content), f"--print-to-pdf={path}", "--no-pdf-header-footer")
    printed = path.read_bytes()
    assert printed.startswith(b"%PDF")
    assert 4 <= len(re.findall(rb"/Type\s*/Page\b", printed)) <= 20
