"""Figures of hand-made records, and Prometheus' own opinion of the page."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from coderllm_jax.serving import metrics as metrics_module
from coderllm_jax.serving.metrics import Metrics
from coderllm_jax.serving.request_log import RequestRecord

DONE = RequestRecord(
    time=1.0, id="x", arm="rag", finish="stop", prompt_tokens=5, completion_tokens=7,
    queue_s=0.015, ttft_s=0.03, time_per_token_s=0.2, total_s=1.0, retrieval_s=0.003, refused=True,
)  # fmt: skip
LEFT = RequestRecord(
    time=1.0, id="y", arm="rag", status=499, finish="cancelled", error="cancelled",
    prompt_tokens=3, completion_tokens=1, queue_s=0.5, total_s=2.0,
)  # fmt: skip
TURNED_AWAY = RequestRecord(time=1.0, id="z", status=429, error="queue_full", total_s=0.001)


def page(*records: RequestRecord) -> str:
    metrics = Metrics()
    metrics.watch("ready", "1 while requests are taken.", lambda: True)
    for record in records:
        metrics.observe(record)
    return metrics.page("")[0].decode()


def test_counters_and_histograms() -> None:
    text = page(DONE, LEFT, TURNED_AWAY)
    for line in (
        'coderllm_request_success_total{finished_reason="stop",model_name="rag"} 1.0',
        'coderllm_request_failure_total{code="cancelled",model_name="rag",status="499"} 1.0',
        'coderllm_request_failure_total{code="queue_full",model_name="unknown",status="429"} 1.0',
        'coderllm_prompt_tokens_total{model_name="rag"} 8.0',
        'coderllm_generation_tokens_total{model_name="rag"} 8.0',
        'coderllm_request_refused_total{model_name="rag"} 1.0',
        'coderllm_time_to_first_token_seconds_bucket{le="0.02",model_name="rag"} 0.0',
        'coderllm_time_to_first_token_seconds_bucket{le="0.04",model_name="rag"} 1.0',
        'coderllm_time_to_first_token_seconds_count{model_name="rag"} 1.0',
        'coderllm_request_queue_time_seconds_sum{model_name="rag"} 0.515',
        'coderllm_e2e_request_latency_seconds_sum{model_name="rag"} 3.0',
        'coderllm_time_per_output_token_seconds_sum{model_name="rag"} 0.2',
        "coderllm_ready 1.0",
    ):
        assert line in text.splitlines(), line
    # Who was turned away did not wait, and makes no latency better than it is.
    assert 'coderllm_e2e_request_latency_seconds_count{model_name="unknown"}' not in text


def test_every_name_is_in_the_table() -> None:
    text = page(DONE, LEFT, TURNED_AWAY)
    names = set(re.findall(r"^# TYPE (coderllm_\S+) ", text, flags=re.MULTILINE))
    names = {name for name in names if not name.endswith("_created")}
    table = metrics_module.__doc__
    assert table is not None
    described = set(re.findall(r"coderllm_\w+", table)) | {"coderllm_num_requests_waiting"}
    assert names <= described
    assert described - names == {
        "coderllm_num_requests_running",
        "coderllm_num_requests_waiting",
    } | {name for name in described if name == "coderllm_"}


def test_openmetrics_where_it_is_asked_for() -> None:
    body, kind = Metrics().page("application/openmetrics-text; version=1.0.0")
    assert kind.startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")


@pytest.mark.skipif(
    shutil.which("promtool") is None, reason="no promtool on PATH; on Debian: prometheus"
)
def test_promtool_finds_nothing_to_say() -> None:
    done = subprocess.run(
        ["promtool", "check", "metrics"],
        input=page(DONE, LEFT, TURNED_AWAY),
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
