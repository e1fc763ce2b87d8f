"""A docstring's parts, whichever convention it follows: Google, NumPy, or reStructuredText fields.

    Scales gradients.                  summary
                                       description (paragraphs, plain text)
    Args:                              parameters {"b1": "Decay rate."}
      b1: Decay rate.
    Returns:                           returns "The transformation."
      The transformation.
    Examples:                          examples ("tx = scale(0.1)",), doctests [(source, want)]
      >>> tx = scale(0.1)

Text comes out plain (see `markup`); code comes out as it stands, prompts off. What belongs to no
known section is description. Nothing here knows what symbol a docstring is of.
"""

from __future__ import annotations

import dataclasses
import re
from typing import NamedTuple

from coderllm_jax.data.examples import Doctest, code_blocks, sessions_of, without_code
from coderllm_jax.data.markup import dedent_block, drop_directives, indentation, plain_text

_SECTIONS = {
    "args": "parameters",
    "arguments": "parameters",
    "call arguments": "other",
    "parameters": "parameters",
    "params": "parameters",
    "other parameters": "parameters",
    "keyword args": "parameters",
    "keyword arguments": "parameters",
    "attributes": "attributes",
    "fields": "attributes",
    "returns": "returns",
    "return": "returns",
    "yields": "yields",
    "raises": "raises",
    "example": "examples",
    "examples": "examples",
    "usage": "examples",
    "example usage": "examples",
    "usage example": "examples",
    "usage examples": "examples",
    "note": "other",
    "notes": "other",
    "warning": "other",
    "warnings": "other",
    "warns": "other",
    "references": "other",
    "reference": "other",
    "see also": "other",
    "todo": "other",
    "methods": "other",
    "input shape": "other",
    "output shape": "other",
    "call returns": "other",
    "receives": "other",
    "properties": "other",
    "formula": "other",
    "where": "other",
    "citation": "other",
    "caution": "other",
    "tip": "other",
    "details": "other",
}
_HEADING = re.compile(
    r"^(?P<indent> *)(?:#+ *)?(?:\*\*)?(?P<name>[A-Za-z][A-Za-z ]{2,20}?)(?:\*\*)?:{1,2} *$"
)
_UNDERLINE = re.compile(r"^ *(-{3,}|={3,}|~{3,}) *$")
_FIELD = re.compile(
    r"^:(?P<role>\w+)(?: (?P<name>[^:\n]*))?: *(?P<text>.*(?:\n(?:[ \t]+.*|\s*))*)", re.MULTILINE
)
_NAME = r"`{0,2}\*{0,2}[A-Za-z_]\w*`{0,2}"
_NAMES = rf"(?P<names>{_NAME}(?: *, *{_NAME})*)"
_GOOGLE_ITEM = re.compile(
    rf"^{_NAMES}(?: *\([^()\n]*(?:\([^()\n]*\)[^()\n]*)*\))? *: *(?P<text>.*)$"
)
_NUMPY_ITEM = re.compile(rf"^{_NAMES}(?: *:.*)?$")
_LISTED = re.compile(r" *([-*+•]|\d+[.)]) ")
_SIGNATURE_LINE = re.compile(r"[\w.]+\([^`]*\)(?: *-> *.+)?")


@dataclasses.dataclass(frozen=True, slots=True)
class Docstring:
    """The parts of one docstring; see the drawing at the top of this module."""

    text: str = ""
    summary: str = ""
    description: tuple[str, ...] = ()
    parameters: dict[str, str] = dataclasses.field(default_factory=dict)
    attributes: dict[str, str] = dataclasses.field(default_factory=dict)
    returns: str = ""
    raises: dict[str, str] = dataclasses.field(default_factory=dict)
    examples: tuple[str, ...] = ()
    doctests: tuple[tuple[Doctest, ...], ...] = ()


def prose_paragraphs(text: str) -> list[str]:
    """The plain paragraphs of a text: no code, no lists, no headings."""
    return _paragraphs(without_code(text))


def parse_docstring(text: str) -> Docstring:
    """The parts of a docstring as `ast.get_docstring` gives it (indentation already cleaned)."""
    text = text.expandtabs(4)
    items: dict[str, dict[str, str]] = {"parameters": {}, "attributes": {}, "raises": {}}
    prose: list[str] = []
    returns = ""
    for block in _split_sections(text):
        if block.kind in items:
            items[block.kind] |= _items(block)
        elif block.kind == "returns":
            returns = returns or _returned(block)
        elif block.kind == "description":
            prose += block.lines
    described, fields = _take_fields("\n".join(prose))
    sessions = sessions_of(text)
    paragraphs = _paragraphs(without_code(described))
    return Docstring(
        text=text,
        summary=paragraphs[0] if paragraphs else "",
        description=tuple(paragraphs[1:]),
        parameters=items["parameters"] | fields["parameters"],
        attributes=items["attributes"],
        returns=returns or fields["returns"].get("", ""),
        raises=items["raises"] | fields["raises"],
        examples=code_blocks(text, sessions),
        doctests=sessions,
    )


class _Block(NamedTuple):
    """The lines of one section. `underlined`: NumPy's way; `indent`: where its heading stands."""

    kind: str
    lines: list[str]
    underlined: bool = False
    indent: int = -1


def _split_sections(text: str) -> list[_Block]:
    """The sections in order. Google's ends where a line stands no further right than its name."""
    lines = text.splitlines()
    blocks = [_Block("description", [])]
    underline = -1
    for index, line in enumerate(lines):
        following = lines[index + 1] if index + 1 < len(lines) else ""
        name = line.strip().lower()
        heading = _HEADING.match(line) if line.rstrip().endswith(":") else None
        if index == underline:
            continue
        if name in _SECTIONS and _UNDERLINE.match(following):
            blocks.append(_Block(_SECTIONS[name], [], underlined=True))
            underline = index + 1
        elif heading and heading["name"].lower() in _SECTIONS:
            kind = _SECTIONS[heading["name"].lower()]
            blocks.append(_Block(kind, [], indent=len(heading["indent"])))
        else:
            at_margin = line.strip() and indentation(line) <= blocks[-1].indent
            if at_margin and not _continues_example(blocks[-1], line, previous=lines[index - 1]):
                blocks.append(_Block("description", [""]))
            blocks[-1].lines.append(line)
    return blocks


def _continues_example(block: _Block, line: str, *, previous: str) -> bool:
    """Whether a line at the margin still belongs to an example: Keras and Flax write them there."""
    if block.kind != "examples":
        return False
    fences = sum(line.lstrip().startswith("```") for line in block.lines)
    session = any(">>>" in line for line in block.lines) and previous.strip()
    return bool(fences % 2 or session or re.match(r" *(```|>>>)", line))


def _items(block: _Block) -> dict[str, str]:
    """`name: text` (Google) or `name : type` over indented text (NumPy), as {name: text}."""
    items: dict[str, list[str]] = {}
    current: list[str] = []
    margin: int | None = None
    for line in dedent_block("\n".join(block.lines)).splitlines():
        margin = indentation(line) if margin is None and line.strip() else margin
        if not line.strip() or indentation(line) > (margin or 0):
            current.append(line)
            continue
        bare = line.strip().removeprefix("- ").removeprefix("* ")
        item = (_NUMPY_ITEM if block.underlined else _GOOGLE_ITEM).match(bare)
        current = [] if item is None or block.underlined else [item["text"]]
        for name in re.findall(r"[A-Za-z_]\w*", item["names"]) if item else ():
            items[name] = current
    texts = {name: _item_text(lines) for name, lines in items.items()}
    return {name: text for name, text in texts.items() if text}


def _item_text(lines: list[str]) -> str:
    """An item's lines as plain text, up to the first list in them."""
    first, *rest = lines or [""]
    lines = [first, *dedent_block("\n".join(rest)).splitlines()]
    end = next((i for i, line in enumerate(lines) if _LISTED.match(line)), len(lines))
    return plain_text(without_code("\n".join(lines[:end])))


def _returned(block: _Block) -> str:
    """The text of a Returns section without its leading type."""
    lines = dedent_block("\n".join(block.lines)).splitlines()
    results = [line for line in lines if line.strip() and not indentation(line)]
    if not block.underlined or (len(lines) == 1 and " : " not in lines[0]):
        return _item_text(lines)
    if len(results) > 1:
        return ""  # several named results: no single sentence says them
    return _item_text(dedent_block("\n".join(lines[1:])).splitlines())


def _take_fields(prose: str) -> tuple[str, dict[str, dict[str, str]]]:
    """The prose without its reST fields (`:param x: ...`), and those fields."""
    found: dict[str, dict[str, str]] = {"parameters": {}, "returns": {}, "raises": {}}
    homes = {
        "param": "parameters",
        "parameter": "parameters",
        "arg": "parameters",
        "argument": "parameters",
        "keyword": "parameters",
        "return": "returns",
        "returns": "returns",
        "raise": "raises",
        "raises": "raises",
    }

    def take(match: re.Match[str]) -> str:
        home = homes.get(match["role"])
        if home is None and match["role"] not in ("type", "rtype", "yields", "ivar", "cvar"):
            return match[0]
        name = (match["name"] or "").split()[-1:] or [""]
        text = plain_text(without_code(dedent_block(match["text"])))
        if home and text and (name[0] or home == "returns"):
            found[home][name[0].lstrip("*") if home != "returns" else ""] = text
        return "\n"

    return _FIELD.sub(take, prose), found


def _paragraphs(prose: str) -> list[str]:
    """Plain paragraphs; those indented under a heading of their own or in lists stay apart."""
    found: list[str] = []
    for block in re.split(r"\n[ \t]*\n", drop_directives(prose)):
        plain = plain_text(block).strip()
        lines = block.strip("\n").splitlines()
        listed = any(_LISTED.match(line) for line in lines)
        headed = len(lines) > 1 and _UNDERLINE.match(lines[1])
        if plain and not listed and not headed and not _SIGNATURE_LINE.fullmatch(plain):
            found.append(plain)
    return found
