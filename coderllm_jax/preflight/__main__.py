"""`python -m coderllm_jax.preflight`: a training run and a TPU slice in; does it fit, how fast.

Exit codes: 0 it fits, 3 nothing that was tried does (with what would), 1 a mistake, or libtpu is
missing or gives no answer.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from coderllm_jax import entry
from coderllm_jax.config.preflight import PreflightConfig

DOES_NOT_FIT = 3
# Written without `--config.`, as the question is asked.
_SHORT = ("topology", "json")


def main(config: PreflightConfig) -> int:
    """Prints the table, writes the JSON file where one is named."""
    from coderllm_jax.training.devices import prepare_process

    prepare_process(platform="cpu", cache_dir=config.model.cache_dir)
    from coderllm_jax.preflight.preflighting import run_preflight
    from coderllm_jax.preflight.report import describe, to_json

    found = run_preflight(config, note=entry.Notes())
    if config.json:
        path = Path(config.json)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(to_json(found), indent=2) + "\n")
    print(describe(found))
    return 0 if found.fits else DOES_NOT_FIT


def spell_out(argv: Sequence[str]) -> Iterator[str]:
    """`--topology=X` as `--config.topology=X`, and `--json` likewise."""
    for word in argv:
        name = word.lstrip("-").partition("=")[0]
        is_short = word.startswith("-") and name in _SHORT
        yield f"--config.{word.lstrip('-')}" if is_short else word


if __name__ == "__main__":
    entry.run(main, PreflightConfig, "configs/lora.py", argv=list(spell_out(sys.argv)))
