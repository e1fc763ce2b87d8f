r"""Folders of Markdown and reStructuredText: their sections, as prose and code.

    guide.md    # Training            Section("guide.md#resuming", title="Training",
                ## Resuming             heading="Resuming", prose="A run resumes ...",
                A run resumes ...       text="A run resumes ...\n\n    train --resume")
                    train --resume

A section is what stands under one heading, without its subsections. Reads UTF-8 only.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from coderllm_jax.data.docstrings import prose_paragraphs
from coderllm_jax.data.markup import first_sentences, plain_text
from coderllm_jax.data.statements import Bounds, Statement
from coderllm_jax.data.trees import folder_license
from coderllm_jax.errors import DataError

_SUFFIXES = (".md", ".markdown", ".rst")
_UNDERLINE = re.compile(r"^([=\-~^\"'`#*+:.])\1{2,}\s*$")


class Section(NamedTuple):
    """What stands under one heading; `title` is the document's first heading or file name."""

    symbol: str
    title: str
    heading: str
    text: str
    source: str
    license: str


def read_documents(folder: Path) -> list[Section]:
    """The sections of every Markdown and reST file below `folder`, in path order.

    Raises DataError for a folder that is missing or has no such files, and for a file that is not
    UTF-8.
    """
    if not folder.is_dir():
        raise DataError(f"documents {str(folder)!r} is not a folder; name one in `documents`")
    paths = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in _SUFFIXES and path.is_file() and not _is_hidden(path, folder)
    )
    if not paths:
        raise DataError(
            f"documents {str(folder)!r} holds no {', '.join(_SUFFIXES)} files; name another folder"
        )
    root = folder.resolve()
    licence = folder_license(root)
    licence = folder_license(root.parent) if licence == "unknown" else licence
    sections: list[Section] = []
    for path in paths:
        sections += _sections(path, path.relative_to(folder).as_posix(), root.name, licence)
    if not sections:
        raise DataError(
            f"documents {str(folder)!r}: no text in {len(paths)} files; name another folder"
        )
    return sections


def document_statements(section: Section, bounds: Bounds) -> list[Statement]:
    """What a section says first, where that stands alone."""
    paragraphs = prose_paragraphs(section.text)
    answer = first_sentences(paragraphs[0], fits=bounds.fits_prose) if paragraphs else ""
    if len(answer.split()) < 5:
        return []
    return [
        Statement(
            symbol=section.symbol,
            kind="document",
            subject=section.heading,
            answer=answer,
            passage=answer,
            source=section.source,
            license=section.license,
            fields={"title": section.title, "subject": section.heading, "name": section.symbol},
        )
    ]


def _sections(path: Path, relative: str, source: str, licence: str) -> list[Section]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: not UTF-8 (byte {error.start}); convert it or move it out of the folder"
        ) from error
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}); mend its permissions"
        ) from error
    parts = _split_markdown(text) if path.suffix.lower() != ".rst" else _split_rest(text)
    title = next((heading for heading, _ in parts if heading), path.stem)
    found: list[Section] = []
    used: dict[str, int] = {}
    for heading, body in parts:
        if not body.strip():
            continue
        slug = re.sub(r"\W+", "-", heading.lower()).strip("-")
        used[slug] = used.get(slug, 0) + 1
        anchor = slug if used[slug] == 1 else f"{slug}-{used[slug]}"
        symbol = f"{source}/{relative}#{anchor}" if anchor else f"{source}/{relative}"
        found.append(Section(symbol, title, heading or title, body.strip("\n"), source, licence))
    return found


def _split_markdown(text: str) -> list[tuple[str, str]]:
    text = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)  # front matter
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    parts: list[tuple[str, list[str]]] = [("", [])]
    fence = ""
    for line in text.splitlines():
        mark = re.match(r"\s*(`{3,}|~{3,})", line)
        if mark and not fence:
            fence = mark[1]
        elif mark and mark[1].startswith(fence):
            fence = ""
        heading = re.match(r"#{1,6}\s+(.+?)\s*#*\s*$", line)
        if heading and not fence:
            parts.append((plain_text(heading[1]), []))
        else:
            parts[-1][1].append(line)
    return [(heading, "\n".join(body)) for heading, body in parts]


def _split_rest(text: str) -> list[tuple[str, str]]:
    lines = text.splitlines()
    parts: list[tuple[str, list[str]]] = [("", [])]
    index = 0
    while index < len(lines):
        line = lines[index]
        following = lines[index + 1] if index + 1 < len(lines) else ""
        after = lines[index + 2] if index + 2 < len(lines) else ""
        if _UNDERLINE.match(line) and following.strip() and line.strip() == after.strip():
            parts.append((plain_text(following), []))  # overlined
            index += 3
        elif (
            line.strip()
            and not line[0].isspace()
            and _UNDERLINE.match(following)
            and len(following.rstrip()) >= len(line.rstrip())
            and not _UNDERLINE.match(line)
        ):
            parts.append((plain_text(line), []))
            index += 2
        else:
            parts[-1][1].append(line)
            index += 1
    return [(heading, "\n".join(body)) for heading, body in parts]


def _is_hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)
