"""Plain machines with ssh: a list of hosts, the first of which coordinates.

    a, b ──► copy the code and install (unless `installed`) ──► run on both ──► stop and forget

However the launch ends, whatever still runs on a host that answers is stopped, and the secrets and
the run's state are removed from it. All hosts must see the run's folder (`--config.workdir`) under
one path, on a shared file system.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from launch.checkout import check_code, packed
from launch.commands import Commands
from launch.errors import LaunchError
from launch.host_words import (
    check_arguments,
    install_words,
    remote_line,
    run_words,
    verb_words,
)
from launch.settings import Settings
from launch.supervision import Processes, supervise

# Never a question, and a dead connection is noticed within two minutes.
_SSH = ["ssh", "-o", "BatchMode=yes", "-o", "ServerAliveInterval=30", "-o", "ServerAliveCountMax=4"]
_HOST = re.compile(r"([\w.-]+@)?[\w\[][\w.:\]-]*")


def launch(settings: Settings, commands: Commands) -> int:
    """Runs it on all hosts; returns its exit code. Raises LaunchError and StoppedError."""
    check(settings)
    try:
        _install(settings, commands)
        code = supervise(commands, _processes(settings), max_restarts=settings.max_restarts)
        assert code is not None, "these hosts are never lost"
        return code
    finally:
        with commands.tidying():
            commands.together(_on_each_host(settings, "clean"), stop=lambda: None)


def check(settings: Settings) -> None:
    """LaunchError for the first setting that is missing or wrong."""
    settings.require("ssh.hosts", "ssh.folder", "ssh.python")
    for host in settings.ssh.hosts:
        if not _HOST.fullmatch(host):
            raise LaunchError(f"ssh.hosts has {host!r}; expected HOST or USER@HOST")
    check_arguments(settings)
    if not settings.ssh.installed:
        check_code(settings)


def state_name(settings: Settings, rank: int) -> str:
    """Apart for each process: hosts may share a home folder, or be the same machine."""
    return f"{settings.name}-{rank}"


def _ssh(host: str, line: str) -> list[str]:
    return [*_SSH, host, line]


def _on_each_host(settings: Settings, verb: str) -> tuple[list[str], ...]:
    return tuple(
        _ssh(host, remote_line(settings.ssh.folder, verb_words(verb, state_name(settings, rank))))
        for rank, host in enumerate(settings.ssh.hosts)
    )


def _install(settings: Settings, commands: Commands) -> None:
    folder = settings.ssh.folder
    if not settings.ssh.installed:
        unpack = [["mkdir", "-p", folder], ["tar", "xzf", "-", "-C", folder]]
        with packed(dry_run=commands.dry_run) as archive:
            for host in settings.ssh.hosts:
                line = " && ".join(map(shlex.join, unpack))
                commands.must(_ssh(host, line), f"copying the code to {host}", stdin=archive)
        line = remote_line(folder, install_words(settings, settings.ssh.platform))
        installs = [_ssh(host, line) for host in settings.ssh.hosts]
        codes = commands.together(installs, stop=lambda: None, patience_s=1)
        commands.check_signal()
        for host, code in zip(settings.ssh.hosts, codes, strict=True):
            if code:
                raise LaunchError(f"installing on {host} failed ({code}); its lines are above")
    if settings.secrets_file:
        secrets = Path(settings.secrets_file)
        for words in _on_each_host(settings, "receive"):
            commands.must(words, "copying the secrets", stdin=secrets)


def _processes(settings: Settings) -> Processes:
    ssh = settings.ssh
    first = ssh.coordinator or ssh.hosts[0].rpartition("@")[2]
    run = []
    for rank, host in enumerate(ssh.hosts):
        arguments = list(settings.arguments)
        if len(ssh.hosts) > 1:
            arguments += [
                f"--config.distributed.coordinator={first}:{ssh.port}",
                f"--config.distributed.num_processes={len(ssh.hosts)}",
                f"--config.distributed.process_id={rank}",
            ]
        words = run_words(state_name(settings, rank), arguments, options=[f"--python={ssh.python}"])
        run.append(_ssh(host, remote_line(ssh.folder, words)))
    return Processes(
        run=tuple(run),
        stop=_on_each_host(settings, "stop"),
        result=_on_each_host(settings, "result"),
    )
