r"""Code inside documentation, and prose without it.

    Some prose::          prose     "Some prose:"
                          code      ("tx = scale(0.1)", "scale(2)  # 2")
        tx = scale(0.1)   sessions  ((Doctest("scale(2)\n", "2\n"),),)

    >>> scale(2)
    2

Code is what stands in fences, in literal blocks after `::`, in code directives, or behind `>>>`.
"""

from __future__ import annotations

import doctest
import re
from typing import NamedTuple

from coderllm_jax.data.markup import dedent_block, indentation

_FENCE = re.compile(
    r"^ *```(?P<language>[\w.+-]*)[^\n]*\n(?P<code>.*?)^ *``` *$", re.MULTILINE | re.DOTALL
)
_CODE_DIRECTIVE = re.compile(r"\.\. (?:code-block|code|sourcecode)::\s*(?:python3?|py)?\s*$")


class Doctest(NamedTuple):
    """One prompt of an interactive session: the statement and what it printed."""

    source: str
    want: str


def session_code(session: tuple[Doctest, ...]) -> str:
    """An interactive session as a program; a short one-line result becomes a comment."""
    lines = []
    for source, want in session:
        code, result = source.rstrip("\n"), want.strip()
        if result and "\n" not in code + result and len(code) + len(result) < 84:
            code = f"{code}  # {result}"
        lines.append(code)
    return "\n".join(lines)


def without_code(text: str) -> str:
    """Prose alone: fenced blocks, literal blocks after `::`, and interactive sessions go."""
    if not re.search(r">>>|```|:[ \t]*(?:\n|$)", text):
        return text
    text = _FENCE.sub("\n", text)
    kept: list[str] = []
    literal: int | None = None
    session = False
    for line in text.splitlines():
        indent = indentation(line)
        if literal is not None:
            if not line.strip() or indent > literal:
                continue
            literal = None
        if line.lstrip().startswith(">>>"):
            session = True
            continue
        if session:
            session = bool(line.strip())
            if session:
                continue
        if line.rstrip().endswith(":") and not line.lstrip().startswith(".."):
            literal = indent
            kept.append(line.rstrip().rstrip(":") + ":")
        else:
            kept.append(line)
    return "\n".join(kept)


def sessions_of(text: str) -> tuple[tuple[Doctest, ...], ...]:
    """Interactive sessions, split at prose and at blank lines between prompts."""
    if ">>>" not in text:
        return ()
    try:
        parts = doctest.DocTestParser().parse(re.sub(r"^ *```.*$", "", text, flags=re.MULTILINE))
    except ValueError:  # inconsistent prompts: not a session anyone could run
        return ()
    sessions: list[list[Doctest]] = [[]]
    for part in parts:
        if isinstance(part, doctest.Example):
            source, *directive = re.split(r"\s*# ?doctest:", part.source.rstrip("\n"))
            # What doctest is told to skip prints something else each time.
            want = "" if "SKIP" in "".join(directive) else part.want
            sessions[-1].append(Doctest(f"{source}\n", want))
        elif part.strip():
            sessions.append([])
    return tuple(tuple(session) for session in sessions if session)


def code_blocks(text: str, sessions: tuple[tuple[Doctest, ...], ...]) -> tuple[str, ...]:
    """Python code of fences, code directives and literal blocks, then of sessions."""
    found = []
    for match in _FENCE.finditer(text):
        code = dedent_block(match["code"])
        if match["language"] in ("", "python", "py", "python3") and ">>>" not in code:
            found.append(code)
    lines = text.splitlines()
    for index, line in enumerate(lines):
        ends = line.rstrip().endswith("::") and not line.lstrip().startswith("..")
        if not ends and not _CODE_DIRECTIVE.search(line):
            continue
        block = []
        for following in lines[index + 1 :]:
            if following.strip() and indentation(following) <= indentation(line):
                break
            block.append(following)
        code = dedent_block("\n".join(block)).strip("\n")
        if code and ">>>" not in code:
            found.append(code)
    return tuple(found) + tuple(session_code(session) for session in sessions)
