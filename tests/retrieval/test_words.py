"""Identifiers are names and made of words; nothing else changes what is looked up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coderllm_jax.retrieval.words import split_words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("optax.scale_by_adam", "optax scale adam scale_by_adam optax.scale_by_adam"),
        ("ScaleByAdamState(b1=0.9)", "scale adam state scalebyadamstate b 1 b1 0.9"),
        ("HTTPServer", "http server httpserver"),
        ("What does the Adam optimizer do?", "adam optimizer"),
        ("losses, classes, gradients, bus, analyses", "loss class gradient bus analyse"),
        ("policies", "policy"),
        ("__init__", "init __init__"),
        ("1e-3 or 2.5E4", "1e-3 2.5e4"),
        ("Größe der_Größe", "größe der größe der_größe"),
        ("", ""),
        ("… — !?", ""),
    ],
)
def test_words_by_hand(text, words):
    assert split_words(text).all == words.split()


def test_names_are_what_is_dotted_or_written_together():
    text = "Use `optax.clip` or ScaleByAdamState, clip_by_norm, Adam, b1 and x.y_z. End.Start"
    assert split_words(text).names == [
        *("optax.clip", "scalebyadamstate", "clip_by_norm", "y_z", "x.y_z", "end.start"),
    ]


@given(st.text())
def test_any_text_has_words_in_lower_case_without_spaces(text):
    words = split_words(text)
    assert all(word and word == word.lower() and not set(word) & set(" \n\t") for word in words.all)
    assert set(words.names) <= set(words.all)


def test_a_name_in_words_shares_them():
    named, spoken = split_words("scale_by_adam").all, split_words("scale by adam").all
    assert set(spoken) < set(named)
