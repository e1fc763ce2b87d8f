"""Command lines of `host.sh`, and what the run gets beside the arguments of the settings."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from launch.errors import LaunchError
from launch.settings import Settings

# Where a bucket is seen on every host of a cloud.
MOUNT = "/mnt/coderllm"


def install_words(settings: Settings, platform: str) -> list[str]:
    """Makes the environment, and the default rows where the run does not name its own."""
    card = [settings.prepare] if settings.prepares else []
    return ["bash", "launch/host.sh", "install", platform, *card]


def run_words(state: str, arguments: Sequence[str], *, options: Sequence[str] = ()) -> list[str]:
    """One process of the run."""
    return ["bash", "launch/host.sh", "run", state, *options, "--", *arguments]


def verb_words(verb: str, state: str) -> list[str]:
    """`host.sh stop`, `result`, `receive`, `clean`."""
    return ["bash", "launch/host.sh", verb, state]


def remote_line(folder: str, *commands: Sequence[str]) -> str:
    """One line for a shell elsewhere: the commands one after the other, in the folder."""
    return " && ".join([shlex.join(["cd", folder]), *map(shlex.join, commands)])


def check_arguments(settings: Settings) -> None:
    """LaunchError where the arguments say what the launch itself says."""
    for option in ("enabled", "coordinator", "num_processes", "process_id"):
        if settings.has_argument(f"distributed.{option}"):
            raise LaunchError(
                f"arguments sets distributed.{option}; how processes find one another is the "
                "launch's business: leave it out"
            )


def cloud_arguments(settings: Settings, *, num_hosts: int) -> list[str]:
    """The run's arguments where its folder lies in a mounted bucket; LaunchError elsewhere."""
    check_arguments(settings)
    arguments = list(settings.arguments)
    if settings.has_argument("workdir"):
        if not any(word.startswith(f"--config.workdir={MOUNT}/") for word in arguments):
            raise LaunchError(
                f"arguments sets a workdir outside of the bucket, which is seen as {MOUNT}; the "
                f"run would be lost with its machine: leave it out, or begin it with {MOUNT}/"
            )
    else:
        arguments.append(f"--config.workdir={MOUNT}/runs/{settings.name}")
    # A TPU that does not answer must end the run: JAX would go on with the CPU.
    arguments.append("--config.mesh.platform=tpu")
    if num_hosts > 1:
        arguments.append("--config.distributed.enabled=on")
    return arguments
