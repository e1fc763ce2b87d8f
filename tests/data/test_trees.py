"""Where source lies, and under which licence."""

from __future__ import annotations

import pytest

from coderllm_jax.data import trees
from coderllm_jax.errors import DataError
from tests.data.sources import write_package


def test_an_installed_distribution():
    tree = trees.installed_tree("optax")
    assert tree.source == f"optax {tree.version}"
    assert tree.license == "Apache-2.0"
    assert tree.modules["optax"].name == "__init__.py"
    assert not any("test" in name.rpartition(".")[2] for name in tree.modules)


def test_a_package_that_is_missing():
    with pytest.raises(DataError, match="'no-such-thing' is not installed; install it"):
        trees.installed_tree("no-such-thing")


def test_the_standard_library_without_its_tests():
    tree = trees.standard_library_tree()
    assert {"textwrap", "json", "json.decoder", "asyncio.events"} <= set(tree.modules)
    assert not {"idlelib.run", "this", "antigravity", "test.support"} & set(tree.modules)
    assert not any(name.startswith("site-packages") for name in tree.modules)


@pytest.mark.parametrize("layout", ["", "src/"])
def test_a_folder_in_either_layout(tmp_path, layout):
    write_package(
        tmp_path / "project", {f"{layout}pack/__init__.py": "x = 1", f"{layout}pack/a.py": ""}
    )
    (tmp_path / "project/LICENSE.txt").write_text("Apache License\nVersion 2.0")
    tree = trees.folder_tree(tmp_path / "project")
    assert list(tree.modules) == ["pack", "pack.a"]
    assert (tree.name, tree.license) == ("project", "Apache-2.0")


def test_the_folder_of_the_package_itself(tmp_path):
    write_package(tmp_path, {"pack/__init__.py": "", "pack/a.py": "", "neighbour.py": ""})
    assert list(trees.folder_tree(tmp_path / "pack").modules) == ["pack", "pack.a"]


def test_folders_that_are_no_source_tree(tmp_path):
    with pytest.raises(DataError, match="no Python files"):
        trees.folder_tree(tmp_path)
    with pytest.raises(DataError, match="is not a folder"):
        trees.folder_tree(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("expression", "text", "classifiers", "expected"),
    [
        ("MIT OR Apache-2.0", "", [], "MIT OR Apache-2.0"),
        ("", "Apache License\n  Version 2.0\n...", [], "Apache-2.0"),
        ("", "", ["Apache Software License"], "Apache-2.0"),
        ("", "BSD-3-Clause", [], "BSD-3-Clause"),
        ("", "Copyright 2020 by many people\nAll rights reserved", [], "unknown"),
        ("", "", [], "unknown"),
    ],
)
def test_declared_licences(expression, text, classifiers, expected):
    assert trees.license_identifier(expression, text, classifiers) == expected
