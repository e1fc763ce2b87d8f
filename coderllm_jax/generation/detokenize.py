r"""Tokens to text as they come: only what later tokens cannot change, and nothing past a stop.

tokens      pr   int   (   "   ▁h   <0xC3>   <0xA4>   "   )   \n   \n
given out   pr   int   (   "    h               ä     "   )
                                   ↑ half a character waits for the other half

stop "\n\n":  the first line break is held back until it is known not to begin the stop
"""

from __future__ import annotations

from coderllm_jax.data.tokenizer import Tokenizer

_UNFINISHED = "\ufffd"


class TextStream:
    """One answer's text."""

    def __init__(self, tokenizer: Tokenizer, *, stops: tuple[str, ...] = ()) -> None:
        self._tokenizer = tokenizer
        self._stops = tuple(stop for stop in stops if stop)
        self._ids: list[int] = []
        self._text = ""  # of all ids so far; its end may still change
        self._given = 0
        self._stopped_at: int | None = None

    def push(self, token: int) -> bool:
        """Takes the next token; returns whether a stop text is complete with it."""
        self._ids.append(token)
        self._text = self._tokenizer.decode(self._ids)
        # A stop may have begun before what is new, and be any of several.
        places = [
            place
            for stop in self._stops
            if (place := self._text.find(stop, max(0, self._given - len(stop) + 1))) >= 0
        ]
        self._stopped_at = min(places, default=None)
        return self._stopped_at is not None

    def take(self, *, final: bool = False) -> str:
        """The text that is certain by now and was not given out yet; at the end, all the rest."""
        end = len(self._text)
        if self._stopped_at is not None:
            end = self._stopped_at
        elif not final:
            end = len(self._text.rstrip(_UNFINISHED))
            end -= max((_overlap(self._text[:end], stop) for stop in self._stops), default=0)
        piece = self._text[self._given : max(end, self._given)]
        self._given += len(piece)
        return piece


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of `text` could be the beginning of `stop`."""
    for length in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
