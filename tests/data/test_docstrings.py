"""Docstrings of every convention give the same parts; markup leaves plain, whole sentences."""

from __future__ import annotations

import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coderllm_jax.data import markup
from coderllm_jax.data.docstrings import parse_docstring

GOOGLE = """
    Scales a value.

    More about it.

    Args:
      x: The value
        to scale.
      factor (float, optional): What to multiply
        with. One of:

        - 1.0
        - 2.0
      *args: More values.

    Returns:
      The scaled value.

    Raises:
      ValueError: If x is bad.

    Examples:
      >>> scale(2)
      4
"""
NUMPY = """
    Scales a value.

    More about it.

    Parameters
    ----------
    x : array_like
        The value
        to scale.
    factor : float, optional
        What to multiply
        with. One of:

        - 1.0
        - 2.0
    *args : int
        More values.

    Returns
    -------
    out : ndarray
        The scaled value.

    Raises
    ------
    ValueError
        If x is bad.

    Examples
    --------
    >>> scale(2)
    4
"""
REST = """
    Scales a value.

    More about it.

    :param x: The value
        to scale.
    :param float factor: What to multiply
        with. One of:

        - 1.0
        - 2.0
    :param args: More values.
    :returns: The scaled value.
    :raises ValueError: If x is bad.

    >>> scale(2)
    4
"""


@pytest.mark.parametrize("text", [GOOGLE, NUMPY, REST], ids=["google", "numpy", "rest"])
def test_conventions_agree(text):
    doc = parse_docstring(textwrap.dedent(text).strip())
    assert doc.summary == "Scales a value."
    assert doc.description == ("More about it.",)
    assert doc.parameters["x"] == "The value to scale."
    assert doc.parameters["factor"].startswith("What to multiply with.")
    assert doc.parameters["args"] == "More values."
    assert doc.returns == "The scaled value."
    assert doc.raises == {"ValueError": "If x is bad."}
    assert doc.examples == ("scale(2)  # 4",)
    assert doc.doctests == ((("scale(2)\n", "4\n"),),)


@pytest.mark.parametrize(
    ("text", "summary"),
    [
        ("f(x, y) -> int\n\nAdds.", "Adds."),
        ("Adds.\n\nExample::\n\n    f(1)\n\nMore.", "Adds."),
        (".. note::\n   Not this.\n\nAdds.", "Adds."),
        ("- one\n- two\n\nAdds.", "Adds."),
        ("", ""),
    ],
)
def test_the_summary_is_the_first_paragraph_of_prose(text, summary):
    assert parse_docstring(text).summary == summary


def test_code_of_every_kind_is_an_example_and_not_prose():
    doc = parse_docstring(
        "Adds.\n\n```python\na = f(1)\n```\n\nAnd::\n\n    b = f(2)\n\n"
        ".. code-block:: python\n\n    c = f(3)\n\nBut not:\n\n```bash\nls\n```\n"
    )
    assert doc.examples == ("a = f(1)", "b = f(2)", "c = f(3)")
    assert "f(" not in " ".join((doc.summary, *doc.description))


def test_named_results_of_numpy_have_no_single_sentence():
    text = "R.\n\nReturns\n-------\na : int\n    First.\nb : int\n    Second.\n"
    assert parse_docstring(text).returns == ""


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("See :func:`optax.adam` or :class:`~a.b.C`.", "See `optax.adam` or `C`."),
        ("Use ``x`` and `y`_ and [1]_ here.", "Use `x` and y and here."),
        ("A `text <https://x.org>`_ and [this](http://y.org/a_(b)).", "A text and this."),
        ("**Bold** and *soft* but 2*3*4 and *args.", "Bold and soft but 2*3*4 and *args."),
        ("Value :math:`x` holds.", "Value x holds."),
        ("`a != b` and f(x) , right ?", "`a != b` and f(x), right?"),
        ("Keeps ``()`` whole, and ``f()``.", "Keeps `()` whole, and `f()`."),
    ],
)
def test_inline_markup(text, plain):
    assert markup.plain_text(text) == plain


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("One thing. Another thing.", "One thing. Another thing."),
        ("One thing. Where :math:`\\alpha = 1` holds. More.", "One thing."),
        (
            "Uses e.g. Adam, i.e. Kingma et al. (2014). Good.",
            "Uses e.g. Adam, i.e. Kingma et al. (2014). Good.",
        ),
        ("lower case start", "Lower case start."),
        ("`code` starts", "`code` starts."),
        ("The values are:", ""),
        ("Is one of the", ""),
        ("Fine. See https://x.org for more.", "Fine."),
        ("Fine. See the guide.", "Fine."),
        ("Fine. It is shown in the example below.", "Fine."),
        ("Unbalanced (here. Then)", "Unbalanced (here. Then)."),
        ("Unbalanced (here.", ""),
        ("TODO write this.", ""),
    ],
)
def test_sentences_are_kept_whole_or_not_at_all(text, kept):
    assert markup.first_sentences(markup.plain_text(text), fits=lambda text: True) == kept


@given(
    st.lists(st.sampled_from(["One.", "Two is longer.", "Three? Yes!", "four `x.y`."]), max_size=5),
    st.integers(0, 60),
)
def test_what_fits_is_a_run_of_leading_sentences(parts, limit):
    text = " ".join(parts)
    kept = markup.first_sentences(text, fits=lambda text: len(text) <= limit)
    assert len(kept) <= limit
    whole = [markup.as_sentence(" ".join(markup.sentences(text)[:n])) for n in range(12)]
    assert kept == "" or kept in whole


@given(st.text(max_size=300))
def test_no_text_is_too_strange(text):
    doc = parse_docstring(text)
    kept = markup.first_sentences(doc.summary, fits=lambda text: True)
    assert not {"\n", "\x00"} & set(kept)
