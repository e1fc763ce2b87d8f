"""Figures for Prometheus, under names that users of vLLM and OpenTelemetry know.

vLLM's names with `coderllm_` for `vllm:` (a colon in a name is kept for recording rules, and
promtool refuses it here); its label `model_name` is the arm. Not every panel of its dashboards
fits: the gauges of running and waiting requests are the server's, without a `model_name`, since
arms share slots, and there is no kv_cache_usage_perc, since every slot has a cache of its own. What
OpenTelemetry's conventions for generative AI call the same:

| ours | vLLM | OpenTelemetry |
| --- | --- | --- |
| coderllm_num_requests_running, _waiting | the same, by model_name | |
| coderllm_time_to_first_token_seconds | the same | gen_ai.server.time_to_first_token |
| coderllm_time_per_output_token_seconds | the same | gen_ai.server.time_per_output_token |
| coderllm_e2e_request_latency_seconds | the same | gen_ai.server.request.duration |
| coderllm_request_queue_time_seconds | the same | |
| coderllm_prompt_tokens_total | the same | gen_ai.client.token.usage, gen_ai.token.type=input |
| coderllm_generation_tokens_total | the same | the same, =output |
| coderllm_request_success_total{finished_reason} | the same | gen_ai.response.finish_reasons |
| coderllm_request_failure_total{status, code} | | error.type |
| coderllm_request_retrieval_time_seconds | | |
| coderllm_request_refused_total | | nothing relevant was found |
| coderllm_ready, coderllm_request_log_failures_total | | |

Buckets are those of OpenTelemetry's conventions, with longer ones for slow machines. Labels are
names of arms, finishes and our own codes, never words of a request: their number is bounded.
"""

from __future__ import annotations

from collections.abc import Callable

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import choose_encoder

from coderllm_jax.serving.request_log import RequestRecord

_DURATIONS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96)
_DURATION_BUCKETS = (*_DURATIONS, 81.92, 163.84, 327.68)
_FIRST = (
    0.001,
    0.005,
    0.01,
    0.02,
    0.04,
    0.06,
    0.08,
    0.1,
    0.25,
    0.5,
    0.75,
    1.0,
    2.5,
    5.0,
    7.5,
    10.0,
)
_FIRST_BUCKETS = (*_FIRST, 20.0, 40.0, 80.0)
_TOKEN_BUCKETS = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)


class Metrics:
    """One server's figures. Not for several threads."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._observed: dict[str, Histogram] = {
            name: Histogram(
                f"coderllm_{metric}_seconds",
                meaning,
                ["model_name"],
                buckets=buckets,
                registry=self._registry,
            )
            for name, metric, meaning, buckets in (
                (
                    "ttft_s",
                    "time_to_first_token",
                    "From coming to the first token.",
                    _FIRST_BUCKETS,
                ),
                (
                    "time_per_token_s",
                    "time_per_output_token",
                    "Mean of a request over its tokens after the first.",
                    _TOKEN_BUCKETS,
                ),
                ("total_s", "e2e_request_latency", "From coming to the end.", _DURATION_BUCKETS),
                (
                    "queue_s",
                    "request_queue_time",
                    "From coming to the beginning of its answer.",
                    _DURATION_BUCKETS,
                ),
                ("retrieval_s", "request_retrieval_time", "Spent looking up.", _FIRST_BUCKETS),
            )
        }
        self._prompt = self._counter("prompt_tokens", "Tokens of prompts.")
        self._generated = self._counter("generation_tokens", "Tokens of answers.")
        self._refused = self._counter(
            "request_refused", "Answered with: nothing relevant was found."
        )
        self._success = self._counter(
            "request_success", "Requests that were answered.", "finished_reason"
        )
        self._failure = self._counter(
            "request_failure", "Requests that were not answered.", "status", "code"
        )
        self._log_failures = Counter(
            "coderllm_request_log_failures",
            "Lines that could not be written.",
            registry=self._registry,
        )
        prometheus_client.ProcessCollector(registry=self._registry)
        prometheus_client.PlatformCollector(registry=self._registry)

    def watch(self, name: str, meaning: str, read: Callable[[], float]) -> None:
        """A figure that is read whenever somebody asks."""
        Gauge(f"coderllm_{name}", meaning, registry=self._registry).set_function(read)

    def observe(self, record: RequestRecord) -> None:
        """Takes in a request that has ended."""
        arm = record.arm or "unknown"
        if record.error:
            self._failure.labels(arm, str(record.status), record.error).inc()
        else:
            self._success.labels(arm, record.finish).inc()
        if record.refused:
            self._refused.labels(arm).inc()
        self._prompt.labels(arm).inc(record.prompt_tokens)
        self._generated.labels(arm).inc(record.completion_tokens)
        for name, histogram in self._observed.items():
            value = getattr(record, name)
            # A request that was turned away waited for nothing.
            if value is not None and record.queue_s is not None:
                histogram.labels(arm).observe(value)

    def count_log_failure(self) -> None:
        """A line of the request log is lost."""
        self._log_failures.inc()

    def page(self, accept: str) -> tuple[bytes, str]:
        """All of it, in the format that `accept` asks for, and that format's name."""
        encode, kind = choose_encoder(accept)
        return encode(self._registry), kind

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(
            f"coderllm_{name}", meaning, ["model_name", *labels], registry=self._registry
        )
