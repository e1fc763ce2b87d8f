"""live.yaml: what is declared is taken, in its range; of anything else nothing is taken at all."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coderllm_jax.config.live import live_options, parse_live
from coderllm_jax.config.training import TrainingConfig
from coderllm_jax.errors import ConfigError


def parse(text: str) -> dict:
    return parse_live(text, name="live.yaml")


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("", {}),
        ("# learning_rate_scale: 0.5\nevaluation:\n", {}),
        ("learning_rate_scale: 0.5", {"learning_rate_scale": 0.5}),
        ("learning_rate_scale: 1e-3", {"learning_rate_scale": 1e-3}),
        ("learning_rate_scale: 0", {"learning_rate_scale": 0.0}),
        ("stop: true", {"stop": True}),
        (
            "evaluation: {every_steps: 100}\ncheckpoint.every_steps: 0\nlogging:\n  every_steps: 1",
            {
                "evaluation.every_steps": 100,
                "checkpoint.every_steps": 0,
                "logging.every_steps": 1,
            },
        ),
    ],
)
def test_what_is_declared_is_taken(text, values):
    parsed = parse(text)
    assert parsed == values
    assert list(map(type, parsed.values())) == list(map(type, values.values()))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rate_scale: 101", "live.yaml:1: learning_rate_scale is 101.0; expected at most"),
        ("learning_rate_scale: -1", "expected at least 0"),
        ("learning_rate_scale: .nan", "expected a finite number"),
        ("learning_rate_scale: fast", "learning_rate_scale is 'fast' (str); expected float"),
        ("stop: 1", "live.yaml:1: stop is 1 (int); expected bool"),
        ("stop: 'true'", "expected bool"),
        ("logging: {every_steps: 0}", "logging.every_steps is 0; expected at least 1"),
        ("evaluation: {every_steps: 1.5}", "expected int"),
        ("evaluation: 3", "'evaluation', which is a section; set one of its keys, such as"),
        ("learning_rat_scale: 1", "unknown key 'learning_rat_scale'; did you mean 'learning_rate"),
        ("evaluation: {every_step: 1}", "did you mean 'evaluation.every_steps'?; live.yaml takes"),
        ("zzz: 1", "live.yaml:1: unknown key 'zzz'; live.yaml takes learning_rate_scale, stop"),
        ("\nlora: {rank: 4}", "live.yaml:2: lora.rank cannot change while the run is going; live."),
        ("learning_rate: 1e-3", "learning_rate cannot change while the run is going"),
        ("lora:", "lora cannot change while the run is going"),
        ("evaluation: {samples: 1}", "evaluation.samples cannot change while the run is going"),
        ("stop: true\nstop: false", "'stop' is set twice"),
        ("- stop", "expected options at the top"),
        ("stop: [", "this is not YAML"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_taken(text, message):
    with pytest.raises(ConfigError) as error:
        parse(f"{text}\n")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@settings(deadline=None)
@given(st.permutations(["learning_rate_scale: 0.5", "stop: true", "lora.rank: 4"]))
def test_one_wrong_line_among_good_ones_takes_all_down(lines):
    line = lines.index("lora.rank: 4") + 1
    with pytest.raises(ConfigError, match=rf"^live\.yaml:{line}: lora\.rank cannot change"):
        parse("\n".join(lines))


def test_periods_have_the_ranges_of_the_configuration():
    declared = {info.path: info for info in TrainingConfig.options()}
    for path, info in live_options().items():
        assert info.help.endswith(".")
        if path in declared:
            assert info == declared[path]
    assert set(live_options()) - set(declared) == {"learning_rate_scale", "stop"}
