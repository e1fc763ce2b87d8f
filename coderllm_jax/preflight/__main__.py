"""`python -m coderllm_jax.preflight`: a training run and a TPU slice in; does it fit, how fast.

Exit codes: 0 it fits, 3 nothing that was tried does (with what would), 1 a mistake, or libtpu is
missing or gives no answer.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from coderllm_jax import entry
from coderllm_jax.config.command_line import Shorthand
from coderllm_jax.config.preflight import PreflightConfig
from coderllm_jax.errors import ConfigError

DOES_NOT_FIT = 3
# Written without `--config.`, as the question is asked.
SHORTHAND = Shorthand(options=("topology", "json"))


def main(config: PreflightConfig) -> int:
    """Prints the table, then writes the JSON file where one is named.

    That there is a place for the file is seen to before anything is compiled.
    """
    path = _place(config.json) if config.json else None
    from coderllm_jax.training.devices import prepare_process

    prepare_process(platform="cpu", cache_dir=config.model.cache_dir)
    from coderllm_jax.preflight.preflighting import run_preflight
    from coderllm_jax.preflight.report import describe, to_json

    found = run_preflight(config, note=entry.Notes())
    print(describe(found), flush=True)
    if path is not None:
        path.write_text(json.dumps(to_json(found), indent=2) + "\n")
    return 0 if found.fits else DOES_NOT_FIT


def _place(name: str) -> Path:
    """Where the JSON file goes, its folder made; ConfigError where nobody may write it."""
    path = Path(name).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ConfigError(f"json is {name!r}, which cannot be written; name a file of yours")
    return path


if __name__ == "__main__":
    entry.run(main, PreflightConfig, "configs/lora.py", shorthand=SHORTHAND)
