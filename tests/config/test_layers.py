"""Values from seven places: the highest wins, its origin is told, and a slip names its place."""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import json
import pkgutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from coderllm_jax import config as config_package
from coderllm_jax import entry
from coderllm_jax.config import layers
from coderllm_jax.config.schema import Config, Section, option, section
from coderllm_jax.config.training import TrainingConfig
from coderllm_jax.errors import ConfigError

CARD = "configs/card.py"
PRODUCTION = "environment production (configs/environments/production.yaml)"
ROOT = Path(__file__).resolve().parents[2]

# Each layer, lowest first: how it says that lora.rank is `value`, and the origin it leaves.
LAYERS = ("default", "card", "environment", "overlay", "second overlay", "variable", "command line")
ORIGINS = {
    "default": "default",
    "card": CARD,
    "environment": PRODUCTION,
    "overlay": "overlay one.yaml",
    "second overlay": "overlay two.json",
    "variable": "CODERLLM_LORA__RANK",
    "command line": "command line",
}


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch) -> Path:
    """A working directory with nothing in it, and no checkout beside the package."""
    (tmp_path / "here" / layers.ENVIRONMENTS).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(entry, "_CHECKOUT", tmp_path / "package")
    return tmp_path / "here"


def resolve(*arguments: str, **environ: str) -> TrainingConfig:
    return entry.resolve_config(["train", *arguments], TrainingConfig, CARD, environ=environ)


def write(path: str, text: str) -> str:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text, encoding="utf-8")
    return path


def write_card(body: str) -> str:
    return write(
        CARD,
        "from coderllm_jax.config import TrainingConfig\n"
        "def get_config():\n"
        "    values = TrainingConfig.create_default()\n"
        f"    {body}\n"
        "    return values\n",
    )


def resolve_with(chosen: Sequence[str]) -> TrainingConfig:
    """Every chosen layer says its own rank: its place in LAYERS, times ten."""
    rank = {layer: 10 * place for place, layer in enumerate(LAYERS)}
    arguments, environ = [], {}
    if "card" in chosen:
        arguments.append("--config=" + write_card(f"values.lora.rank = {rank['card']}"))
    if "environment" in chosen:
        write("configs/environments/production.yaml", f"lora: {{rank: {rank['environment']}}}")
        arguments.append("--environment=production")
    if "overlay" in chosen:
        write("one.yaml", f"lora.rank: {rank['overlay']}")
        arguments.append("--overlay=one.yaml")
    if "second overlay" in chosen:
        write("two.json", json.dumps({"lora": {"rank": rank["second overlay"]}}))
        arguments.append("--overlay=two.json")
    if "variable" in chosen:
        environ["CODERLLM_LORA__RANK"] = str(rank["variable"])
    if "command line" in chosen:
        arguments.insert(0, f"--config.lora.rank={rank['command line']}")
    return resolve(*arguments, **environ)


@pytest.mark.parametrize("pair", list(itertools.pairwise(LAYERS)), ids=" < ".join)
def test_of_two_neighbours_the_higher_wins(pair):
    config = resolve_with(pair)
    assert config.lora.rank == 10 * LAYERS.index(pair[1])
    assert config.origins["lora.rank"] == ORIGINS[pair[1]]


@pytest.mark.parametrize("number", range(2 ** (len(LAYERS) - 1)))
def test_of_any_layers_the_highest_wins_and_is_named(number):
    chosen = [LAYERS[0]] + [name for bit, name in enumerate(LAYERS[1:]) if number >> bit & 1]
    config = resolve_with(chosen)
    highest = chosen[-1]
    assert config.lora.rank == (10 * LAYERS.index(highest) or TrainingConfig().lora.rank)
    assert config.origins == {
        info.path: ORIGINS[highest] if info.path == "lora.rank" else "default"
        for info in TrainingConfig.options()
    }


def test_layers_that_say_different_things_are_all_heard():
    write("configs/environments/dev.yaml", "logging: {clu: false}")
    write("one.yaml", "learning_rate: 1e-2\nlora:\n  targets: [key]\n")
    config = resolve(
        f"--config={write_card('values.seed = 1')}",
        *("--environment", "dev", "--overlay", "one.yaml", "--config.batch_size", "8"),
        CODERLLM_LORA__TARGETS="key, value",
    )
    assert (config.seed, config.logging.clu, config.learning_rate) == (1, False, 1e-2)
    assert (config.lora.targets, config.batch_size) == (("key", "value"), 8)
    assert {path: origin for path, origin in config.origins.items() if origin != "default"} == {
        "seed": CARD,
        "logging.clu": "environment dev (configs/environments/dev.yaml)",
        "learning_rate": "overlay one.yaml",
        "lora.targets": "CODERLLM_LORA__TARGETS",
        "batch_size": "command line",
    }


# ----------------------------------------------------------------------------- origins


def test_origins_are_no_option_and_no_part_of_the_value():
    config = resolve("--config.seed=3")
    same = dataclasses.replace(TrainingConfig(), seed=3)
    assert config == same
    assert hash(config) == hash(same)
    assert config.to_dict() == same.to_dict()
    assert "origins" not in config.to_dict()
    assert "origins" not in repr(config)
    assert "origins" not in TrainingConfig.create_default()
    assert "origins" not in entry.help_text(TrainingConfig, CARD)
    assert config.origins != same.origins


def test_what_a_program_sets_is_told_from_the_default():
    values = TrainingConfig.create_default()
    values.lora.rank = 4
    values.seed = TrainingConfig().seed
    origins = TrainingConfig.from_config_dict(values).origins
    assert origins.pop("lora.rank") == "program"
    assert set(origins.values()) == {"default"}


def test_no_origin_holds_the_machine_or_a_value(project, monkeypatch):
    write_card("values.seed = 5")
    write("deep/one.yaml", "batch_size: 8")
    config = resolve(
        f"--config={project / CARD}",
        f"--overlay={project / 'deep' / 'one.yaml'}",
        CODERLLM_WORKDIR="canary",
    )
    assert config.origins["seed"] == CARD
    assert config.origins["batch_size"] == "overlay deep/one.yaml"
    assert config.origins["workdir"] == "CODERLLM_WORKDIR"
    assert not any(str(project) in text or "canary" in text for text in config.origins.values())
    # The default card is named as from the checkout, wherever the command was given.
    monkeypatch.setattr(entry, "_CHECKOUT", project)
    for folder in ("deep", "/"):
        monkeypatch.chdir(project / folder)
        assert resolve().origins["seed"] == CARD


def test_a_card_with_an_argument_is_named_with_it():
    write(
        CARD,
        "from coderllm_jax.config import TrainingConfig\n"
        "def get_config(seed):\n"
        "    values = TrainingConfig.create_default()\n"
        "    values.seed = int(seed)\n"
        "    return values\n",
    )
    config = resolve(f"--config={CARD}:7")
    assert (config.seed, config.origins["seed"]) == (7, f"{CARD}:7")


# ------------------------------------------------------------------------- environments


def test_the_flag_is_stronger_than_the_variable():
    for name, seed in (("dev", 1), ("production", 2)):
        write(f"configs/environments/{name}.yaml", f"seed: {seed}")
    assert resolve(CODERLLM_ENV="dev").seed == 1
    assert resolve("--environment=production", CODERLLM_ENV="dev").seed == 2
    assert resolve(CODERLLM_ENV="").seed == 0


def test_an_environment_here_hides_the_one_beside_the_package(project):
    package = project.parent / "package"
    write(str(package / "configs/environments/dev.yaml"), "seed: 1")
    write(str(package / "configs/environments/staging.yaml"), "seed: 2")
    write("configs/environments/dev.yaml", "seed: 3")
    assert resolve("--environment=dev").seed == 3
    staging = resolve("--environment=staging")
    assert staging.seed == 2
    assert staging.origins["seed"] == "environment staging (configs/environments/staging.yaml)"


@pytest.mark.parametrize("name", ["prod", "productoin", "configs/environments/production.yaml"])
def test_an_unknown_environment_lists_those_there_are(name):
    for known in ("dev", "staging", "production"):
        write(f"configs/environments/{known}.yaml", "")
    with pytest.raises(ConfigError) as error:
        resolve(f"--environment={name}")
    assert "no environment; there are dev, production, staging" in str(error.value)
    assert str(error.value).startswith(f"--environment is {name!r}")
    if "/" not in name:
        assert str(error.value).endswith("did you mean 'production'?")
    with pytest.raises(ConfigError, match=r"^CODERLLM_ENV is 'nowhere'"):
        resolve(CODERLLM_ENV="nowhere")


def test_where_there_is_no_environment_that_is_said():
    with pytest.raises(ConfigError, match=r"there is none in configs/environments$"):
        resolve("--environment=dev")


@pytest.mark.parametrize("name", ["dev", "staging", "production"])
@pytest.mark.parametrize("command", layers.CONFIGS)
def test_what_ships_fits_every_command(name, command, monkeypatch):
    monkeypatch.chdir(ROOT)
    module, _, class_name = command.partition(":")
    config_class = getattr(importlib.import_module(module), class_name)
    config = entry.resolve_config(
        ["command", f"--environment={name}"], config_class, "no_card.py", environ={}
    )
    if config_class is TrainingConfig:
        origin = f"environment {name} (configs/environments/{name}.yaml)"
        assert origin in config.origins.values()


# -------------------------------------------------------- what is shared, and what is not


def test_every_command_is_registered():
    """A command whose options are missing in CONFIGS would make its variables unknown to others."""
    for module in pkgutil.iter_modules(config_package.__path__, "coderllm_jax.config."):
        for name, value in vars(importlib.import_module(module.name)).items():
            is_config = (
                isinstance(value, type) and issubclass(value, Config) and value is not Config
            )
            if is_config and value.__module__ == module.name:
                assert f"{module.name}:{name}" in layers.CONFIGS


def test_no_option_takes_a_reserved_name():
    for path in layers.every_path(TrainingConfig):
        assert layers.variable_name(path) != layers.ENVIRONMENT_VARIABLE
        assert path.partition(".")[0] not in dir(Config)


def test_another_commands_option_is_passed_over_where_sources_are_shared():
    write(
        "configs/environments/dev.yaml",
        "packages: [numpy]\nchunks: {max_tokens: 100}\nrows:\nseed: 4\n",
    )
    config = resolve("--environment=dev", CODERLLM_ROWS__PHRASINGS="not even a number")
    assert config == dataclasses.replace(TrainingConfig(), seed=4)


def test_an_overlay_is_for_this_command():
    write("one.yaml", "packages: [numpy]")
    with pytest.raises(
        ConfigError,
        match=r"^one\.yaml:1: unknown configuration key 'packages', which is an option of another",
    ):
        resolve("--overlay=one.yaml")


def test_a_runs_own_configuration_repeats_it():
    config = resolve("--config.seed=3", "--config.lora.targets=key", CODERLLM_LEARNING_RATE="3e-4")
    write("run/config.json", json.dumps(config.to_dict() | {"origins": dict(config.origins)}))
    again = resolve("--overlay=run/config.json")
    assert again == config
    assert again.origins["seed"] == "overlay run/config.json"


# ----------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lora.rank: x", "one.yaml:1: lora.rank is 'x' (str); expected int"),
        ("\nlora:\n  rank: x", "one.yaml:3: lora.rank is 'x' (str); expected int"),
        ("lora: {rank: 5000}", "one.yaml:1: lora.rank is 5000; expected at most 1024"),
        ("lora.rank: 8.0", "one.yaml:1: lora.rank is 8.0 (float); expected int"),
        ("lora.rank: true", "one.yaml:1: lora.rank is True (bool); expected int"),
        ("lora.rank: null", "one.yaml:1: lora.rank is None (NoneType); expected int"),
        ("lora.rank: {}", "one.yaml:1: lora.rank is {} (dict); expected int"),
        ("logging.clu: 'yes'", "one.yaml:1: logging.clu is 'yes' (str); expected bool"),
        ("lora.targets: query", "one.yaml:1: lora.targets is 'query'; expected a list of str"),
        ("lora.targets: [3]", "one.yaml:1: lora.targets[0] is 3 (int); expected str"),
        ("lora.targets: [qury]", "did you mean 'query'?"),
        ("learning_rate: .nan", "learning_rate is nan; expected a finite number"),
        ("lora.rnk: 3", "one.yaml:1: unknown configuration key 'lora.rnk'; did you mean"),
        ("rank: 3", "unknown configuration key 'rank'; did you mean 'lora.rank'?"),
        ("seed: {deep: 3}", "unknown configuration key 'seed.deep'; did you mean 'seed'?"),
        ("lora: 3", "one.yaml:1: 'lora', which is a section; set one of its keys, such as"),
        ("lora: []", "one.yaml:1: 'lora', which is a section; set one of its keys, such as"),
    ],
)
def test_an_overlays_mistake_names_file_line_and_remedy(text, message):
    write("one.yaml", text)
    with pytest.raises(ConfigError) as error:
        resolve("--overlay=one.yaml")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_an_empty_section_says_nothing():
    write("one.yaml", "lora:\n  # rank: 16\noptimizer: {}\n")
    assert resolve("--overlay=one.yaml") == TrainingConfig()


def test_an_environments_mistake_names_its_file():
    write("configs/environments/dev.yaml", "seed: 1\nlora: {rnk: 3}\n")
    with pytest.raises(
        ConfigError,
        match=r"^configs/environments/dev\.yaml:2: unknown .*'lora\.rnk'; did you mean 'lora\.rank",
    ):
        resolve("--environment=dev")


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("CODERLLM_LORA__RANK", "x", "CODERLLM_LORA__RANK is 'x'; expected int"),
        ("CODERLLM_LORA__RANK", "", "CODERLLM_LORA__RANK is ''; expected int"),
        ("CODERLLM_LORA__RANK", "5000", "CODERLLM_LORA__RANK is 5000; expected at most 1024"),
        ("CODERLLM_LOGGING__CLU", "maybe", "CODERLLM_LOGGING__CLU is 'maybe'; expected True or"),
        ("CODERLLM_LORA__TARGETS", "qury", "CODERLLM_LORA__TARGETS is 'qury'; expected one of"),
        ("CODERLLM_LORA__TARGETS", "('key')", "expected a list of str, written a,b,c"),
        ("CODERLLM_WORKDIR", "a\udcff", "CODERLLM_WORKDIR is not UTF-8"),
        ("CODERLLM_LORA_RANK", "1", "did you mean 'CODERLLM_LORA__RANK'?"),
        ("CODERLLM_RANK", "1", "did you mean 'CODERLLM_LORA__RANK'?"),
        ("CODERLLM_lora__rank", "1", "did you mean 'CODERLLM_LORA__RANK'?"),
        ("CODERLLM_LORA", "1", "a section; set one of its keys, such as 'CODERLLM_LORA__ENABLED'"),
        ("CODERLLM_PACKAGE", "1", "did you mean 'CODERLLM_PACKAGES'?"),
        ("CODERLLM_ENVIRONMENT", "dev", "did you mean 'CODERLLM_ENV'?"),
        ("CODERLLM_", "dev", "unknown variable CODERLLM_"),
    ],
)
def test_a_variables_mistake_names_it(variable, value, message):
    with pytest.raises(ConfigError) as error:
        resolve(**{variable: value})
    assert message in str(error.value)


def test_an_unknown_variables_value_is_not_repeated():
    with pytest.raises(ConfigError) as error:
        resolve(CODERLLM_TOKEN="canary")
    assert "canary" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "switch"),
    [("true", True), ("TRUE", True), ("1", True), ("False", False), ("0", False), ("f", False)],
)
def test_switches_of_variables(text, switch):
    assert resolve(CODERLLM_LOGGING__CLU=text).logging.clu is switch


def test_other_peoples_variables_are_left_alone():
    assert resolve(CODERLLMX="1", MY_CODERLLM_SEED="x", coderllm_seed="x") == TrainingConfig()


@pytest.mark.parametrize(
    ("arguments", "environ", "message"),
    [
        (
            ["--overlay=one.yaml", "--config.epochs=4"],
            {},
            r"^steps is 5 and epochs is 4; .* \(steps: overlay one\.yaml; epochs: command line\)$",
        ),
        (
            ["--config.epochs=4"],
            {"CODERLLM_STEPS": "5"},
            r"\(steps: CODERLLM_STEPS; epochs: command line\)$",
        ),
        (["--overlay=one.yaml", "--overlay=two.json"], {}, r"overlay one\.yaml.*overlay two\.json"),
        ([], {"CODERLLM_WORKDIR": ""}, r"^CODERLLM_WORKDIR: workdir is empty"),
        (["--config.steps=5", "--config.epochs=4"], {}, r"^steps is 5 and .* one of them to 0$"),
    ],
)
def test_a_contradiction_says_where_both_sides_are_from(arguments, environ, message):
    write("one.yaml", "steps: 5")
    write("two.json", '{"epochs": 4}')
    with pytest.raises(ConfigError, match=message):
        resolve(*arguments, **environ)


def test_what_a_card_contradicts_a_higher_layer_may_mend():
    card = f"--config={write_card('values.steps, values.epochs = 5, 4')}"
    with pytest.raises(ConfigError, match=r"^configs/card\.py: steps is 5 and epochs is 4"):
        resolve(card)
    assert resolve(card, "--config.epochs=0").steps == 5


def test_a_wrong_value_is_refused_even_where_a_higher_layer_hides_it():
    write("one.yaml", "lora.rank: x")
    with pytest.raises(ConfigError, match=r"^one\.yaml:1: lora\.rank is 'x'"):
        resolve("--overlay=one.yaml", "--config.lora.rank=4")


@pytest.mark.parametrize("file", ["none.yaml", "configs", ""])
def test_an_overlay_that_is_no_file_is_one_line(file):
    with pytest.raises(ConfigError, match=r"^--overlay is .*--overlay"):
        resolve(f"--overlay={file}")


# ---------------------------------------------------------------------- the text of lists


@dataclasses.dataclass(frozen=True)
class _Numbers(Section):
    sizes: tuple[int, ...] = option((1, 2), "Sizes.")


@dataclasses.dataclass(frozen=True)
class _NumbersConfig(Config):
    title: ClassVar[str] = "Numbers."
    numbers: _Numbers = section(_Numbers)


@pytest.mark.parametrize(
    ("text", "sizes"), [("3,4,", (3, 4)), ("[7]", (7,)), ("", ()), ("(0x10, 1)", (16, 1))]
)
def test_lists_of_numbers(text, sizes):
    environ: dict[str, Any] = {"CODERLLM_NUMBERS__SIZES": text}
    config = entry.resolve_config(["x"], _NumbersConfig, "no.py", environ=environ)
    assert config.numbers.sizes == sizes


@pytest.mark.parametrize("text", ["3,x", "[3, 'x']", "[3", "7]", "3 4"])
def test_lists_of_what_is_no_number(text):
    with pytest.raises(ConfigError, match=r"^CODERLLM_NUMBERS__SIZES"):
        entry.resolve_config(
            ["x"], _NumbersConfig, "no.py", environ={"CODERLLM_NUMBERS__SIZES": text}
        )
