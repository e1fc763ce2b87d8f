"""What a page holds, for tests that look at its structure."""

from __future__ import annotations

import re
from html.parser import HTMLParser

VOID = {"meta", "input"}
HOSTILE = "</pre></p><script>alert(1)</script><img src=x onerror=alert(2)>&amp;\"' style=x"


class Outline(HTMLParser):
    """Tags, attributes and text of a page; fails where tags do not nest."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    @property
    def text(self) -> str:
        return "".join(self.words)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def assert_is_safe(html: str) -> Outline:
    """Well-formed, without a script, and with nothing that loads."""
    outline = Outline(html)
    assert not {"script", "img", "link", "iframe", "object", "base", "form"} & set(outline.tags)
    assert not any(name.startswith("on") for name, _ in outline.attributes)
    assert not [value for name, value in outline.attributes if name in ("src", "href", "action")]
    assert not re.search(r"url\(|@import", html)
    assert not re.search(r"https?://", html)
    assert "default-src 'none'" in html
    return outline
