"""What looks like a credential leaves no text; ordinary code and prose do."""

from __future__ import annotations

import pytest

from coderllm_jax.serving.blotting import blot

# Put together here, so that no scanner takes this file for a leak.
KEYS = [
    "sk-" + "proj-4f9aB7cD2eF6gH8iJ0kL",
    "sk-" + "ant-api03-AbCdEfGhIjKlMnOp_q-r",
    "sk" + "_live_4eC39HqLyjWDarjtT1zdp7dc",
    "AIza" + "SyA1234567890abcdefghijklmnopqrstuv",
    "AKIA" + "IOSFODNN7EXAMPLE",
    "ghp" + "_16C7e42F292c6912E7710c838347Ae178B4a",
    "github" + "_pat_11ABCDEFG0123456789_abcdefghijklmnop",
    "glpat" + "-1234567890abcdefGHIJ",
    "xoxb" + "-1234567890-abcdefghij",
    "hf" + "_AbCdEfGhIjKlMnOpQrStUvWxYz",
    "npm" + "_abcdefghijklmnopqrstuvwxyz0123456789",
    "eyJhbGciOiJIUzI1NiJ9" + ".eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9P",
]
PEM = "-----BEGIN RSA " + "PRIVATE KEY-----\nMIIEow\nabc=\n-----END RSA " + "PRIVATE KEY-----"


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("around", ["{}", "use {}, please", "key={}\n", '"{}"', "({})", "a:{}"])
def test_keys_by_their_shape(key: str, around: str) -> None:
    said = blot(around.format(key))
    assert key not in said
    assert key[-8:] not in said
    assert "***" in said


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        (PEM, "MIIEow"),
        (PEM.partition("-----END")[0], "abc="),  # cut in its middle
        ("Authorization: Bearer abcdefghijkl123", "abcdefghijkl123"),
        ("postgres://user:hunter2pass@db:5432/x", "hunter2pass"),
        ("API_KEY = 'zxcvbnm1234'", "zxcvbnm1234"),
        ('{"password": "correct1horse"}', "correct1horse"),
        ("my token is q9w8e7r6t5", "q9w8e7r6t5"),
    ],
)
def test_secrets_by_what_stands_around_them(text: str, secret: str) -> None:
    assert secret not in blot(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "optax.scale_by_adam(b1=0.9, b2=0.999, eps=1e-8)",
        "def token_count(tokens): return len(tokens)",
        "key = jax.random.key(0); key, subkey = jax.random.split(key)",
        "the secret is practice",
        "https://optax.readthedocs.io/en/latest/api/losses.html#optax.losses",
        "skip-connections, risk-free, hf_hub_download, disk-encryption-and-backup",
        "password: str, token: TokenSequence",
    ],
)
def test_ordinary_text_stays(text: str) -> None:
    assert blot(text) == text


def test_what_this_process_knows_is_blotted_in_any_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVE_TOKEN", "canary no shape at all")
    assert blot("said: canary no shape at all.") == "said: ***."


def test_long_texts_take_no_longer_than_their_length() -> None:
    """Patterns that try every way to match would take minutes on these."""
    for text in ("a" * 200_000, "://" * 60_000, "key:" * 50_000, "eyJ" * 60_000, "sk-" * 60_000):
        assert blot(text)
