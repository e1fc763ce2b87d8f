"""The page in a real browser: curves that grow, every view, hostile names, restarts, paper.

Skipped where there is no Chromium; `apt-get install chromium` brings one on Debian.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from benchmarks.browser import CHROMIUM, WHY_NOT, Browser
from coderllm_jax.monitoring.page.application import Page
from coderllm_jax.web.guard import LOOPBACK_NAMES, Access, guarded
from tests.monitoring_page.shown import PLANTED, FakeWatch
from tests.web.served import served, wait_until

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason=WHY_NOT)
VIEWS = {
    "overview": ("#/", "Machine"),
    "run": ("#/run/run-0", "Samples"),
    "compare": ("#/compare?runs=run-0,run-1&metric=loss", "Side by side"),
    "traffic": ("#/traffic/log-0", "Drift"),
    "quality": ("#/quality", "Versions"),
    "alerts": ("#/alerts", "Rules"),
}
ACCESS = Access(LOOPBACK_NAMES, None, 100, 5.0)
LOSS = "document.querySelector('.chart.is-large')"
DRAWN = "document.documentElement.dataset.drawn"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("browser")) as started:
        yield started


def shown(watch: FakeWatch, *, port: int = 0) -> Any:
    page = Page(watch, poll_s=0.02)  # type: ignore[arg-type]
    return served(guarded(page.app, ACCESS), port=port, on_drain=page.drain)


def num_points(browser: Browser) -> int:
    return int(browser.run(f"Number({LOSS}?.dataset.points || 0)"))


def drag(browser: Browser, start: int, end: int) -> None:
    """A mouse's, over the large chart."""
    left, top = browser.run(
        f"(() => {{ const box = {LOSS}.querySelector('.plot').getBoundingClientRect();"
        "return [box.left, box.top]; })()"
    )
    for kind, x in (("Moved", start), ("Pressed", start), ("Moved", end), ("Released", end)):
        browser.call(
            "Input.dispatchMouseEvent",
            type=f"mouse{kind}",
            x=left + x,
            y=top + 100,
            button="left",
            buttons=1,
            clickCount=1,
        )


def visit(browser: Browser, url: str, view: str = "", **kwargs: Any) -> None:
    browser.said.clear()
    browser.open("about:blank")
    browser.open(url + view, **kwargs)
    browser.wait_for(DRAWN)


def test_a_curve_grows_point_by_point_without_a_reload(browser: Browser) -> None:
    watch = FakeWatch(num_runs=1, num_steps=60)
    watch.step = 1
    with shown(watch) as server:
        visit(browser, server.url, "#/run/run-0")
        browser.run("window.isTheSamePage = true")
        for step in (2, 3, 10, 24, 60):
            watch.grow(step - watch.step)
            # Evaluations are in the same chart, every 25 steps.
            wait_until(lambda step=step: num_points(browser) == step + step // 25)
            drawn = browser.run(f"{LOSS}.querySelector('.legend').textContent")
            assert re.search(r"training \d", drawn)
        assert browser.run("window.isTheSamePage")
        assert "step 60 of 60" in browser.run("document.body.innerText")
    assert browser.said == []


def test_a_run_that_was_cut_is_drawn_anew(browser: Browser) -> None:
    watch = FakeWatch(num_runs=1, num_steps=60)
    watch.step = 20
    with shown(watch) as server:
        visit(browser, server.url, "#/run/run-0")
        wait_until(lambda: num_points(browser) == 20)
        watch.cut(7)
        wait_until(lambda: num_points(browser) == 7)


def test_the_page_outlives_the_monitor(browser: Browser) -> None:
    watch = FakeWatch(num_runs=1, num_steps=60)
    watch.step = 10
    with shown(watch) as server:
        visit(browser, server.url, "#/run/run-0")
        browser.run("window.isTheSamePage = true")
        wait_until(lambda: num_points(browser) == 10)
        port = int(server.url.rstrip("/").rpartition(":")[2])
    browser.wait_for("document.querySelector('.state.is-away')")
    assert num_points(browser) == 10
    watch.grow(10)
    with shown(watch, port=port):
        wait_until(lambda: num_points(browser) == 20)
        browser.wait_for("document.querySelector('.state.is-live')")
        watch.grow(1)
        wait_until(lambda: num_points(browser) == 21)
        assert browser.run("window.isTheSamePage")


@pytest.mark.parametrize("name", VIEWS)
def test_every_view_on_a_desk_and_on_a_phone(browser: Browser, tmp_path: Path, name: str) -> None:
    place, words = VIEWS[name]
    with shown(FakeWatch(num_runs=5, words=PLANTED)) as server:
        for width, is_dark in ((1280, False), (390, True)):
            visit(browser, server.url, place, width=width, is_dark=is_dark)
            browser.wait_for(f"document.body.innerText.includes({words.upper()!r})")
            browser.wait_for("document.querySelector('.state.is-live')")
            wide, seen = browser.run("[document.documentElement.scrollWidth, innerWidth]")
            assert wide <= seen, "the page is wider than the screen"
            # Names, samples, reasons and messages are markup here, and stay words.
            assert PLANTED in browser.run("document.body.textContent")
            assert browser.run("document.documentElement.dataset.planted") is None
            assert browser.run("document.querySelectorAll('main script, main img').length") == 0
            assert browser.said == []
            path = tmp_path / "picture.png"
            browser.take_picture(path)
            paper = (0x0E, 0x11, 0x16) if is_dark else (0xF5, 0xF7, 0xFA)
            with Image.open(path) as picture:
                assert picture.convert("RGB").getpixel((2, 400)) == paper


def test_two_runs_are_laid_over_one_another(browser: Browser) -> None:
    with shown(FakeWatch(num_runs=3, num_steps=100)) as server:
        visit(browser, server.url, "#/compare?runs=run-0,run-1&metric=loss")
        wait_until(lambda: num_points(browser) == 50 + 100)
        legend = browser.run(f"{LOSS}.querySelector('.legend').textContent")
        assert re.fullmatch(r"lora \d\.\d+lora-rank-16 \d\.\d+", legend)
        browser.run("[...document.querySelectorAll('.chip-button')].at(-2).click()")
        wait_until(lambda: num_points(browser) in {50, 100, 50 + 100 + 100})
        browser.run(
            "(() => { const by = document.querySelectorAll('.choice select')[1];"
            "by.value = 'elapsed'; by.dispatchEvent(new Event('change')); })()"
        )
        browser.wait_for("document.querySelector('.chart.is-large').innerText.includes(' min')")


def test_scores_lie_together_by_suite_and_chance_is_not_coloured(browser: Browser) -> None:
    with shown(FakeWatch(num_runs=1, num_steps=100)) as server:
        visit(browser, server.url, "#/quality")
        browser.wait_for("document.querySelectorAll('figure.chart').length")
        heads = "[...document.querySelectorAll('h2')].map((each) => each.textContent)"
        assert browser.run(heads) == [
            *("Versions", "qa accuracy", "code generation", "performance")
        ]
        # bleu has one version yet, which makes no curve.
        titles = "[...document.querySelectorAll('figure.chart .chart-head > b')]"
        assert browser.run(f"{titles}.map((each) => each.textContent)") == [
            *("seen · fact f1", "human eval · pass@1", "closed · 1 · total s · p50")
        ]
        changes = "[...document.querySelectorAll('.legend > [class]')]"
        classes = browser.run(f"{changes}.map((each) => each.className)")
        assert classes[1:] == ["muted", "good"]  # wide intervals; no interval, and lower is better
        rows = browser.run("[...document.querySelectorAll('tbody tr')].map((r) => r.textContent)")
        assert "seen · bleu0.5—————" in rows  # no share, though its suite is called qa_accuracy
        assert any(row.startswith("closed · 1 · total s · p501.4 s1.5 s") for row in rows)


def test_a_drag_zooms_every_chart_of_a_run_and_a_button_shows_all(browser: Browser) -> None:
    with shown(FakeWatch(num_runs=1, num_steps=100)) as server:
        visit(browser, server.url, "#/run/run-0")
        wait_until(lambda: num_points(browser) >= 50)
        before = browser.run("[...document.querySelectorAll('.plot')].map((p) => p.innerText)")
        drag(browser, 200, 350)
        browser.wait_for(
            "[...document.querySelectorAll('button')].at(-1).textContent === 'show all'"
        )
        zoomed = browser.run("[...document.querySelectorAll('.plot')].map((p) => p.innerText)")
        assert all(a != b for a, b in zip(before, zoomed, strict=True))
        browser.run("[...document.querySelectorAll('button')].at(-1).click()")
        browser.wait_for("document.querySelector('.hint')")
    assert browser.said == []


def test_a_zoom_into_a_long_run_shows_every_point(browser: Browser) -> None:
    watch = FakeWatch(num_runs=1, num_steps=6000)
    watch.step = 6000
    with shown(watch) as server:
        visit(browser, server.url, "#/run/run-0")
        wait_until(lambda: 1000 < num_points(browser) < 2000)
        before = num_points(browser)
        drag(browser, 200, 300)
        wait_until(lambda: num_points(browser) > before + 300)
    assert browser.said == []


def test_no_two_curves_have_one_color(browser: Browser) -> None:
    """run-0 and run-8 are eight apart, which is how many colors there are."""
    picked = [f"run-{i}" for i in (0, 1, 3, 4, 5, 6, 7, 8)]
    with shown(FakeWatch(num_runs=10, num_steps=60)) as server:
        visit(browser, server.url, f"#/compare?runs={','.join(picked)}&metric=loss")
        browser.wait_for("document.querySelectorAll('.side-by-side .dot').length === 8")
        dots = "[...document.querySelectorAll('.side-by-side .dot')].map((e) => e.style.background)"
        colors = browser.run(dots)
        assert len(set(colors)) == 8
        visit(browser, server.url, "#/compare?runs=run-8&metric=loss")
        browser.wait_for("document.querySelectorAll('.side-by-side .dot').length === 1")
        assert browser.run(dots) == ["var(--series-0)"]  # its own, where nobody else has it
    assert browser.said == []


def test_a_theme_that_was_chosen_is_kept(browser: Browser) -> None:
    with shown(FakeWatch(num_runs=1)) as server:
        visit(browser, server.url)
        for _ in range(2):
            browser.run("document.querySelector('.theme').click()")
        visit(browser, server.url)
        assert browser.run("document.documentElement.dataset.theme") == "dark"
        assert browser.run("getComputedStyle(document.body).backgroundColor") == "rgb(14, 17, 22)"
        browser.run("document.querySelector('.theme').click()")


def test_it_prints_in_black_on_white(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "page.pdf"
    with shown(FakeWatch(num_runs=2)) as server:
        visit(browser, server.url, "#/run/run-0", is_dark=True)
        wait_until(lambda: num_points(browser) > 0)
        browser.print_to(path)
    printed = path.read_bytes()
    assert printed.startswith(b"%PDF")
    assert 1 <= len(re.findall(rb"/Type\s*/Page\b", printed)) <= 8
    assert browser.run("document.documentElement.dataset.theme") is None


def test_nothing_to_see_is_said(browser: Browser) -> None:
    watch = FakeWatch(num_runs=0, is_quiet=True)
    with shown(watch) as server:
        visit(browser, server.url)
        browser.wait_for("document.body.innerText.includes('No run yet.')")
        visit(browser, server.url, "#/run/run-7")
        browser.wait_for("document.body.innerText.includes('There is no such run.')")
        visit(browser, server.url, "#/alerts")
        browser.wait_for("document.body.innerText.includes('All quiet.')")
    assert browser.said == []


def test_a_missing_token_is_said(browser: Browser) -> None:
    access = Access(LOOPBACK_NAMES, "canary-token-0123456789", 100, 5.0)
    page = Page(FakeWatch(num_runs=1), poll_s=0.02)  # type: ignore[arg-type]
    with served(guarded(page.app, access), on_drain=page.drain) as server:
        browser.open(server.url)
        assert "the token is missing or wrong" in browser.run("document.body.innerText")
        browser.open(f"{server.url}?token=canary-token-0123456789")
        browser.wait_for(DRAWN)
        browser.wait_for("document.querySelector('.state.is-live')")
        assert "token" not in browser.run("location.href")
        browser.call("Network.clearBrowserCookies")
