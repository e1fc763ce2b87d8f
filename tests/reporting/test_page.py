"""The frame lets nothing in but what a page brings itself."""

from __future__ import annotations

import base64
import hashlib
import re

from coderllm_jax.reporting.page import page
from tests.reporting.outline import Outline, assert_is_safe


def policy_of(html: str) -> dict[str, str]:
    """The content policy's directives."""
    (content,) = [value for _, value in Outline(html).attributes if "default-src" in (value or "")]
    return dict(part.strip().split(" ", 1) for part in content.split(";"))


def test_a_page_without_a_script_allows_none() -> None:
    html = page("title", ["<p>words</p>"])
    assert_is_safe(html)
    policy = policy_of(html)
    assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert "script-src" not in policy


def test_a_page_with_a_script_allows_that_one_by_its_digest() -> None:
    html = page("title", ["<p>words</p>"], script="let a = '1 < 2';\n")
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    assert script == "let a = '1 < 2';\n"
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy_of(html)["script-src"] == f"'sha256-{digest}'"
    # It stands last, so that all of the page is there when it runs.
    assert html.index("</p>") < html.index("<script>")


def test_only_screens_are_dark() -> None:
    dark = re.findall(r"@media([^{]*prefers-color-scheme[^{]*)\{", page("t", []))
    assert dark == [" screen and (prefers-color-scheme:dark)"]


def test_a_pages_own_rules_come_after_those_of_all_pages() -> None:
    (style,) = re.findall(r"<style>(.*?)</style>", page("t", [], style="p{margin:1px}"), re.DOTALL)
    assert style.index("p{margin:.4rem 0}") < style.index("p{margin:1px}")
