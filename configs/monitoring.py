"""The monitor over everything in runs/, the default request log and this machine.

Run      python -m coderllm_jax.monitor --config=configs/monitoring.py
Reads    runs/*, runs/serving/requests.jsonl, this machine; writes runs/.monitor only
Takes    until it is stopped; it may be stopped and started at any time
Expect   a page on http://127.0.0.1:8765, and alerts to the URLs in MONITOR_ALERT_URLS
"""

from pathlib import Path

import ml_collections

from coderllm_jax.config import MonitoringConfig


def get_config() -> ml_collections.ConfigDict:
    """The card's configuration."""
    config = MonitoringConfig.create_default()
    # Yours to edit; it lies beside this card.
    config.alerts.rules = str(Path(__file__).with_name("alerts.yaml"))
    return config
