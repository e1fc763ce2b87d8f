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
    blocks = _split_sections(text)
    prose = "\n".join(body for kind, body in blocks if kind == "description")
    parameters: dict[str, str] = {}
    attributes: dict[str, str] = {}
    raises: dict[str, str] = {}
    returns = ""
    for kind, body in blocks:
        if kind == "parameters":
            parameters |= _items(body)
        elif kind == "attributes":
            attributes |= _items(body)
        elif kind == "raises":
            raises |= _items(body)
        elif kind == "returns":
            returns = returns or _returned(body)
    prose, fields = _take_fields(prose)
    parameters |= fields["parameters"]
    raises |= fields["raises"]
    returns = returns or fields["returns"].get("", "")
    sessions = sessions_of(text)
    paragraphs = _paragraphs(without_code(prose))
    return Docstring(
        text=text,
        summary=paragraphs[0] if paragraphs else "",
        description=tuple(paragraphs[1:]),
        parameters=parameters,
        attributes=attributes,
        returns=returns,
        raises=raises,
        examples=code_blocks(text, sessions),
        doctests=sessions,
    )


def _split_sections(text: str) -> list[tuple[str, str]]:
    """[(kind, body)] in order; a section ends where a line stands left of its body."""
    lines = text.splitlines()
    blocks: list[tuple[str, list[str]]] = [("description", [])]
    google_indent: int | None = None  # indentation of the open Google heading
    index = 0
    while index < len(lines):
        line = lines[index]
        following = lines[index + 1] if index + 1 < len(lines) else ""
        heading = _HEADING.match(line)
        name = line.strip().lower()
        if name in _SECTIONS and _UNDERLINE.match(following):
            blocks.append((_SECTIONS[name], []))
            google_indent = None
            index += 2
            continue
        if heading and heading["name"].lower() in _SECTIONS:
            blocks.append((_SECTIONS[heading["name"].lower()], []))
            google_indent = len(heading["indent"])
            index += 1
            continue
        if google_indent is not None and line.strip() and indentation(line) <= google_indent:
            # Keras and Flax write code after "Example:" at the heading's own indentation.
            fenced = blocks[-1][0] == "examples" and re.match(r" *(```|>>>)", line)
            inside = blocks[-1][0] == "examples" and _is_inside_fence(blocks[-1][1])
            if not fenced and not inside and not _continues_example(blocks[-1], lines[index - 1]):
                blocks.append(("description", [""]))
                google_indent = None
        blocks[-1][1].append(line)
        index += 1
    return [(kind, "\n".join(body)) for kind, body in blocks]


def _continues_example(block: tuple[str, list[str]], previous: str) -> bool:
    """Whether an unindented line still is a session's: its output or its next prompt."""
    kind, body = block
    return kind == "examples" and bool(previous.strip()) and any(">>>" in line for line in body)


def _is_inside_fence(body: list[str]) -> bool:
    return sum(line.lstrip().startswith("```") for line in body) % 2 == 1


def _items(body: str) -> dict[str, str]:
    """`name: text` (Google) or `name : type` over indented text (NumPy), as {name: text}."""
    items: dict[str, list[str]] = {}
    current: list[str] | None = None
    body = dedent_block(body)
    margin: int | None = None
    for line in body.splitlines():
        if not line.strip():
            if current is not None:
                current.append("")
            continue
        margin = indentation(line) if margin is None else margin
        if indentation(line) > margin:
            if current is not None:
                current.append(line)
            continue
        bare = line.strip().removeprefix("- ").removeprefix("* ")
        google = _GOOGLE_ITEM.match(bare)
        numpy = _NUMPY_ITEM.match(bare)
        # `x : array_like` is NumPy's when a space precedes the colon; its text is indented below.
        if numpy and (google is None or re.match(r"[^:(]*\s:", bare)):
            names, first = numpy["names"], ""
        elif google:
            names, first = google["names"], google["text"]
        else:
            current = None
            continue
        current = [first]
        for name in re.findall(r"[A-Za-z_]\w*", names):
            items[name] = current
    found = {}
    for name, block in items.items():
        rest = dedent_block("\n".join(block[1:]))
        if text := plain_text(without_code(f"{block[0]}\n{rest}")):
            found[name] = text
    return found


def _returned(body: str) -> str:
    """The text of a Returns section without its leading type."""
    body = dedent_block(body)
    lines = body.splitlines()
    if not lines:
        return ""
    if (
        len(lines) > 1
        and indentation(lines[0]) == 0
        and lines[1].strip()
        and indentation(lines[1]) > 0
    ):
        numpy = re.match(r"^(\w+ *: *.+|[\w.\[\], |]+)$", lines[0])
        if numpy and not lines[0].rstrip().endswith((".", ":")):
            rest = lines[1:]
            if any(line.strip() and not indentation(line) for line in rest):
                return ""  # several named results: no single sentence says them
            return plain_text(without_code(dedent_block("\n".join(rest))))
    return plain_text(without_code(body))


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
        listed = any(re.match(r" *([-*+•]|\d+[.)]) ", line) for line in lines)
        headed = len(lines) > 1 and _UNDERLINE.match(lines[1])
        if plain and not listed and not headed and not _SIGNATURE_LINE.fullmatch(plain):
            found.append(plain)
    return found
