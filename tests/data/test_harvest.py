"""What a source tree offers: one symbol an object, under its public name, without importing it."""

from __future__ import annotations

import importlib
import inspect
import operator
import re

import pytest

from coderllm_jax.data import harvest, trees
from coderllm_jax.errors import DataError
from tests.data.sources import write_package


@pytest.fixture
def toy(tmp_path):
    return trees.folder_tree(write_package(tmp_path / "project"))


def symbols(tree, **options):
    return {symbol.name: symbol for symbol in harvest.harvest_tree(tree, **options).symbols}


def test_one_object_is_one_symbol_however_many_names_it_has(toy):
    found = symbols(toy)
    assert found["toy.scale"].origin == "toy._src.scaling:scale"
    assert "toy.rescale" in found["toy.scale"].aliases
    assert "toy.rescale" not in found
    assert found["toy.double"].aliases == ("toy.extras.twice",)
    origins = [symbol.origin for symbol in found.values()]
    assert len(origins) == len(set(origins))


def test_aliases_of_a_class_are_aliases_of_its_methods(tmp_path):
    write_package(
        tmp_path,
        {
            "pack/__init__.py": "from pack._core import Thing as Thing, Thing as Other\n",
            "pack/_core.py": '''
                class Thing:
                    """Holds one thing that other code gave to it before."""
                    def open(self):
                        """Opens the thing that this object holds."""
            ''',
        },
    )
    found = symbols(trees.folder_tree(tmp_path / "pack"))
    assert found["pack.Thing.open"].aliases == ("pack.Other.open",)


def test_only_public_names(toy):
    names = set(symbols(toy))
    assert {"toy", "toy.extras", "toy.Scaler", "toy.Scaler.apply", "toy.Scaler.factor"} <= names
    assert not any(re.search(r"hidden|_private|unlisted|_src|\.os\b|\._", name) for name in names)


def test_nothing_is_imported(toy):
    assert "toy.explodes.survives" in symbols(toy)


def test_tests_templates_and_deprecated_things_stay_out(toy):
    result = harvest.harvest_tree(toy)
    assert not any("extras_test" in symbol.name for symbol in result.symbols)
    assert "toy.extras.old" not in {symbol.name for symbol in result.symbols}
    assert result.dropped["deprecated"] == 1


def test_excluded_modules_are_not_even_read(toy, tmp_path):
    (tmp_path / "project/toy/broken.py").write_text("def f(:\n")
    tree = trees.folder_tree(tmp_path / "project")
    with pytest.raises(DataError, match=r"broken.py:1: not Python"):
        harvest.harvest_tree(tree)
    names = symbols(tree, exclude=("toy.broken", "toy.extras"))
    assert "toy.scale" in names
    assert not any(name.startswith("toy.extras") for name in names)


def test_signatures(toy):
    found = symbols(toy)
    scale = found["toy.scale"]
    assert scale.signature == "toy.scale(value, factor=2.0, *, offset=<no value>, **rest)"
    assert found["toy.Scaler"].signature == "toy.Scaler(factor, name='scaler')"
    assert found["toy.Scaler.apply"].signature == "Scaler.apply(values, /, start=0)"
    assert found["toy.Scaler.parse"].signature == "Scaler.parse(text)"
    assert found["toy.Scaler.factor"].signature == ""
    point = found["toy.extras.Point"]
    assert point.signature == "toy.extras.Point(x, y=0.0, label='none')"


def test_a_class_is_documented_by_its_constructor_too(toy):
    assert set(symbols(toy)["toy.Scaler"].doc.parameters) == {"factor", "name"}


def test_a_body_stands_alone_or_is_not_offered(toy):
    found = symbols(toy)
    assert found["toy.double"].body == "def twice(x):\n    return x + x"
    assert found["toy.scale"].body == ""  # its default is a private name
    namespace: dict = {}
    exec(found["toy.double"].body, namespace)
    assert namespace["twice"](4) == 8


def test_names_for_type_checkers_alone_are_not_names(tmp_path):
    write_package(
        tmp_path,
        {
            "typed/__init__.py": """
                import typing
                if typing.TYPE_CHECKING:
                    from typed._core import gone as gone
                else:
                    from typed._core import here as here
            """,
            "typed/_core.py": """
                def gone():
                    \"\"\"Left the top level of this package long ago.\"\"\"
                def here():
                    \"\"\"Still is at the top level of this package.\"\"\"
            """,
        },
    )
    assert set(symbols(trees.folder_tree(tmp_path / "typed"))) == {"typed.here"}


def test_circular_imports_end(tmp_path):
    write_package(
        tmp_path,
        {
            "loop/__init__.py": "from loop.a import x as x\nfrom loop.b import *\n",
            "loop/a.py": "from loop.b import x as x\nfrom loop.b import *\n",
            "loop/b.py": "from loop.a import x as x\nfrom loop.a import *\ny = y\nz = z.w\n",
        },
    )
    assert symbols(trees.folder_tree(tmp_path / "loop")) == {}


@pytest.mark.parametrize("module_name", ["textwrap", "shutil", "statistics", "fractions"])
def test_parameters_are_those_that_inspect_sees(module_name):
    tree = trees.standard_library_tree()
    tree = trees.SourceTree("x", "", "", {module_name: tree.modules[module_name]})
    module = importlib.import_module(module_name)
    compared = 0
    for symbol in symbols(tree).values():
        target = getattr(module, symbol.short_name, None)
        if symbol.kind == "function" and inspect.isfunction(target):
            names = [p.name.lstrip("*") for p in symbol.parameters if p.name not in ("*", "/")]
            assert names == list(inspect.signature(target).parameters)
            compared += 1
    assert compared or module_name == "fractions"


def test_names_of_a_real_library_are_names_of_the_same_object():
    found = symbols(trees.installed_tree("optax"))
    assert found["optax.scale_by_adam"].origin == "optax._src.transform:scale_by_adam"
    importlib.import_module("optax")
    checked = 0
    for symbol in found.values():
        if symbol.kind in ("function", "class") and symbol.name.count(".") < 3:
            package, _, path = symbol.name.partition(".")
            target = operator.attrgetter(path)(importlib.import_module(package))
            assert inspect.getdoc(target).split() == inspect.cleandoc(symbol.doc.text).split()
            for alias in symbol.aliases:
                assert (
                    operator.attrgetter(alias.partition(".")[2])(importlib.import_module(package))
                    is target
                )
            checked += 1
    assert checked > 200
