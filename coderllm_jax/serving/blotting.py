"""Text on its way into a log or an error: known credentials, and whatever has the shape of one.

    blot("use sk-proj-4f9a…, not ghp_16C7e42F292c6912E7710c838347Ae178B4a")  →  "use ***, not ***"

`redaction` knows the values that this process can see. A client's prompt may hold somebody else's,
of which only the shape is known.

Covers: keys of OpenAI, Anthropic, Google, AWS, GitHub, GitLab, Slack, Hugging Face, Stripe, npm and
PyPI, JSON web tokens, bearer headers, private keys in PEM, passwords in URLs, and values that text
itself names a key, token, secret or password.
Does not cover: credentials without a known prefix or name, and any that were split or encoded.
"""

from __future__ import annotations

import re

from coderllm_jax.redaction import BLOT, redact

_SHAPES = (
    r"sk-[A-Za-z0-9_-]{16,}",
    r"(?:sk|pk|rk)_(?:live|test)_[A-Za-z0-9]{10,}",
    r"AIza[A-Za-z0-9_-]{30,}",
    r"ya29\.[A-Za-z0-9_-]{20,}",
    r"(?:AKIA|ASIA)[A-Z0-9]{16}",
    r"gh[opusr]_[A-Za-z0-9]{20,}",
    r"github_pat_[A-Za-z0-9_]{20,}",
    r"glpat-[A-Za-z0-9_-]{16,}",
    r"xox[abeoprs]-[A-Za-z0-9-]{10,}",
    r"hf_[A-Za-z0-9]{16,}",
    r"npm_[A-Za-z0-9]{30,}",
    r"pypi-[A-Za-z0-9_-]{30,}",
    r"eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*",
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
)
_SHAPE = re.compile(rf"(?<![A-Za-z0-9])(?:{'|'.join(_SHAPES)})")
_BEARER = re.compile(r"(?i)(\b(?:bearer|basic)\s+)[A-Za-z0-9._~+/=-]{12,}")
_IN_URL = re.compile(r"(?i)(\b[a-z][a-z0-9+.-]{1,20}://[^\s/:@]{0,80}:)[^\s/@]{1,200}(?=@)")
_NAMED = re.compile(
    r"(?i)((?:api[_-]?key|token|secret|passw(?:or)?d|credential)[\"']?\s{0,3}(?::|=|\bis\b)"
    r"\s{0,3}[\"']?)(?=[^\s\"']*\d)[^\s\"',;]{8,}"
)


def blot(text: str) -> str:
    """The text with `***` in the place of everything that is or looks like a credential."""
    text = _SHAPE.sub(BLOT, redact(text))
    for pattern in (_BEARER, _IN_URL, _NAMED):
        text = pattern.sub(rf"\g<1>{BLOT}", text)
    return text
