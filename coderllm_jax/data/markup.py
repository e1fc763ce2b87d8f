"""Prose out of reStructuredText and Markdown: plain sentences a person would write.

    :func:`optax.adam` scales by ``b1``, see [1]_.   →   `optax.adam` scales by `b1`.

Owns inline markup, directives and sentence boundaries; docstring sections and document headings
belong to `docstrings` and `documents`. What cannot be said in plain text (formulas, tables,
links without a text) is left out by whole sentences, never in the middle of one.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable

Fits = Callable[[str], bool]

# `:math:` bodies that read as plain text, such as x or n_steps; all others drop their sentence.
_PLAIN_MATH = re.compile(r"[\w .,+\-*/=<>()\[\]]{1,24}")
_UNSAYABLE = "\x00"  # marks what has no plain form until its sentence is dropped

_DIRECTIVE = re.compile(r"^(?P<indent>[ \t]*)\.\. ?[^\n]*$", re.MULTILINE)
_INLINE = (
    (re.compile(r"\[(?:\d+|#?[\w-]*)\]_"), ""),
    (re.compile(r":(?:\w+:)?\w+:`[^`<>]*<[!~]?([^`<>]+)>`"), r"`\1`"),
    (re.compile(r":(?:\w+:)?\w+:`!?~([^`]+)`"), lambda m: f"`{m[1].rpartition('.')[2]}`"),
    (re.compile(r":(?:\w+:)?\w+:`!?([^`]+)`"), r"`\1`"),
    (re.compile(r"`([^`<>]+?)\s*<[^`<>]+>`__?"), r"\1"),
    (re.compile(r"(?<!`)`~([\w.]+)`(?!`)"), lambda m: f"`{m[1].rpartition('.')[2]}`"),
    (re.compile(r"(?<!`)`\.(?=[A-Za-z_][\w.]*`)"), "`"),
    (re.compile(r"``([^`\n]+(?:\n[^`\n]+)?)``"), r"`\1`"),
    (re.compile(r"`([^`\n]+)`__?(?!\w)"), r"\1"),
    (re.compile(r"!\[[^\]]*\]\([^)]*\)"), ""),
    (re.compile(r"\[([^\[\]]+)\]\((?:[^()]|\([^()]*\))*\)"), r"\1"),
    (re.compile(r"\[([^\[\]]+)\]\[[\w .-]*\]"), r"\1"),
    (re.compile(r"\*\*([^*\n]+)\*\*"), r"\1"),
    (re.compile(r"(?<![\w*`])\*(\w[^*\n`]*\w|\w)\*(?![\w*`])"), r"\1"),
    (re.compile(r"</?(?:a|b|i|br|em|sub|sup|p|code|strong|img|div|span)\b[^>]*>"), ""),
    (re.compile(r"\\([*_`])"), r"\1"),
)
_MATH_ROLE = re.compile(r":math:`([^`]*)`")
_MATH_DOLLAR = re.compile(
    r"\$\$.+?\$\$|\\\(.+?\\\)|\\\[.+?\\\]|(?<![\w$`])\$[^$\n`]+\$(?!\w)", re.DOTALL
)
_CODE = re.compile(r"`[^`\n]*`")
_URL = re.compile(r"<?https?://\S+")

# Whether there is anything for the expressions above: most texts have nothing.
_MARKED = re.compile(r"[`*\[<$\\|]|:\w|\.\. |https?:|_\b")

# What plain prose has none of: markup that was not understood, notes to self, bylines, and
# pointers to what stands elsewhere on the page.
_LEFT_OVER = re.compile(
    rf"[`\\{_UNSAYABLE}]|::|\{{\{{|%\(|\.\. |\|\w+\||:\w+:|^\s*[|+=]|>>>|<[a-z][\w ,-]*>"
    r"|_{3,}|={3,}|-{3,}|\b(?:XXX|TODO|FIXME)\b|(?i:\b(?:written|contributed) by\b)|\w@\w+\.\w"
    r"|\b(?i:see|examples?|notes?|listed|described|shown|defined|mentioned|explained|as)\b[^.]*"
    r"\b(?:below|above)\b"
)
_ABBREVIATION = re.compile(
    r"(?:\b(?:e\.g|i\.e|etc|vs|cf|et al|Eq|Eqs|Fig|Sec|Ref|Refs|approx|resp|No|Dr|St|al|incl"
    r"|Inc|Jr|w\.r\.t|a\.k\.a|[A-Z])\.)$"
)
_DANGLING = re.compile(
    r"\b(?:a|an|and|are|as|be|by|e\.g|for|from|if|in|is|of|on|or|that|the|to|where|which|with)$"
)
_BOUNDARY = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[\"'(`\[]?[A-Z0-9`])")


def plain_text(text: str) -> str:
    """Markup off, lines joined: paragraphs separated by one blank line."""
    if _MARKED.search(text):
        text = _without_markup(text)
    paragraphs = (" ".join(part.split()) for part in re.split(r"\n\s*\n", text))
    return "\n\n".join(_tidy(part) for part in paragraphs if part)


def _without_markup(text: str) -> str:
    text = drop_directives(text)
    text = _MATH_ROLE.sub(lambda m: _plain_math(m[1]), text)
    text = _outside_code(text, lambda prose: _MATH_DOLLAR.sub(_UNSAYABLE, prose))
    for pattern, replacement in _INLINE:
        text = pattern.sub(replacement, text)
    return _outside_code(text, lambda prose: _URL.sub(_UNSAYABLE, prose))


def drop_directives(text: str) -> str:
    """Without `.. name::` blocks, comments and footnotes, each with its indented content."""
    kept: list[str] = []
    depth: int | None = None
    for line in text.splitlines():
        indent = indentation(line)
        if depth is not None and (not line.strip() or indent > depth):
            continue
        depth = None
        match = _DIRECTIVE.match(line)
        if match:
            depth = len(match["indent"])
            kept.append("")
        else:
            kept.append(line)
    return "\n".join(kept)


def sentences(text: str) -> list[str]:
    """The sentences of plain text, in order; paragraphs end sentences too."""
    found: list[str] = []
    for paragraph in text.split("\n\n"):
        start = 0
        for boundary in _BOUNDARY.finditer(paragraph):
            piece = paragraph[start : boundary.start()]
            if _ABBREVIATION.search(piece) or piece.count("`") % 2 or _opens(piece):
                continue
            found.append(paragraph[start : boundary.end()].strip())
            start = boundary.end()
        found.append(paragraph[start:].strip())
    return [sentence for sentence in found if sentence]


def sayable(sentence: str) -> bool:
    """Whether a sentence stands alone as plain text: whole, balanced, nothing left of markup."""
    prose = _CODE.sub("", sentence)
    if not re.search(r"[A-Za-z]{2}", sentence) or _LEFT_OVER.search(prose):
        return False
    if any(sentence.count(a) != sentence.count(b) for a, b in ("()", "[]", "{}")):
        return False
    # What ends in a colon announces a list or a formula that is not there.
    return sentence.rstrip("\"')")[-1:] not in (":", ",", ";", "-")


def first_sentences(text: str, *, fits: Fits) -> str:
    """The longest run of leading whole sentences of the first paragraph that `fits`.

    Empty where not even the first sentence can be said or fits: nothing is cut mid-sentence.
    """
    kept = ""
    for sentence in sentences(text.partition("\n\n")[0]):
        candidate = as_sentence(f"{kept} {sentence}".strip())
        # A later sentence without its full stop goes on in a list or a formula.
        whole = ends_whole(sentence) or (not kept and not _DANGLING.search(sentence))
        points_elsewhere = kept and sentence.startswith(("See ", "Refer "))
        if not whole or points_elsewhere or not sayable(sentence) or not fits(candidate):
            break
        kept = candidate
    return kept


def ends_whole(sentence: str) -> bool:
    """Whether a sentence ends as sentences do."""
    return sentence.rstrip("\"')]")[-1:] in (".", "!", "?")


def as_sentence(text: str) -> str:
    """Capitalized, unless it starts with code, and ended by a full stop."""
    text = text.strip()
    if re.match(r"[a-z]+(?:[ ,.'-]|$)", text):
        text = text[0].upper() + text[1:]
    return text if ends_whole(text) else f"{text}."


def indentation(line: str) -> int:
    """How many spaces a line starts with."""
    return len(line) - len(line.lstrip())


def dedent_block(text: str) -> str:
    """A block of lines moved to the left margin, blank ends off."""
    return textwrap.dedent(text.expandtabs(4)).strip("\n")


def _plain_math(body: str) -> str:
    body = " ".join(body.split())
    return body if _PLAIN_MATH.fullmatch(body) else _UNSAYABLE


def _outside_code(text: str, change: Callable[[str], str]) -> str:
    """`change` applied to what stands between code spans; code keeps its dollars and links."""
    pieces = re.split(r"(``.+?``|`[^`\n]*`)", text, flags=re.DOTALL)
    return "".join(piece if i % 2 else change(piece) for i, piece in enumerate(pieces))


def _tidy(paragraph: str) -> str:
    return _outside_code(paragraph, _tidy_prose).strip()


def _tidy_prose(prose: str) -> str:
    """Closes the gaps that removed markup left."""
    prose = re.sub(r"(?<=[\w)])\s+([.,;:!?)](?![\w=]))", r"\1", prose)
    prose = re.sub(r"\s*\((?:see)?\s*\)", "", prose)
    return re.sub(r" {2,}", " ", prose)


def _opens(piece: str) -> bool:
    return piece.count("(") > piece.count(")")
