"""Names that an export takes from paths."""

from __future__ import annotations

import pytest

from coderllm_jax.config.export import safe_name


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("runs/a b/", "a-b"),
        ("hf://google/gemma-3-1b-it", "gemma-3-1b-it"),
        ("gemma3_270m-1.5", "gemma3_270m-1.5"),
        ("runs/naïve", "na-ve"),
        (".hidden", "hidden"),
        ("hf://org/..", "model"),
    ],
)
def test_a_name_is_safe_in_a_files_name(path, name):
    assert safe_name(path) == name
    assert safe_name(name) == name
