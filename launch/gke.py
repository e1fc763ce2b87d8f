"""A JobSet on a GKE cluster: the code into the bucket, the manifest to the cluster, and wait.

    cp code.tar.gz ──► create secret ──► apply ──► look until Completed or Failed ──► delete

What fails and what is started again is the cluster's business, see `jobset`.
"""

from __future__ import annotations

import json
import re
import shlex
import time
from collections.abc import Sequence
from typing import Any

from launch.accelerators import Slice, find_slice
from launch.checkout import check_code, packed
from launch.commands import Commands
from launch.errors import LaunchError
from launch.host_words import MOUNT, cloud_arguments
from launch.jobset import CODE, make_jobset, secret_name
from launch.settings import Settings

_POLL_S = 15.0
_MAX_FAILED_LOOKS = 40


def launch(settings: Settings, commands: Commands) -> int:
    """Runs it in the cluster; 0 where it finished. Raises LaunchError and StoppedError."""
    slice_ = check(settings)
    bucket = settings.cloud.bucket.rstrip("/")
    with packed(dry_run=commands.dry_run) as archive:
        target = f"{bucket}/{CODE.format(name=settings.name)}"
        project = f"--project={settings.cloud.project}"
        commands.must(
            ["gcloud", "storage", "cp", str(archive), target, project, "--quiet"],
            "copying the code",
        )
    try:
        _make(settings, slice_, commands)
        return _wait(settings, commands)
    finally:
        with commands.tidying():
            if settings.keep:
                commands.note(f"JobSet {settings.name} is kept; --clean-up deletes it")
            else:
                clean_up(settings, commands)


def check(settings: Settings) -> Slice:
    """The slice; LaunchError for the first setting that is missing or wrong."""
    settings.require(
        *("cloud.project", "cloud.bucket"),
        *("gke.cluster", "gke.namespace", "gke.service_account", "gke.image"),
    )
    _check_place(settings)
    slice_ = find_slice(settings.cloud.accelerator)
    cloud_arguments(settings, num_hosts=slice_.num_hosts)
    check_code(settings, mount=MOUNT)
    return slice_


def clean_up(settings: Settings, commands: Commands) -> int:
    """Deletes what a launch makes. Pods get SIGTERM, and the run saves."""
    settings.require("cloud.project", "gke.cluster")
    _check_place(settings)
    things = [["jobset", settings.name]]
    things += [["secret", secret_name(settings)]] if settings.secrets_file else []
    for thing in things:
        words = _kubectl(settings, "delete", *thing, "--ignore-not-found", "--wait")
        if commands.run(words):
            raise LaunchError(
                f"{' '.join(thing)} could not be deleted; its reason is above; run: "
                f"{shlex.join(words)}"
            )
    return 0


def _check_place(settings: Settings) -> None:
    if not settings.gke.location:
        settings.require("cloud.zone")


def _kubectl(settings: Settings, *words: str) -> list[str]:
    """For this cluster, whatever the user's own context is."""
    cloud = settings.cloud
    location = settings.gke.location or cloud.zone
    context = f"gke_{cloud.project}_{location}_{settings.gke.cluster}"
    return ["kubectl", f"--context={context}", f"--namespace={settings.gke.namespace}", *words]


def _make(settings: Settings, slice_: Slice, commands: Commands) -> None:
    if settings.secrets_file:
        # Values go from the file to the cluster, and through no command line of ours.
        name = secret_name(settings)
        commands.must(
            _kubectl(settings, "delete", "secret", name, "--ignore-not-found"),
            "deleting the secrets of an earlier launch",
        )
        source = f"--from-env-file={settings.secrets_file}"
        commands.must(
            _kubectl(settings, "create", "secret", "generic", name, source),
            "making the secrets",
        )
    manifest = _write(make_jobset(settings, slice_))
    commands.must(_kubectl(settings, "apply", "--filename=-"), "making the JobSet", stdin=manifest)
    pod = (
        f"jobset.sigs.k8s.io/jobset-name={settings.name},batch.kubernetes.io/job-completion-index=0"
    )
    logs = _kubectl(settings, "logs", "--follow", f"--selector={pod}", "--container=run")
    commands.note(f"to see what it says: {shlex.join(logs)}")


def _write(manifest: dict[str, Any]) -> str:
    """As JSON for people: over many lines, but a list of numbers on one."""
    text = json.dumps(manifest, indent=2)
    # No text in JSON has the end of a line in it, so this is none.
    return re.sub(r"\[\n[\d,\s]+\]", lambda found: " ".join(found[0].split()), text)


def _wait(settings: Settings, commands: Commands) -> int:
    words = _kubectl(settings, "get", "jobset", settings.name, "--output=json")
    began, restarts, failed_looks = time.monotonic(), 0, 0
    while True:
        pretend = json.dumps({"status": {"terminalState": "Completed"}})
        reply = commands.ask(words, pretend=pretend)
        if reply.code:
            failed_looks += 1
            if "NotFound" in reply.err or failed_looks >= _MAX_FAILED_LOOKS:
                raise LaunchError(f"kubectl cannot look at {settings.name}: {reply.last_line}")
        else:
            failed_looks = 0
            status = json.loads(reply.out).get("status", {})
            if status.get("restarts", 0) != restarts:
                restarts = status["restarts"]
                commands.note(f"started again ({restarts} of {settings.max_restarts})")
            if status.get("terminalState") == "Completed":
                commands.note(f"finished after {time.monotonic() - began:.0f} s")
                return 0
            if status.get("terminalState") == "Failed":
                raise LaunchError(_describe_failure(status.get("conditions", [])))
        commands.sleep(_POLL_S)


def _describe_failure(conditions: Sequence[dict[str, str]]) -> str:
    failed = [each for each in conditions if each.get("type") == "Failed"]
    reason = " ".join(failed[-1].get("message", "").split()) if failed else "no reason given"
    return f"the JobSet failed: {reason}; the pods' last lines say why"
