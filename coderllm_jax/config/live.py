"""What may change while a run is going: the declared keys of `<workdir>/live.yaml`.

    learning_rate_scale: 0.5      parse_live →  {"learning_rate_scale": 0.5,
    evaluation:                                  "evaluation.every_steps": 100}
      every_steps: 100

Only says what a text means. Who reads the file, and when a change counts, is the run's affair.
"""

from __future__ import annotations

from coderllm_jax.config.documents import parse_yaml
from coderllm_jax.config.hints import did_you_mean
from coderllm_jax.config.layers import options_by_path
from coderllm_jax.config.schema import OptionInfo, check_value
from coderllm_jax.config.training import TrainingConfig
from coderllm_jax.errors import ConfigError

LiveValue = bool | int | float

# Options of a run whose value is looked up at every step, in the ranges they are declared with.
_PERIODS = ("evaluation.every_steps", "checkpoint.every_steps", "logging.every_steps")
_OWN = (
    OptionInfo(
        "learning_rate_scale",
        float,
        1.0,
        "Multiplies the learning rate of every step from here on.",
        low=0,
        high=100,
        choices=None,
    ),
    OptionInfo(
        "stop",
        bool,
        False,
        "Ends the run after this step, saved and reported.",
        low=None,
        high=None,
        choices=None,
    ),
)


def live_options() -> dict[str, OptionInfo]:
    """Every key that live.yaml takes: its type, range and a sentence."""
    declared = options_by_path(TrainingConfig)
    return {info.path: info for info in (*_OWN, *(declared[path] for path in _PERIODS))}


def parse_live(text: str, *, name: str) -> dict[str, LiveValue]:
    """The values by path for the keys that are there; an empty text has none.

    All or nothing: raises ConfigError at the first key that is unknown, fixed while a run is
    going, or of the wrong type or range. `name` is what the error calls the file.
    """
    options = live_options()
    takes = f"live.yaml takes {', '.join(options)}"
    fixed = options_by_path(TrainingConfig).keys() - options.keys()
    values: dict[str, LiveValue] = {}
    for path, value, place in parse_yaml(text, name=name):
        if path in options:
            values[path] = check_value(options[path], value, name=f"{place}: {path}")
        elif any(other.startswith(f"{path}.") for other in options):
            if value not in (None, {}):
                raise ConfigError(f"{place}: '{path}'{did_you_mean(path, options)}")
        elif path in fixed or any(other.startswith(f"{path}.") for other in fixed):
            raise ConfigError(f"{place}: {path} cannot change while the run is going; {takes}")
        else:
            hint = did_you_mean(path, options, default="")
            raise ConfigError(f"{place}: unknown key '{path}'{hint}; {takes}")
    return values
