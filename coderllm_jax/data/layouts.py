"""Row layouts: one row, as users write them, becomes one Example.

    qa         {"question": ..., "answer": ...}             and source, symbol, kind, license
    alpaca     {"instruction": ..., "input": ..., "output": ...}
    sharegpt   {"conversations": [{"from": "human", "value": ...}, {"from": "gpt", "value": ...}]}
    messages   {"messages": [{"role": "user", "content": ...}, {"role": "assistant", ...}]}

Owns keys, types, roles and turn order of a row. Does not know files: a DataError from here says
what is wrong with the row and what to change; `sources` says where the row is.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from coderllm_jax.data.prompts import turn_problem
from coderllm_jax.errors import DataError
from coderllm_jax.records import Example, Role, Turn

# In the order in which they are tried on a row.
REQUIRED_KEYS: dict[str, tuple[str, ...]] = {
    "qa": ("question", "answer"),
    "alpaca": ("instruction", "output"),
    "messages": ("messages",),
    "sharegpt": ("conversations",),
}
_ORIGIN_KEYS = ("source", "symbol", "kind", "license")


class _TurnLayout(NamedTuple):
    turns: str
    role: str
    content: str
    roles: Mapping[str, Role]


_TURN_LAYOUTS = {
    "messages": _TurnLayout(
        "messages",
        "role",
        "content",
        {
            "system": "system",
            "developer": "system",
            "user": "user",
            "assistant": "model",
            "model": "model",
        },
    ),
    "sharegpt": _TurnLayout(
        "conversations",
        "from",
        "value",
        {
            "system": "system",
            "human": "user",
            "user": "user",
            "gpt": "model",
            "assistant": "model",
            "model": "model",
        },
    ),
}


def detect_layout(row: Mapping[str, Any]) -> str:
    """The layout whose keys the row has, whole or in part; DataError where it has none of any."""
    for found in (all, any):
        for layout, keys in REQUIRED_KEYS.items():
            if found(key in row for key in keys):
                return layout
    expected = "; ".join(f"{', '.join(keys)} ({name})" for name, keys in REQUIRED_KEYS.items())
    known = [key for keys in REQUIRED_KEYS.values() for key in keys]
    hints = [
        f"'{close[0]}' for '{key}'"
        for key in row
        if (close := difflib.get_close_matches(str(key), known, n=1, cutoff=0.75))
    ]
    hint = f"; did you mean {', '.join(hints)}?" if hints else "; rename the row's keys"
    raise DataError(f"the row has {_keys(row)}; expected {expected}{hint}")


def parse_row(row: Mapping[str, Any], layout: str, *, allow_empty: bool = False) -> Example:
    """The row as an Example; raises DataError with the finding, what is expected and the remedy."""
    _check_keys(row, layout)
    if layout == "qa":
        turns = _question_and_answer(row, "question", "answer", allow_empty=allow_empty)
    elif layout == "alpaca":
        turns = _question_and_answer(row, "instruction", "output", allow_empty=allow_empty)
        given = _text(row.get("input") or "", "'input'").strip()
        if given:
            turns = (Turn("user", f"{turns[0].content}\n\n{given}"), turns[1])
    else:
        turns = _conversation(row, _TURN_LAYOUTS[layout], allow_empty=allow_empty)
    origin = {key: _text(row.get(key) or "", f"'{key}'") for key in _ORIGIN_KEYS}
    return Example(turns, **origin)


def _check_keys(row: Mapping[str, Any], layout: str) -> None:
    missing = [key for key in REQUIRED_KEYS[layout] if key not in row]
    if not missing:
        return
    found = f"'{missing[0]}' is missing; the row has {_keys(row)}"
    other = next(
        (name for name, keys in REQUIRED_KEYS.items() if all(key in row for key in keys)), None
    )
    if other:
        raise DataError(
            f"{found}; expected {layout} rows; set data.format={other} or keep one layout in a file"
        )
    near = difflib.get_close_matches(missing[0], [str(key) for key in row], n=1)
    remedy = f"did you mean it by '{near[0]}'?" if near else "add it or drop the row"
    raise DataError(f"{found}; {remedy}")


def _question_and_answer(
    row: Mapping[str, Any], question_key: str, answer_key: str, *, allow_empty: bool
) -> tuple[Turn, ...]:
    question = _text(row[question_key], f"'{question_key}'")
    answer = _text(row[answer_key], f"'{answer_key}'")
    _check_filled(question, f"'{question_key}'", role="user", allow_empty=allow_empty)
    _check_filled(answer, f"'{answer_key}'", role="model", allow_empty=allow_empty)
    return (Turn("user", question), Turn("model", answer))


def _conversation(
    row: Mapping[str, Any], layout: _TurnLayout, *, allow_empty: bool
) -> tuple[Turn, ...]:
    listed = row[layout.turns]
    if not isinstance(listed, list) or not listed:
        raise DataError(
            f"'{layout.turns}' is {_shown(listed)}; expected a list of objects "
            f"with {layout.role} and {layout.content}"
        )
    turns = []
    for index, entry in enumerate(listed):
        where = f"{layout.turns}[{index}]"
        if not isinstance(entry, Mapping):
            raise DataError(
                f"{where} is {_shown(entry)}; expected an object "
                f"with {layout.role} and {layout.content}"
            )
        for key in (layout.role, layout.content):
            if key not in entry:
                raise DataError(
                    f"{where} has {_keys(entry)}; expected {layout.role} and {layout.content}"
                    f"{_other_turn_layout(entry, layout)}"
                )
        role = _role(entry[layout.role], f"{where}.{layout.role}", layout.roles)
        content = _text(_joined_parts(entry[layout.content]), f"{where}.{layout.content}")
        _check_filled(content, f"{where}.{layout.content}", role=role, allow_empty=allow_empty)
        turns.append(Turn(role, content))
    problem = turn_problem(turns, last="model")
    if problem:
        raise DataError(problem)
    return tuple(turns)


def _other_turn_layout(entry: Mapping[str, Any], layout: _TurnLayout) -> str:
    for other in _TURN_LAYOUTS.values():
        if other is not layout and other.role in entry and other.content in entry:
            return f"; rename '{layout.turns}' to '{other.turns}' to use these keys"
    return "; add the missing key"


def _role(value: Any, where: str, roles: Mapping[str, Role]) -> Role:
    name = _text(value, where)
    if name in roles:
        return roles[name]
    near = difflib.get_close_matches(name.lower(), roles, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else "; rename it or drop the row"
    raise DataError(f"{where} is '{name}'; expected one of {', '.join(roles)}{hint}")


def _joined_parts(content: Any) -> Any:
    """Content given as a list of text parts, as chat APIs allow it, becomes one text."""
    if not isinstance(content, list):
        return content
    texts = []
    for part in content:
        if not isinstance(part, Mapping) or part.get("type") != "text" or "text" not in part:
            raise DataError(
                f"content has the part {_shown(part)}; expected text parts only; drop the row"
            )
        texts.append(_text(part["text"], "a content part's 'text'"))
    return "".join(texts)


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{where} is {_shown(value)}; expected a string; quote it or drop the row")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise DataError(
            f"{where} contains half of a surrogate pair (\\ud800 to \\udfff); "
            f"expected Unicode text; write the character in full or drop the row"
        ) from None
    return value


def _check_filled(text: str, where: str, *, role: Role, allow_empty: bool) -> None:
    if text.strip():
        return
    if role != "model":
        raise DataError(f"{where} is empty; drop the row or fill it in")
    if not allow_empty:
        raise DataError(f"{where} is empty; drop the row or set data.allow_empty=True")


def _keys(row: Iterable[object]) -> str:
    keys = [str(key) for key in row]
    if not keys:
        return "no keys"
    shown = ", ".join(f"'{key}'" for key in keys[:8])
    return f"the keys {shown}" + (", ..." if len(keys) > 8 else "")


def _shown(value: Any) -> str:
    text = repr(value)
    if len(text) > 40:
        text = f"{text[:37]}..."
    return f"{text} ({type(value).__name__})"
