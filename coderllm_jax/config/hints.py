"""What a name that does not exist was probably meant to be.

did_you_mean("lora.rnk", ["seed", "lora.rank"])      "; did you mean 'lora.rank'?"
did_you_mean("rank", ["seed", "lora.rank"])          "; did you mean 'lora.rank'?"
did_you_mean("lora", ["seed", "lora.rank"])          ", which is a section; set one of ..."
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable


def did_you_mean(
    name: str,
    known: Iterable[str],
    *,
    spell: Callable[[str], str] = str,
    default: str = "; --help lists every option",
) -> str:
    """The end of an error's line: the remedy for a name that is none of those known.

    `spell` turns a known name into what the user would write; `default` is said where nothing
    is near.
    """
    paths = list(known)
    inside = [path for path in paths if path.startswith(f"{name}.")]
    if inside:
        return f", which is a section; set one of its keys, such as '{spell(inside[0])}'"
    near = difflib.get_close_matches(name, paths, n=1, cutoff=0.7)
    # A key named without its section, or with the wrong one, is nearer than any other spelling.
    leaf = name.rpartition(".")[2]
    leaves = {path.rpartition(".")[2]: path for path in reversed(paths)}
    near = near or [leaves[key] for key in difflib.get_close_matches(leaf, leaves, n=1, cutoff=0.7)]
    if name and not near:
        near = [path for path in paths if path.startswith(name) or name.startswith(path)]
    return f"; did you mean '{spell(near[0])}'?" if near else default
