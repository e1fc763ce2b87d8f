"""A stream gives out the text that decoding at the end would, takes nothing back, and no stop."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coderllm_jax.data.tokenizer import ByteTokenizer
from coderllm_jax.generation.detokenize import TextStream

BYTES = ByteTokenizer()


def run(text: str, stops: tuple[str, ...] = ()) -> tuple[list[str], bool]:
    """What each token gave out, and whether a stop ended it."""
    stream, given_out = TextStream(BYTES, stops=stops), []
    for token in BYTES.encode(text):
        if stream.push(token):
            return [*given_out, stream.take(final=True)], True
        given_out.append(stream.take())
    return [*given_out, stream.take(final=True)], False


@settings(deadline=None)
@given(st.text(max_size=30))
def test_the_pieces_are_the_text(text):
    pieces, stopped = run(text)
    assert "".join(pieces) == text
    assert not stopped


@settings(deadline=None)
@given(st.text("ab\n", max_size=20), st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3))
def test_a_stop_cuts_where_it_first_begins(text, stops):
    pieces, stopped = run(text, tuple(stops))
    # The stop that is complete first decides; of several, the one that began first.
    ends = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    first_end = min(ends, default=(0, 0))[0]
    begins = [place for end, place in ends if end == first_end]
    assert "".join(pieces) == (text[: min(begins)] if ends else text)
    assert stopped == bool(ends)


def test_half_a_character_and_half_a_stop_are_held_back():
    stream = TextStream(BYTES, stops=("\n\n",))
    first, second = BYTES.encode("ä")
    assert not stream.push(first)
    assert stream.take() == ""
    stream.push(second)
    assert stream.take() == "ä"
    stream.push(BYTES.encode("\n")[0])
    assert stream.take() == ""
    stream.push(BYTES.encode("b")[0])
    assert stream.take() == "\nb"


@pytest.mark.parametrize("stops", [(), ("",)])
def test_no_stop_text_stops_nothing(stops):
    assert run("abc", stops) == (["a", "b", "c", ""], False)
