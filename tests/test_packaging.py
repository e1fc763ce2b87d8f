"""The package as others meet it: its names, its cost to import, its dependencies, its cards."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import os
import pkgutil
import re
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import coderllm_jax
from coderllm_jax import config, entry
from coderllm_jax.config.schema import Config

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "coderllm_jax"
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
ENTRIES = sorted(
    path.stem for path in PACKAGE.glob("*.py") if "entry.run(" in path.read_text().split("def ")[-1]
)
CARDS = sorted((ROOT / "configs").glob("*.py"))
LOCKS = sorted((ROOT / "requirements").glob("*.lock"))
CORE = ("config", "data", "errors", "generation", "model", "records", "training")
HEAVY = {"clu", "flax", "grain", "jax", "keras", "keras_hub", "numpy", "optax", "orbax"} | {
    "tensorflow",
    "torch",
}


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


# ---------------------------------------------------------------------------------- names


def test_exported_names():
    # A name that goes or comes is a change for users: CHANGELOG.md, then this list.
    assert sorted(coderllm_jax.__all__) == [
        "ComparisonConfig",
        "ComparisonResult",
        "EvaluationConfig",
        "EvaluationResult",
        "ExportConfig",
        "ExportResult",
        "ServingConfig",
        "TrainingConfig",
        "TrainingResult",
        "__version__",
        "evaluate_model",
        "export_model",
        "run_comparison",
        "train_model",
    ]
    assert set(coderllm_jax.__all__) <= set(dir(coderllm_jax))
    for name in coderllm_jax.__all__:
        assert getattr(coderllm_jax, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'train_modle'"):
        _ = coderllm_jax.train_modle


def test_import_costs_nothing_heavy():
    done = run_python(
        f"""
        import sys, coderllm_jax, coderllm_jax.config, coderllm_jax.records, coderllm_jax.errors
        print(sorted({HEAVY!r} & set(sys.modules)))
        """
    )
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


# --------------------------------------------------------------------------------- --help


@pytest.mark.parametrize("name", ENTRIES)
def test_help_is_quick_and_complete(name):
    seconds, done = min(
        (help_of(name) for _ in range(2)), key=lambda timed: timed[0]
    )  # the better of two: other work on the machine is not ours
    assert done.returncode == 0, done.stderr
    assert seconds < 2.0
    assert "--config" in done.stdout
    imported = set(re.findall(r"\|\s+([\w]+)", done.stderr))
    assert "absl" in imported, "importtime's format changed: this test sees nothing"
    assert not (imported & HEAVY)


def help_of(name: str) -> tuple[float, subprocess.CompletedProcess[str]]:
    """`--help` and the processor seconds it took, which other work on the machine cannot raise."""
    before = os.times()
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", f"coderllm_jax.{name}", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    after = os.times()
    spent = after.children_user + after.children_system
    return spent - before.children_user - before.children_system, done


def test_entries_are_found():
    assert {"prepare", "train"} <= set(ENTRIES)


# ---------------------------------------------------------------------------------- cards


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.stem)
def test_card_loads_and_validates(card):
    values = entry.load_card(str(card))
    kinds = [kind for kind in config_classes() if set(kind.create_default()) == set(values)]
    assert len(kinds) == 1, f"{card.name} fits {kinds}"
    frozen = kinds[0].from_config_dict(values)
    assert kinds[0].from_config_dict(frozen.to_dict()) == frozen
    assert "Run " in ast.get_docstring(ast.parse(card.read_text())), "a card says how it is run"


def config_classes() -> list[type[Config]]:
    for module in pkgutil.iter_modules(config.__path__, "coderllm_jax.config."):
        importlib.import_module(module.name)
    return Config.__subclasses__()


def test_default_cards_are_there():
    assert {"data.py", "lora.py"} <= {card.name for card in CARDS}


# ----------------------------------------------------------------------------------- core


def test_core_works_without_tensorflow_and_torch(tmp_path):
    done = run_python(
        f"""
        import importlib, pkgutil, sys

        class Blocked:
            names = {{"clu", "tensorflow", "tensorflow_datasets", "tensorflow_text", "torch"}}

            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] in self.names:
                    raise ImportError(name + " is blocked")

        sys.meta_path.insert(0, Blocked())

        import coderllm_jax
        for layer in {CORE!r}:
            package = importlib.import_module("coderllm_jax." + layer)
            for found in pkgutil.walk_packages(getattr(package, "__path__", []), layer + "."):
                importlib.import_module("coderllm_jax." + found.name)

        from coderllm_jax.model.load import load_model
        model = load_model("tiny", dtype="float32", cache_dir={str(tmp_path)!r})
        assert model.tokenizer.encode("def f(x): return x")
        assert not Blocked.names & set(sys.modules)
        print("done")
        """,
        JAX_PLATFORMS="cpu",
        KERAS_BACKEND="jax",
    )
    assert done.stdout.strip() == "done", done.stderr


# --------------------------------------------------------------------------- dependencies


def declared(*extras: str) -> dict[str, Requirement]:
    """Requirements of pyproject.toml by canonical name: the base ones and those of `extras`."""
    lines = list(PYPROJECT["project"]["dependencies"])
    for extra in extras:
        lines += PYPROJECT["project"]["optional-dependencies"][extra]
    requirements = [Requirement(line) for line in lines]
    return {canonicalize_name(requirement.name): requirement for requirement in requirements}


def locked(path: Path) -> dict[str, str]:
    """What a lock pins, by canonical name."""
    pins = re.findall(r"^([A-Za-z0-9._-]+)==([^\s;]+)", path.read_text(), re.MULTILINE)
    assert len({name for name, _ in pins}) == len(pins), f"{path.name} pins a package twice"
    return dict(pins)


def imports_of(path: Path) -> set[str]:
    """Top-level names of what a module imports anywhere in it, save for type checkers only."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.partition(".")[0])
    return names - set(sys.stdlib_module_names) - {"coderllm_jax"}


# What the tests' environment lacks, so that nothing installed says whose module it is.
NOT_INSTALLED = {"llama_cpp": ["llama-cpp-python"]}


def test_every_import_is_declared():
    # `import x` works where x came along with something else, until that something lets go of it.
    distributions = NOT_INSTALLED | importlib.metadata.packages_distributions()
    known = set(declared(*PYPROJECT["project"]["optional-dependencies"]))
    undeclared = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in PACKAGE.rglob("*.py")
        for name in imports_of(path)
        if not known & {canonicalize_name(found) for found in distributions.get(name, [name])}
    }
    assert not undeclared


def test_training_imports_are_base_dependencies():
    distributions = importlib.metadata.packages_distributions()
    base = set(declared())
    missing = {
        f"{path.relative_to(ROOT)}: {name}"
        for layer in (*CORE, "monitoring", "reporting", "train", "prepare", "entry")
        for path in [*(PACKAGE / layer).rglob("*.py"), *PACKAGE.glob(f"{layer}.py")]
        for name in imports_of(path)
        if not base & {canonicalize_name(found) for found in distributions.get(name, [name])}
    }
    # Asked for by WANDB_PROJECT, which says what to install where it is not there.
    assert missing <= {"coderllm_jax/monitoring/writers.py: wandb"}


# ---------------------------------------------------------------------------------- locks


@pytest.mark.parametrize(
    ("lock", "extras"),
    [
        ("train", ["evaluation"]),
        ("retrieval", ["evaluation", "retrieval"]),
        ("dev", ["dev", "evaluation", "retrieval", "wandb"]),
        ("full", ["retrieval", "evaluation", "wandb", "peers", "dev"]),
        ("cuda", ["evaluation", "cuda"]),
        ("tpu", ["evaluation", "tpu"]),
    ],
)
def test_lock_is_up_to_date_with_pyproject(lock, extras):
    pins = locked(ROOT / "requirements" / f"{lock}.lock")
    torch = Requirement((ROOT / "requirements" / "torch.txt").read_text().splitlines()[-1])
    for name, requirement in declared(*extras).items():
        if name == "torch":
            assert requirement.specifier == torch.specifier
            continue
        assert name in pins, f"{name} is not in {lock}.lock; run scripts/lock"
        assert requirement.specifier.contains(pins[name]), f"{name}: run scripts/lock"


def test_locks_agree_with_each_other():
    full = locked(ROOT / "requirements" / "full.lock")
    for lock in LOCKS:
        for name, version in locked(lock).items():
            assert full.get(name, version) == version, f"{lock.name}: {name}"


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_lock_is_hashed_and_names_no_index(lock):
    text = lock.read_text()
    blocks = re.findall(r"^\S+==.*(?:\n {4}.*)*", text, re.MULTILINE)
    assert len(blocks) == len(locked(lock))
    assert all("--hash=sha256:" in block for block in blocks)
    assert "://" not in text
    assert "--index" not in text


def test_training_brings_no_torch():
    for lock in LOCKS:
        assert "torch" not in locked(lock), lock.name
    assert "transformers" not in locked(ROOT / "requirements" / "train.lock")
