"""Markdown and reST folders: their sections, and one clear line for a folder that has none."""

from __future__ import annotations

import pytest

from coderllm_jax.data.documents import document_statements, read_documents
from coderllm_jax.data.statements import Bounds
from coderllm_jax.data.tokens import estimate_tokens
from coderllm_jax.errors import DataError

MARKDOWN = """---
layout: page
---
# Training models

Training needs data that someone prepared before.

## Resuming `runs`

A run resumes where it was. It refuses other data.

```python
# not a heading
train()
```

## Resuming `runs`

- a list

<!-- ## not a heading -->
"""
REST = """
==============
Serving models
==============

A server answers questions over HTTP, one at a time.

Limits
------

.. note:: Not this.

It keeps at most eight requests waiting for their turn.
"""


@pytest.fixture
def folder(tmp_path):
    docs = tmp_path / "docs"
    (docs / "deep").mkdir(parents=True)
    (docs / "guide.md").write_text(MARKDOWN)
    (docs / "deep/serving.rst").write_text(REST)
    (docs / "notes.txt").write_text("not read")
    (docs / ".hidden.md").write_text("# Hidden\n\nNot read.")
    (tmp_path / "LICENSE").write_text("MIT License\n")
    return docs


def test_sections_by_heading(folder):
    found = {section.symbol: section for section in read_documents(folder)}
    assert list(found) == [
        "docs/deep/serving.rst#serving-models",
        "docs/deep/serving.rst#limits",
        "docs/guide.md#training-models",
        "docs/guide.md#resuming-runs",
        "docs/guide.md#resuming-runs-2",
    ]
    resuming = found["docs/guide.md#resuming-runs"]
    assert (resuming.title, resuming.heading) == ("Training models", "Resuming `runs`")
    assert "# not a heading" in resuming.text
    assert {section.license for section in found.values()} == {"MIT"}


def test_what_a_section_says_first(folder):
    bounds = Bounds(40, 40, estimate_tokens)
    answers = {
        s.symbol.partition("#")[2]: s.answer
        for section in read_documents(folder)
        for s in document_statements(section, bounds)
    }
    assert answers == {
        "serving-models": "A server answers questions over HTTP, one at a time.",
        "limits": "It keeps at most eight requests waiting for their turn.",
        "training-models": "Training needs data that someone prepared before.",
        "resuming-runs": "A run resumes where it was. It refuses other data.",
    }


def test_an_empty_folder_and_no_folder(tmp_path):
    with pytest.raises(DataError, match=r"holds no \.md, .*name another folder"):
        read_documents(tmp_path)
    with pytest.raises(DataError, match="is not a folder"):
        read_documents(tmp_path / "nowhere")


def test_a_file_that_is_not_utf8_is_named_with_its_byte(tmp_path):
    (tmp_path / "old.md").write_bytes(b"# Caf\xe9\n")
    with pytest.raises(DataError, match=r"old\.md: not UTF-8 \(byte 5\); convert it"):
        read_documents(tmp_path)


def test_a_byte_order_mark_is_no_text(tmp_path):
    (tmp_path / "a.md").write_bytes(b"\xef\xbb\xbf# Title\n\nText of the section here.\n")
    (section,) = read_documents(tmp_path)
    assert section.heading == "Title"


@pytest.mark.parametrize("body", ["", "\n\n", "# Only a heading\n"])
def test_documents_without_text_have_no_sections(tmp_path, body):
    (tmp_path / "a.md").write_text(body)
    with pytest.raises(DataError, match="no text"):
        read_documents(tmp_path)
