"""Every field of the monitor. This file is itself a card: `--config` may name it."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from coderllm_jax.config.access import check_access
from coderllm_jax.config.schema import Config, Section, option, section
from coderllm_jax.errors import ConfigError

# Fields of a request that a log of another server may call by other names.
REQUEST_FIELDS = (
    "time",
    "id",
    "arm",
    "model_version",
    "status",
    "finish",
    "prompt_tokens",
    "completion_tokens",
    "queue_s",
    "ttft_s",
    "time_per_token_s",
    "total_s",
    "num_sources",
    "retrieval_s",
    "top_score",
    "mean_logprob",
    "refused",
    "error",
    "judged_score",
)


@dataclasses.dataclass(frozen=True)
class TrafficSection(Section):
    logs: tuple[str, ...] = option(
        ("runs/serving/requests.jsonl",),
        "Request logs, JSON lines; patterns such as logs/*.jsonl may be used. Rotated ones are "
        "followed.",
    )
    fields: tuple[str, ...] = option(
        (),
        "What another server's log calls our fields: ours=theirs, dots for nesting, and *0.001 "
        "where theirs is in milliseconds, as in total_s=timing.latency_ms*0.001.",
    )
    window_s: float = option(300.0, "Rates and percentiles are over this long.", low=10, high=86400)


@dataclasses.dataclass(frozen=True)
class DriftSection(Section):
    reference_requests: int = option(
        2000, "Requests that say what is usual; they are gathered first.", low=100, high=100_000
    )
    window_requests: int = option(
        300, "Latest requests that are compared with those.", low=50, high=10_000
    )
    smallest: float = option(
        0.5,
        "Shifts of a mean below this many standard deviations are nobody's concern.",
        low=0.05,
        high=5,
    )
    false_alarms_per_10k: float = option(
        0.005,
        "Expected false alarms in 10,000 requests, all figures together; detectors are set by it.",
        low=1e-9,
        high=1,
    )


@dataclasses.dataclass(frozen=True)
class AlertsSection(Section):
    rules: str = option(
        "", "YAML file of alert rules, which join or change the built-in ones; empty: those only."
    )
    urls_variable: str = option(
        "MONITOR_ALERT_URLS",
        "Environment variable with where alerts are sent, apprise URLs separated by blanks: mail, "
        "chat, webhook (json://host/path). The URLs are secrets and are never shown.",
    )
    retry_s: float = option(
        5.0, "First wait before a failed notification is tried again; doubles each time.", low=0.01
    )
    max_retry_s: float = option(600.0, "Longest such wait.", low=0.01)
    give_up_s: float = option(
        86400.0, "A notification that could not be sent for this long is dropped.", low=1
    )

    def check(self) -> None:
        if self.max_retry_s < self.retry_s:
            raise ConfigError(
                f"alerts.max_retry_s is {self.max_retry_s:g}, below alerts.retry_s "
                f"{self.retry_s:g}; raise it"
            )


@dataclasses.dataclass(frozen=True)
class PageSection(Section):
    host: str = option("127.0.0.1", "Address that the page is served on.")
    port: int = option(8765, "Port; 0: any free one.", low=0, high=65535)
    hosts: tuple[str, ...] = option(
        (), "Names under which the page may be asked for, besides the address itself."
    )
    token_variable: str = option(
        "MONITOR_TOKEN",
        "Environment variable with the token that the page asks for; any address but loopback "
        "needs one.",
    )

    def check(self) -> None:
        check_access(
            hosts=self.hosts,
            token_variable=self.token_variable,
            section="page.",
            example="MONITOR_TOKEN",
        )


@dataclasses.dataclass(frozen=True)
class MonitoringConfig(Config):
    """The monitor: what it watches, and where it shows it."""

    title: ClassVar[str] = (
        "Shows training runs, the machine and served traffic live, and says when something is "
        "wrong."
    )

    runs: tuple[str, ...] = option(
        ("runs",),
        "Folders of runs, or of folders of runs (three levels down); those that appear later are "
        "found, too.",
    )
    state_dir: str = option(
        "runs/.monitor", "The monitor's own folder: history of alerts, unsent notifications."
    )
    poll_s: float = option(1.0, "Seconds between looks at files.", low=0.05, high=3600)
    machine_s: float = option(5.0, "Seconds between looks at the machine.", low=0.1, high=3600)
    max_points: int = option(
        200_000, "Points that are kept of one series; older ones thin out.", low=1000
    )

    traffic: TrafficSection = section(TrafficSection)
    drift: DriftSection = section(DriftSection)
    alerts: AlertsSection = section(AlertsSection)
    page: PageSection = section(PageSection)


get_config = MonitoringConfig.create_default
