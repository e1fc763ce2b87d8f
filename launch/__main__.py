"""`python3 -m launch WAY [--dry-run] [-- ARGUMENT...]`, from the checkout.

Exit codes: the run's own (0 done, 1 a retry would fail alike), 1 for a wrong setting, 42 where a
signal or too many interruptions ended it: the same command goes on.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from launch import gke, hosts, slurm, tpu_vm
from launch.checkout import ROOT
from launch.commands import Commands
from launch.errors import LaunchError, StoppedError
from launch.settings import load_settings
from launch.supervision import RESUMABLE

_WAYS = {"tpu-vm": tpu_vm, "gke": gke, "ssh": hosts, "slurm": slurm}
_CLEANERS = {"tpu-vm": tpu_vm.clean_up, "gke": gke.clean_up}


def main(words: Sequence[str] | None = None) -> int:
    """Launches, and returns the exit code."""
    words = list(sys.argv[1:] if words is None else words)
    split = words.index("--") if "--" in words else len(words)
    parser = argparse.ArgumentParser(
        prog="python3 -m launch",
        description="Runs coderllm_jax.train elsewhere; launch/README.md says what each way needs.",
        epilog="What follows -- is added to the run's arguments: -- --config.steps=100",
    )
    parser.add_argument("way", choices=_WAYS)
    parser.add_argument("--dry-run", action="store_true", help="print every command, run none")
    parser.add_argument("--clean-up", action="store_true", help="delete what a launch has left")
    parser.add_argument("--settings", type=Path, default=Path("launch/settings.toml"))
    options = parser.parse_args(words[:split])
    try:
        settings = load_settings(options.settings)
        arguments = (*settings.arguments, *words[split + 1 :])
        settings = dataclasses.replace(settings, arguments=arguments)
        act = _WAYS[options.way].launch
        if options.clean_up:
            if options.way not in _CLEANERS:
                raise LaunchError(f"{options.way} leaves nothing behind; leave --clean-up out")
            act = _CLEANERS[options.way]
        os.chdir(ROOT)
        with Commands(dry_run=options.dry_run) as commands:
            return act(settings, commands)
    except LaunchError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except StoppedError as stopped:
        print(f"interrupted: {stopped}; the same command goes on", file=sys.stderr)
        return RESUMABLE


if __name__ == "__main__":
    sys.exit(main())
