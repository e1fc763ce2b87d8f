"""Prometheus gets what is known, nothing for what is not, and names it has no complaint about."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from coderllm_jax.monitoring.exposition import registry
from tests.monitoring.watched import Clock, MadeRun, append, open_watch, request


@pytest.fixture
def text(tmp_path):
    clock = Clock()
    made = MadeRun(tmp_path / "runs" / 'a "b"\\n<i>', clock)
    MadeRun(tmp_path / "runs" / "empty", clock)
    made.event("started")
    for step in range(1, 30):
        clock.now += 1
        made.row(step)
    made.report(step=29)
    (tmp_path / "logs").mkdir()
    for i in range(40):
        append(tmp_path / "logs" / "r.jsonl", request(clock.now - i, status=500 if i % 2 else 200))
    watch = open_watch(tmp_path, clock)
    watch.poll()
    text = generate_latest(registry(watch)).decode()
    watch.close()
    return text


def test_a_secret_that_the_format_escapes_does_not_leave(tmp_path, monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", 'canary-"\\quoted')
    MadeRun(tmp_path / "runs" / 'by canary-"\\quoted', Clock()).event("started")
    watch = open_watch(tmp_path, Clock())
    watch.poll()
    text = generate_latest(registry(watch)).decode()
    watch.close()
    names = {each.labels.get("name") for each in samples(text)}
    assert "by ***" in names
    assert "canary" not in " ".join(map(str, names))


def samples(text):
    return [sample for family in text_string_to_metric_families(text) for sample in family.samples]


def test_figures_and_gaps(text):
    found = samples(text)
    loss = [each for each in found if each.name == "coderllm_monitor_run_loss"]
    assert [(each.labels["name"], each.value) for each in loss] == [('a "b"\\n<i>', 2.0)]
    errors = [each for each in found if each.name == "coderllm_monitor_traffic_error_ratio"]
    assert [each.value for each in errors] == [0.5]
    assert not [each for each in found if "temperature" in each.name and each.value == 0]
    assert "no_source_ratio" not in text
    firing = [each for each in found if each.name == "coderllm_monitor_alert_firing"]
    assert [each.labels["rule"] for each in firing] == ["errors"]


def test_no_sample_is_there_twice(text):
    keys = [(each.name, tuple(sorted(each.labels.items()))) for each in samples(text)]
    assert len(keys) == len(set(keys))


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (prometheus) is not here")
def test_promtool_has_no_complaint(text):
    found = subprocess.run(
        ["promtool", "check", "metrics"],
        check=False,
        input=text,
        text=True,
        capture_output=True,
        timeout=60,
    )
    assert (found.returncode, found.stdout + found.stderr) == (0, "")
