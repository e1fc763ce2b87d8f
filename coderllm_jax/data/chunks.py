"""Passages for retrieval: what a symbol's documentation says, in pieces of bounded length.

    id      optax.adam#0
    text    optax.adam(learning_rate, b1=0.9, ...)        every piece opens with its header,
                                                          so that no piece is anonymous
            The Adam optimizer. Adam is an SGD variant ...

Two scopes. `documentation`: the whole docstring or section. `trained`: only the statements that
training rows ask for, said once each: then retrieval and the trained model know the same, and a
comparison of the two is fair. Pieces end at paragraphs, else at lines, sentences, words.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from coderllm_jax.data.markup import sentences
from coderllm_jax.data.statements import Statement
from coderllm_jax.data.tokens import TokenCounter
from coderllm_jax.records import Chunk

# The order in which a chunk of scope `trained` says what it knows, and the headings it uses.
_PARTS = (
    ("", ("purpose", "module", "which", "document")),
    ("Arguments:", ("argument",)),
    ("Attributes:", ("attribute",)),
    ("", ("returns",)),
    ("", ("raises",)),
    ("", ("example",)),
    ("", ("implementation",)),
)


def documentation_chunks(
    text: str,
    *,
    symbol: str,
    header: str,
    source: str,
    license: str,
    limit: int,
    count: TokenCounter,
) -> list[Chunk]:
    """The pieces of a text, each with `header` before it and at most `limit` tokens long."""
    if count(header) > limit // 2:
        header = symbol
    room = limit - count(header) - 1
    pieces = split_text(text, limit=room, count=count)
    return [
        Chunk(f"{symbol}#{number}", f"{header}\n{piece}", source, symbol, license)
        for number, piece in enumerate(pieces)
    ]


def statement_chunks(
    statements: Sequence[Statement], *, limit: int, count: TokenCounter
) -> list[Chunk]:
    """Everything that these statements about one symbol say, once each."""
    first = statements[0]
    signature = next((s.passage for s in statements if s.kind == "signature"), "")
    blocks = []
    for heading, kinds in _PARTS:
        passages = list(dict.fromkeys(s.passage for s in statements if s.kind in kinds))
        if "purpose" in kinds:  # a description that opens another one is said already
            passages = [
                p for p in passages if not any(q != p and q.startswith(p) for q in passages)
            ]
        if passages and heading:
            passages = [heading, *(f"  {passage}" for passage in passages)]
        if passages:
            blocks.append("\n".join(passages))
    return documentation_chunks(
        "\n\n".join(blocks) or signature or first.symbol,
        symbol=first.symbol,
        header=f"{first.symbol}\n{signature}"
        if _differs(first.symbol, signature)
        else signature or first.symbol,
        source=first.source,
        license=first.license,
        limit=limit,
        count=count,
    )


def _differs(symbol: str, signature: str) -> bool:
    return bool(signature) and not signature.startswith(symbol)


def split_text(text: str, *, limit: int, count: TokenCounter) -> list[str]:
    """Pieces of at most `limit` tokens that, joined, are the text; never cut inside a word.

    A single word longer than the limit is left out: it is data, not language.
    """
    return _pack(_units(text.strip(), limit, count, _SPLITTERS), limit, count)


Splitter = tuple[str, Callable[[str], Iterable[str]]]

_SPLITTERS: tuple[Splitter, ...] = (
    ("\n\n", lambda text: re.split(r"\n[ \t]*\n", text)),
    ("\n", str.splitlines),
    (" ", sentences),
    (" ", str.split),
)


def _units(
    text: str, limit: int, count: TokenCounter, splitters: Sequence[Splitter]
) -> list[tuple[str, str]]:
    """(separator before, text) of pieces that fit, split no finer than needed."""
    if not text.strip():
        return []
    if count(text) <= limit:
        return [("\n\n", text.strip("\n"))]
    if not splitters:
        return []
    separator, split = splitters[0]
    units: list[tuple[str, str]] = []
    for part in split(text):
        inner = _units(part, limit, count, splitters[1:])
        units += [(separator, inner[0][1]), *inner[1:]] if inner else []
    return units


def _pack(units: list[tuple[str, str]], limit: int, count: TokenCounter) -> list[str]:
    pieces: list[str] = []
    for separator, unit in units:
        joined = f"{pieces[-1]}{separator}{unit}" if pieces else unit
        if pieces and count(joined) <= limit:
            pieces[-1] = joined
        else:
            pieces.append(unit)
    return pieces
