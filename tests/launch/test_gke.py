"""GKE: the JobSet held against a strict schema, its script really run, and the words of kubectl."""

from __future__ import annotations

import copy
import json
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from launch.accelerators import find_slice
from launch.commands import Commands
from launch.gke import clean_up
from launch.jobset import make_jobset
from launch.settings import Cloud, Gke, Settings
from launch.supervision import decide
from tests.launch.fakes import World, arguments_given, fake_python, send_when
from tests.launch.jobset_schema import JOBSET

Launch = Callable[..., int]
KUBECTL = ["kubectl", "--context=gke_my-project_us-west4-a_tpus", "--namespace=default"]


def settings(**changes: Any) -> Settings:
    cloud = Cloud(project="p", zone="z", bucket="gs://my-bucket/a/folder/", spot=True)
    gke = Gke(cluster="tpus", service_account="trainer")
    arguments = ("--config=configs/tiny.py",)
    return Settings(**{"arguments": arguments, "cloud": cloud, "gke": gke, **changes})


def validate(manifest: Any) -> None:
    jsonschema.Draft202012Validator.check_schema(JOBSET)
    jsonschema.validate(manifest, JOBSET)


@pytest.mark.parametrize(
    "name", ["v5litepod-1", "v5litepod-8", "v5litepod-16", "v5p-16", "v6e-256"]
)
def test_every_slice_makes_a_jobset(name: str) -> None:
    slice_ = find_slice(name)
    manifest = make_jobset(settings(secrets_file="s"), slice_)
    validate(manifest)
    (job,) = manifest["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    assert spec["parallelism"] == spec["completions"] == slice_.num_hosts
    (container,) = spec["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["google.com/tpu"] == slice_.chips_per_host
    several = "--config.distributed.enabled=on" in container["args"]
    assert several is (slice_.num_hosts > 1)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield (*path, key)
            yield from places(inner, (*path, key))
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from places(inner, (*path, place))


def test_the_schema_notices_a_slip_in_any_field() -> None:
    """Each key of the manifest misspelt, one after the other."""
    manifest = make_jobset(settings(secrets_file="s"), find_slice("v5p-16"))
    validator = jsonschema.Draft202012Validator(JOBSET)
    slips = list(places(manifest))
    assert len(slips) > 60
    for *path, key in slips:
        wrong = copy.deepcopy(manifest)
        holder = wrong
        for step in path:
            holder = holder[step]
        holder[f"{key}x"] = holder.pop(key)
        assert not validator.is_valid(wrong), [*path, key]


def test_what_exit_codes_mean() -> None:
    manifest = make_jobset(settings(max_restarts=7), find_slice("v5p-16"))
    spec = manifest["spec"]
    assert spec["failurePolicy"]["maxRestarts"] == 7
    # A Job that fails by its pods' policy fails the JobSet; any other failure restarts it, and
    # counts, as settings.toml says of preemptions: no rule ignores maxRestarts.
    (rule,) = spec["failurePolicy"]["rules"]
    assert (rule["action"], rule["onJobFailureReasons"]) == ("FailJobSet", ["PodFailurePolicy"])
    job = spec["replicatedJobs"][0]["template"]["spec"]
    assert job["backoffLimit"] == 0
    (rule,) = job["podFailurePolicy"]["rules"]
    codes = rule["onExitCodes"]
    assert (rule["action"], codes["operator"]) == ("FailJob", "In")
    # The same as where the launch itself decides.
    ends = [code for code in range(1, 256) if decide([code]) == code != 42]
    assert codes["values"] == ends == [*range(1, 42), *range(43, 128)]


def kubernetes_expands(text: str) -> str:
    """As its reference says of command and args: $(NAME) is replaced, $$ is a dollar."""
    return re.sub(r"\$(\$|\([A-Za-z_]+\))", lambda found: "$" if found[1] == "$" else "", text)


def test_arguments_come_out_of_the_pods_shell_as_they_went_in(tmp_path: Path, monkeypatch) -> None:
    """The container's very command, with the archive, the installation and Python being fakes."""
    nasty = ["--config.a=it's", "--config.b=$(HOME) $HOME", "--config.c=$$", '--config.d="x y"', ""]
    made = settings(arguments=("--config=configs/tiny.py", *nasty), name="odd")
    container = make_jobset(made, find_slice("v6e-8"))["spec"]["replicatedJobs"][0]["template"][
        "spec"
    ]["template"]["spec"]["containers"][0]
    command = [kubernetes_expands(word) for word in container["command"] + container["args"]]
    fake_python(tmp_path / "left", monkeypatch)
    monkeypatch.setenv("HOME", str(tmp_path))
    # /mnt and /opt are not ours to write to.
    script = command[2].replace("/opt/", f"{tmp_path}/opt/").replace("/mnt/", f"{tmp_path}/mnt/")
    checkout = tmp_path / "checkout"
    (checkout / "launch").mkdir(parents=True)
    root = Path(__file__).parents[2]
    (checkout / "launch" / "host.sh").write_text(
        (root / "launch" / "host.sh")
        .read_text()
        .replace("install_all() {", "install_all() { return")
        .replace("python=.venv/bin/python", f"python={tmp_path}/left/python")
    )
    archive = tmp_path / "mnt/coderllm/launch/odd/code.tar.gz"
    archive.parent.mkdir(parents=True)
    subprocess.run(["tar", "czf", archive, "-C", checkout, "launch"], check=True)
    done = subprocess.run([*command[:2], script, *command[3:]], check=False)
    assert done.returncode == 0
    assert arguments_given(tmp_path / "left") == [
        [
            *("-m", "coderllm_jax.train", "--config=configs/tiny.py", *nasty),
            *("--config.workdir=/mnt/coderllm/runs/odd", "--config.mesh.platform=tpu"),
        ]
    ]


def test_all_words_of_a_run(world: World, launch: Launch) -> None:
    world.say("get jobset", out='{"status": {}}')
    world.say("get jobset", out='{"status": {"restarts": 1}}')
    world.say("get jobset", out='{"status": {"restarts": 1, "terminalState": "Completed"}}')
    assert launch("gke") == 0
    look = [*KUBECTL, "get", "jobset", "trial", "--output=json"]
    copy_, *rest = world.calls
    assert copy_[:3] == ["gcloud", "storage", "cp"]
    assert copy_[3].endswith("/code.tar.gz")
    target = "gs://my-bucket/coderllm/launch/trial/code.tar.gz"
    assert copy_[4:] == [target, "--project=my-project", "--quiet"]
    assert rest == [
        [*KUBECTL, "apply", "--filename=-"],
        *[look] * 3,
        [*KUBECTL, "delete", "jobset", "trial", "--ignore-not-found", "--wait"],
    ]
    manifest = json.loads(world.stdin_of("apply"))
    validate(manifest)
    volume = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    attributes = volume["volumes"][0]["csi"]["volumeAttributes"]
    assert attributes["bucketName"] == "my-bucket"
    assert attributes["mountOptions"].endswith(",only-dir=coderllm")


def test_a_dry_run_is_a_script_that_does_it(
    world: World, launch: Launch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The printed lines, given to bash, make the same calls as the launch itself."""
    words = ("--", "--config.title=it's $5")
    assert launch("gke", "--dry-run", *words) == 0
    assert world.calls == []
    script = capsys.readouterr().out
    subprocess.run(["bash", "-euc", script], check=True, cwd=world.folder)
    printed, manifest = world.calls, world.stdin_of("apply")
    world.forget_calls()
    world.say("get jobset", out='{"status": {"terminalState": "Completed"}}')
    assert launch("gke", *words) == 0
    called = [
        [
            "code.tar.gz"
            if "/" in word and word.endswith("code.tar.gz") and "gs:" not in word
            else word
            for word in words
        ]
        for words in world.calls
    ]
    assert printed == called
    assert manifest.strip() == world.stdin_of("apply")


def test_a_run_that_failed(world: World, launch: Launch, capsys) -> None:
    condition = {"type": "Failed", "message": "job trial-run-0\n failed: PodFailurePolicy"}
    status = {"terminalState": "Failed", "conditions": [condition]}
    world.say("get jobset", out=json.dumps({"status": status}))
    assert launch("gke") == 1
    said = capsys.readouterr().err.splitlines()
    assert said[-1] == (
        "error: the JobSet failed: job trial-run-0 failed: PodFailurePolicy; the pods' last lines "
        "say why"
    )
    assert "delete" in world.calls[-1]


def test_a_signal_deletes_the_jobset_whose_pods_then_save(world: World, launch: Launch) -> None:
    world.say("get jobset", out="{}")
    send_when(lambda: any("get" in words for words in world.calls), signal.SIGTERM)
    assert launch("gke") == 42
    assert world.calls[-1] == [
        *KUBECTL,
        "delete",
        "jobset",
        "trial",
        "--ignore-not-found",
        "--wait",
    ]


def test_kept_or_left_behind(world: World, launch: Launch) -> None:
    world.say("get jobset", out='{"status": {"terminalState": "Completed"}}')
    assert launch("gke", top="keep = true") == 0
    assert not any("delete" in words for words in world.calls)
    assert launch("gke", "--clean-up") == 0
    assert "delete" in world.calls[-1]


def test_what_cannot_be_applied_leaves_nothing(world: World, launch: Launch, capsys) -> None:
    world.say("apply", code=1)
    assert launch("gke") == 1
    line = "error: making the JobSet failed (kubectl ended with 1); its lines are above"
    assert capsys.readouterr().err.splitlines()[-1] == line
    assert "delete" in world.calls[-1]


def test_secrets_go_from_their_file_to_the_cluster(
    world: World, launch: Launch, tmp_path: Path, capsys
) -> None:
    secrets = tmp_path / "secrets.env"
    secrets.write_text("HF_TOKEN=canary\n")
    secrets.chmod(0o600)
    world.say("get jobset", out='{"status": {"terminalState": "Completed"}}')
    top = f"secrets_file = '{secrets}'"
    assert launch("gke", "--dry-run", top=top) == 0
    assert launch("gke", top=top) == 0
    create = [
        *KUBECTL,
        "create",
        "secret",
        "generic",
        "trial-secrets",
        f"--from-env-file={secrets}",
    ]
    assert create in world.calls
    assert world.calls[-1][3:6] == ["delete", "secret", "trial-secrets"]
    (container,) = json.loads(world.stdin_of("apply"))["spec"]["replicatedJobs"][0]["template"][
        "spec"
    ]["template"]["spec"]["containers"]
    assert container["envFrom"] == [{"secretRef": {"name": "trial-secrets"}}]
    said = capsys.readouterr()
    assert "canary" not in said.out + said.err + str(world.calls)


def test_a_regional_cluster(world: World) -> None:
    made = settings(gke=Gke(cluster="tpus", service_account="t", location="us-west4"))
    clean_up(made, Commands())
    assert world.calls[-1][1] == "--context=gke_p_us-west4_tpus"
