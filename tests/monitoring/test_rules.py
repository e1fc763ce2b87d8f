"""Rules: what they mean, and one clear line for each way to write them wrongly."""

from __future__ import annotations

import pytest

from coderllm_jax.errors import ConfigError
from coderllm_jax.monitoring.rules import load_rules


def load(tmp_path, text):
    path = tmp_path / "alerts.yaml"
    path.write_text(text)
    return {rule.name: rule for rule in load_rules(str(path))}


def test_the_built_in_ones():
    rules = {rule.name: rule for rule in load_rules("")}
    assert {
        "not_finite",
        "divergence",
        "plateau",
        "overfitting",
        "stall",
        "starvation",
        "disk",
        "memory",
        "temperature",
        "errors",
        "latency",
        "drift",
    } <= rules.keys()
    assert all(rule.origin == "built in" and rule.says for rule in rules.values())
    assert rules["disk"].is_bad(0.96)
    assert not rules["disk"].is_bad(0.95)
    assert not rules["disk"].is_well(0.94)
    assert rules["disk"].is_well(0.93)


def test_a_rule_of_each_kind(tmp_path):
    rules = load(
        tmp_path,
        "slow:\n  signal: traffic.total_s_p95\n  above: 5\n  recover: 4\n  for: 1m\n"
        "cold:\n  signal: machine.cpu_fraction\n  below: 0.01\n  recover_for: 2h\n"
        "jump:\n  signal: run.grad_norm\n  rises_by: 100\n  within: 5m\n  severity: critical\n"
        "drop:\n  signal: run.tokens_per_s\n  falls_by: 50\n  within: 90s\n"
        'quiet:\n  signal: traffic.num_requests\n  absent: 10m\n  only: "prod/*"\n'
        "drifts:\n  signal: drift.drifted\n  drifts: true\n",
    )
    slow, cold, jump, drop = (rules[name] for name in ("slow", "cold", "jump", "drop"))
    assert (slow.for_s, slow.recover_for_s, slow.recover_limit) == (60.0, 60.0, 4.0)
    assert (cold.sign, cold.limit, cold.recover_for_s, cold.severity) == (-1, 0.01, 7200, "warning")
    assert (jump.kind, jump.within_s, jump.recover_limit) == ("rate", 300.0, 50.0)
    assert drop.is_bad(-51)
    assert not drop.is_bad(-49)
    assert not drop.is_well(-26)
    assert drop.is_well(-25)
    assert (rules["quiet"].kind, rules["quiet"].limit) == ("absence", 600.0)
    assert rules["quiet"].matches("prod/requests.jsonl")
    assert not rules["quiet"].matches("dev/requests.jsonl")
    assert rules["drifts"].kind == "drift"
    assert slow.origin.endswith("alerts.yaml")
    assert "traffic.total_s_p95 above 5 for 60 s, until 4" in slow.description()


def test_a_built_in_rule_is_changed_or_switched_off(tmp_path):
    rules = load(tmp_path, "disk:\n  above: 0.8\nplateau:\n  enabled: false\n")
    assert "plateau" not in rules
    assert (rules["disk"].limit, rules["disk"].recover_limit) == (0.8, 0.8)
    assert (rules["disk"].severity, rules["disk"].for_s) == ("critical", 15.0)


def test_an_empty_file_changes_nothing(tmp_path):
    assert load(tmp_path, "# nothing\n").keys() == {rule.name for rule in load_rules("")}


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("a:\n  abvoe: 1\n", 2, r"a\.abvoe: no such key; did you mean 'above'\?"),
        ("a:\n  signal: run.loss\n  above: high\n", 3, "a.above is 'high'; expected a number"),
        ("a:\n  signal: run.loss\n  above: true\n", 3, "a.above is True; expected a number"),
        ("a:\n  signal: runs.loss\n  above: 1\n", 2, r"did you mean 'run'\?"),
        ("a:\n  signal: run\n  above: 1\n", 2, "expected one of run.…, traffic.…"),
        ("a:\n  signal: traffic.eror_rate\n  above: 1\n", 2, r"did you mean 'error_rate'\?"),
        ("a:\n  signal: disk.color\n  above: 1\n", 2, "disk has used_fraction, free_bytes"),
        ("a:\n  signal: run.loss\n  above: 1\n  for: soon\n", 4, "a time such as 90s, 10m or 2h"),
        ("a:\n  signal: run.loss\n  above: 1\n  for: -5\n", 4, "a time such as"),
        (
            "a:\n  signal: run.loss\n  above: 1\n  severity: bad\n",
            4,
            "expected info, warning, crit",
        ),
        ("a:\n  signal: run.loss\n", 2, "says nothing about its signal; give exactly one of"),
        (
            "a:\n  signal: run.loss\n  above: 1\n  below: 2\n",
            4,
            "has above and below; give exactly",
        ),
        ("a:\n  above: 1\n", 2, "has no signal"),
        ("a:\n  signal: run.loss\n  rises_by: 1\n", 3, "`within` goes with rises_by"),
        ("a:\n  signal: run.loss\n  above: 1\n  within: 5m\n", 4, "`within` goes with"),
        ("a:\n  signal: run.loss\n  above: 1\n  recover: 2\n", 4, "on the wrong side of above: 1"),
        ("a:\n  signal: run.loss\n  drifts: true\n", 3, "goes with signal: drift.drifted"),
        ("a: 3\n", 1, "rule a is 3; expected keys below"),
        ("a:\n  above: 1\na:\n  above: 2\n", 3, "'a' is set twice"),
        ("a b:\n  above: 1\n", 2, "'a b' is no name of a rule"),
        ("a:\n  signal: [\n", 3, "this is not YAML we read"),
        ("a:\n  only: 3\n", 2, "a.only is 3; expected words"),
        ("a:\n  drifts: maybe\n", 2, "expected true or false"),
    ],
)
def test_a_mistake_ends_in_one_line_that_names_line_and_key(tmp_path, text, line, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load(tmp_path, text)
    assert f"alerts.yaml:{line}: " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.yaml: No such file"):
        load_rules(str(tmp_path / "none.yaml"))


def test_the_card_that_ships_is_loaded():
    assert load_rules("configs/alerts.yaml") == load_rules("")
