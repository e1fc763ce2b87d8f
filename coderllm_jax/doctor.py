"""`python -m coderllm_jax.doctor`: what this machine has, and what is missing.

    what a run would use ──► checks, side by side ──► a table, a verdict, an exit code

Exit code 0: training can start; 1: something it needs is missing. Nothing is changed, and no
credential is printed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from coderllm_jax import entry
from coderllm_jax.config.doctor import DoctorConfig

if TYPE_CHECKING:
    from coderllm_jax.diagnosis.check import Check


def main(config: DoctorConfig) -> int:
    """Examines, prints, and returns the exit code."""
    from coderllm_jax.diagnosis.check import exit_code, table, to_json, verdict

    checks = examine(config)
    figures = json.dumps(to_json(checks), indent=1, ensure_ascii=False)
    if config.json == "-":
        print(figures)
        return exit_code(checks)
    print(f"{table(checks)}\n\n{verdict(checks)}")
    if config.json:
        Path(config.json).expanduser().write_text(f"{figures}\n", encoding="utf-8")
    return exit_code(checks)


def examine(config: DoctorConfig) -> list[Check]:
    """Every finding about this machine, in the order of the table; takes some seconds."""
    from concurrent.futures import ThreadPoolExecutor

    from coderllm_jax.diagnosis import accounts, assets, hardware, packages, places, programs
    from coderllm_jax.diagnosis.check import without_secrets

    cache_dir = config.model.cache_dir
    with ThreadPoolExecutor() as pool:  # what starts a process or reads much goes side by side
        devices_later = pool.submit(hardware.Devices)
        scann = pool.submit(programs.check_scann)
        sandbox = pool.submit(programs.check_sandbox)
        packaged_later = pool.submit(assets.check_packaged_model, config.model_name)

        def findings() -> Iterator[Check]:
            yield from packages.check_packages()
            devices, packaged = devices_later.result(), packaged_later.result()
            converted = assets.check_converted_model(
                cache_dir, sha256=packaged.sha256, weights=devices.weights
            )
            yield devices.check()
            yield devices.check_precision()
            yield hardware.check_memory()
            yield hardware.check_hosts()
            yield from places.check_places(
                places.places_of_a_run(
                    workdir=config.workdir,
                    cache_dir=cache_dir,
                    weights=devices.weights,
                    is_converted=converted.is_whole,
                    is_prepared=assets.default_data_is_there(),
                )
            )
            yield packaged.check
            yield converted.check
            yield assets.check_default_data()
            yield from accounts.check_accounts()
            yield sandbox.result()
            yield scann.result()
            yield programs.check_browser()
            yield programs.check_git()

        return [without_secrets(check) for check in findings()]


if __name__ == "__main__":
    entry.run(main, DoctorConfig, default_card="")
