"""A job of Slurm: one `sbatch`; what happens then is in slurm.sh.

The checkout, its environment and the run's folder lie on a file system that all nodes share.
JAX finds the tasks of a job by Slurm's own variables.
"""

from __future__ import annotations

from launch.commands import Commands
from launch.host_words import check_arguments
from launch.settings import Settings

# Longer than checkpoint.grace_period_s, and than a queue that looks twice a minute.
_SECONDS_BEFORE_THE_END = 120


def launch(settings: Settings, commands: Commands) -> int:
    """Puts it into the queue; returns sbatch's exit code. Raises LaunchError."""
    settings.require("slurm.python")
    check_arguments(settings)
    slurm = settings.slurm
    options = [f"--python={slurm.python}"]
    if settings.secrets_file:
        options.append(f"--secrets={settings.secrets_file}")
    return commands.run(
        [
            "sbatch",
            f"--job-name={settings.name}",
            f"--nodes={slurm.nodes}",
            f"--ntasks-per-node={slurm.tasks_per_node}",
            "--requeue",
            "--open-mode=append",
            f"--output={settings.name}-%j.log",
            f"--signal=B:TERM@{_SECONDS_BEFORE_THE_END}",
            *slurm.options,
            "launch/slurm.sh",
            settings.name,
            str(settings.max_restarts),
            *options,
            "--",
            *settings.arguments,
        ]
    )
