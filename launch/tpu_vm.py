"""Cloud TPU VMs through queued resources.

    describe ── there is none ──► create ──► wait for ACTIVE ──► install ──► run ── 0, 1 ──► delete
       └─ an earlier launch's ───────────────────┘  ▲                         │
                                                    └── delete, create ◄── preempted

A preempted slice (the queued resource is SUSPENDED, its node PREEMPTED or gone) is asked for anew,
also where it goes before it was seen to be there, until `wait_hours` are over; the run's folder
lies in the bucket and the same command goes on. Whatever ends the launch, the queued resource is
deleted, unless `keep` is set; after a signal a gcloud that cannot look is asked a few times only,
and the error says the command that deletes.

The states are those of QueuedResourceState and Node in Cloud TPU's API, version 2.
"""

from __future__ import annotations

import itertools
import json
import shlex
import time
from typing import Any, NamedTuple

from launch.accelerators import Slice, find_slice
from launch.checkout import check_code, packed
from launch.commands import Commands
from launch.errors import LaunchError
from launch.host_words import (
    MOUNT,
    cloud_arguments,
    install_words,
    remote_line,
    run_words,
    verb_words,
)
from launch.settings import Settings
from launch.supervision import Processes, supervise

_FOLDER = "coderllm_jax"
_CODE, _SECRETS = "coderllm-code.tar.gz", "coderllm-secrets"
_POLL_S = 20.0
# Network troubles of a laptop are no reason to give a slice back.
_MAX_FAILED_LOOKS = 30
# Whoever has sent a signal waits for the end, and can delete it by hand.
_MAX_FAILED_LOOKS_AFTER_A_SIGNAL = 3
# What waiting does not mend.
_HOPELESS = ("PERMISSION_DENIED", "UNAUTHENTICATED", "auth login", "INVALID_ARGUMENT")
_LOST = ("FAILED", "DELETING")
_OVER = (*_LOST, "SUSPENDING", "SUSPENDED")


class _State(NamedTuple):
    name: str  # "" where there is no such resource
    reason: str = ""


def launch(settings: Settings, commands: Commands) -> int:
    """Runs it on a slice; returns its exit code. Raises LaunchError and StoppedError."""
    slice_ = check(settings)
    queue = _Queue(settings, slice_, commands)
    try:
        with packed(dry_run=commands.dry_run) as archive:
            while True:
                queue.obtain()
                code = _install_and_run(queue, str(archive))
                if code is not None:
                    return code
                commands.note(f"{settings.name} was preempted: asking for it anew")
                queue.delete()
    finally:
        with commands.tidying():
            if settings.keep:
                commands.note(f"{settings.name} is kept, and costs; --clean-up deletes it")
            else:
                queue.delete()


def clean_up(settings: Settings, commands: Commands) -> int:
    """Deletes what an earlier launch has left."""
    slice_ = check(settings)
    with commands.tidying():
        _Queue(settings, slice_, commands).delete()
    return 0


def check(settings: Settings) -> Slice:
    """The slice; LaunchError for the first setting that is missing or wrong."""
    settings.require("cloud.project", "cloud.zone", "cloud.bucket")
    slice_ = find_slice(settings.cloud.accelerator)
    cloud_arguments(settings, num_hosts=slice_.num_hosts)
    check_code(settings, mount=MOUNT)
    return slice_


def _install_and_run(queue: _Queue, archive: str) -> int | None:
    """The run's exit code; None where the slice is gone."""
    try:
        _install(queue, archive)
    except LaunchError:
        if queue.is_lost():
            return None
        raise
    return supervise(
        queue.commands,
        _processes(queue),
        max_restarts=queue.settings.max_restarts,
        is_lost=queue.is_lost,
    )


class _Queue:
    """The queued resource of that name and its one node, which has the same name."""

    def __init__(self, settings: Settings, slice_: Slice, commands: Commands) -> None:
        self.settings, self.slice, self.commands = settings, slice_, commands

    def words(self, *verb: str, options: tuple[str, ...] = ()) -> list[str]:
        """`gcloud compute tpus VERB... OPTION...` for this project and zone."""
        place = [f"--project={self.settings.cloud.project}", f"--zone={self.settings.cloud.zone}"]
        return ["gcloud", "compute", "tpus", *verb, *place, "--quiet", *options]

    def ssh(self, worker: str, line: str) -> list[str]:
        """Runs a line in a shell of that worker, or of all."""
        verb = ("tpu-vm", "ssh", self.settings.name)
        return self.words(*verb, options=(f"--worker={worker}", f"--command={line}"))

    def scp(self, source: str, target: str) -> list[str]:
        """Copies a file to all workers' home folders."""
        verb = ("tpu-vm", "scp", source, f"{self.settings.name}:{target}")
        return self.words(*verb, options=("--worker=all",))

    def obtain(self) -> None:
        """Returns once the slice is there."""
        name = self.settings.name
        state = self._look(pretend="")
        if state.name in _OVER:
            self.commands.note(f"{name} is {state.name}: asking for it anew")
            self.delete()
            state = _State("")
        if not state.name:
            self._create()
        deadline = time.monotonic() + self.settings.tpu_vm.wait_hours * 3600
        self.commands.note(f"waiting for {name} to be ACTIVE")
        seen = ""
        while (state := self._look(pretend="ACTIVE")).name != "ACTIVE":
            if state.name in ("", *_LOST):
                raise LaunchError(
                    f"{name} is {state.name or 'gone'}{state.reason and f' ({state.reason})'}; "
                    "another zone, accelerator or cloud.spot may be given sooner"
                )
            if time.monotonic() > deadline:
                raise LaunchError(
                    f"{name} is still {state.name} after {self.settings.tpu_vm.wait_hours:g} "
                    "hours; raise tpu_vm.wait_hours, or name another zone"
                )
            if state.name == "SUSPENDED":  # it was there between two looks
                self.commands.note(f"{name} was preempted: asking for it anew")
                self.delete()
                self._create()
            elif state.name != seen:
                self.commands.note(f"{name} is {state.name}")
            seen = state.name
            self.commands.sleep(_POLL_S)

    def is_lost(self) -> bool:
        """Whether the node can do nothing any more."""
        node = self._describe("tpu-vm", pretend={"state": "READY"})
        if node is None or node.get("state") not in ("READY", "RESTARTING"):
            return True
        return self._look(pretend="ACTIVE").name != "ACTIVE"

    def delete(self) -> None:
        """Gives everything back; LaunchError, with the command to give by hand, where it stays."""
        # Nodes first, then the request.
        words = self.words("queued-resources", "delete", self.settings.name, options=("--force",))
        try:
            if not self._look(pretend="ACTIVE").name:
                return
        except LaunchError as error:
            raise LaunchError(
                f"{error}; until then it may be there and cost; to delete it: {shlex.join(words)}"
            ) from None
        if self.commands.run(words):
            raise LaunchError(
                f"{self.settings.name} could not be deleted and goes on to cost; its reason is "
                f"above; run: {shlex.join(words)}"
            )

    def _create(self) -> None:
        cloud = self.settings.cloud
        options = [
            f"--node-id={self.settings.name}",
            f"--accelerator-type={self.slice.name}",
            f"--runtime-version={self.settings.tpu_vm.runtime or self.slice.runtime}",
            # The VMs write the bucket, as their service account.
            "--scopes=https://www.googleapis.com/auth/cloud-platform",
        ]
        if cloud.service_account:
            options.append(f"--service-account={cloud.service_account}")
        if cloud.spot:
            options.append("--spot")
        self.commands.must(
            self.words("queued-resources", "create", self.settings.name, options=tuple(options)),
            f"asking for {self.slice.name}",
        )

    def _look(self, *, pretend: str) -> _State:
        resource = self._describe("queued-resources", pretend={"state": {"state": pretend}})
        state = (resource or {}).get("state", {})
        error = state.get("failedData", {}).get("error", {})
        return _State(state.get("state", ""), error.get("message", ""))

    def _describe(self, kind: str, *, pretend: dict[str, Any]) -> dict[str, Any] | None:
        """What gcloud knows of it; None where there is no such thing."""
        words = self.words(kind, "describe", self.settings.name, options=("--format=json",))
        for look in itertools.count(1):
            reply = self.commands.ask(words, pretend=json.dumps(pretend))
            if not reply.code:
                return json.loads(reply.out or "{}")
            if "NOT_FOUND" in reply.err:
                return None
            stopping = self.commands.received
            most = _MAX_FAILED_LOOKS_AFTER_A_SIGNAL if stopping else _MAX_FAILED_LOOKS
            if look >= most or any(word in reply.err for word in _HOPELESS):
                break
            self.commands.note(f"gcloud cannot look at {self.settings.name}; trying again")
            self.commands.sleep(_POLL_S)
        raise LaunchError(
            f"gcloud cannot describe {self.settings.name}: {reply.last_line}; mend that, and "
            "launch again: it takes up what is there"
        )


def _install(queue: _Queue, archive: str) -> None:
    settings, name = queue.settings, queue.settings.name
    commands = queue.commands
    commands.must(queue.scp(archive, _CODE), "copying the code")
    unpack = (["mkdir", "-p", _FOLDER], ["tar", "xzf", _CODE, "-C", _FOLDER])
    lines = [*map(shlex.join, unpack), shlex.join(["cd", _FOLDER])]
    if settings.secrets_file:
        commands.must(queue.scp(settings.secrets_file, _SECRETS), "copying the secrets")
        receive = shlex.join(verb_words("receive", name))
        lines += [f"{receive} < ../{_SECRETS}", f"rm ../{_SECRETS}"]
    lines.append(shlex.join(install_words(settings, "tpu")))
    commands.must(queue.ssh("all", " && ".join(lines)), "installing on all workers")


def _processes(queue: _Queue) -> Processes:
    settings, name = queue.settings, queue.settings.name
    arguments = cloud_arguments(settings, num_hosts=queue.slice.num_hosts)
    options = [f"--bucket={settings.cloud.bucket}", f"--mount={MOUNT}"]
    line = remote_line(_FOLDER, run_words(name, arguments, options=options))
    workers = [str(rank) for rank in range(queue.slice.num_hosts)]
    result = remote_line(_FOLDER, verb_words("result", name))
    return Processes(
        # One connection a worker: gcloud returns one code for all, and not the one that counts.
        run=tuple(queue.ssh(worker, line) for worker in workers),
        stop=(queue.ssh("all", remote_line(_FOLDER, verb_words("stop", name))),),
        result=tuple(queue.ssh(worker, result) for worker in workers),
    )
