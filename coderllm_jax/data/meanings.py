"""What an argument means, in a sentence or two that end with its default.

    "optional momentum. Defaults to 0.9."  +  momentum=0.9   →
    "Optional momentum. The default is `0.9`."

Docstrings say defaults in a dozen ways, or not at all; the signature says them exactly. So what
the docstring says about the default is taken out and said once, in one form.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from coderllm_jax.data.markup import Fits, first_sentences, sentences
from coderllm_jax.data.signatures import NO_VALUE, Parameter

# "Defaults to `0.5`." and its variants, with the value; longer sentences explain and are kept.
_DEFAULT_SENTENCE = re.compile(
    r"(?:\(?optional\)?[.,;:]? *)?(?:the )?(?:by )?(?:defaults?)(?: value)?(?: is| to|:|=| ?,)* *"
    r"(?P<value>(?:\S+|`[^`]+`|[\"'][^\"']*[\"'])(?: \S+){0,2})\.?"
    r"|(?P<first>`?\S+`?) (?:by|is the) default\.?",
    re.IGNORECASE,
)
# "(default: 0.5)" and ", defaults to 0.5" within a sentence.
_DEFAULT_REMARK = re.compile(
    r"\s*[(\[](?:the )?[Dd]efaults?(?: value)?(?: is| to|:|=)? ?(?P<inside>[^()\[\]]*)[)\]]"
    r"|(?<=[\w`)]),? defaults? (?:is|to) (?P<after>\S+?)(?=[.]?(?:$|\s))"
)
_OPTIONAL = re.compile(r"^(?:\(optional\)[.:,]?|optional[.:,])\s+", re.IGNORECASE)
# "Bool, optional." before the sentence that says something.
_TYPE_WORDS = (
    r"bool(?:ean)?|int(?:eger)?|float|str(?:ing)?|list|tuple|dict(?:ionary)?|callable|function"
    r"|scalar|sequence|array(?:[_-]?like)?|ndarray|tensor"
)
_BARE_TYPE = re.compile(
    rf"(?:an? |the )?(?:python )?(?:{_TYPE_WORDS})s?(?:(?: or |/|, )(?:None|[a-z_]+))*"
    r"(?:, (?:optional|default=?\S*))?\.",
    re.IGNORECASE,
)
_EMPTY = re.compile(
    r"deprecated\b|not used\b|unused\b|ignored\b|[\w\s,|]*\boptional\.$|see (?:above|below)",
    re.IGNORECASE,
)


class Meaning(NamedTuple):
    """The sentences, and the default where they tell one. Both empty where there is no meaning."""

    text: str
    default: str


def argument_meaning(text: str, parameter: Parameter | None, *, fits: Fits) -> Meaning:
    """The meaning of an argument from its docstring's text (plain) and its parameter.

    Where the docstring names another default than the signature (`None` that stands for 0.5),
    the docstring's is told: it is what a caller gets.
    """
    default = parameter.default if parameter is not None else None
    default = None if default == NO_VALUE else default
    text = text.partition("\n\n")[0]
    told = [remark["inside"] or remark["after"] for remark in _DEFAULT_REMARK.finditer(text)]
    kept = []
    for sentence in sentences(_OPTIONAL.sub("", _DEFAULT_REMARK.sub("", text))):
        match = _DEFAULT_SENTENCE.fullmatch(sentence)
        if match is None:
            kept.append(sentence)
        else:
            told.append(match["value"] or match["first"])
    values = [value for value in (_bare(value) for value in told) if value]
    if default == "None" and values:
        default = values[-1]
    if len(kept) > 1 and _BARE_TYPE.fullmatch(kept[0]):
        kept.pop(0)
    explained = re.search(r"\bdefault", " ".join(kept), re.IGNORECASE)
    tail = "" if default is None or explained else f" The default is `{default}`."
    meaning = first_sentences(" ".join(kept), fits=lambda t: fits(t + tail))
    if len(re.findall(r"\w+", meaning)) < 2 or _EMPTY.match(meaning):
        return Meaning("", "")
    return Meaning(meaning + tail, default if tail and default else "")


def _bare(value: str | None) -> str:
    """A told default without its marks; empty where it is a description instead of a value."""
    value = (value or "").strip().strip("`.")
    return "" if " " in value else value
