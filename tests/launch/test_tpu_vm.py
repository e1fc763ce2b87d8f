"""Cloud TPU VMs: the words that gcloud is given, preemption, and that nothing is left behind."""

from __future__ import annotations

import json
import re
import shlex
import signal
from collections.abc import Callable

import pytest

from tests.launch.fakes import World, send_when

PLACE = ["--project=my-project", "--zone=us-west4-a", "--quiet"]
DESCRIBE = "queued-resources describe"
NODE = "tpu-vm describe"
RUN = "host.sh run"
MISSING = {"code": 1, "err": "ERROR: (gcloud) NOT_FOUND: no such resource"}

Launch = Callable[..., int]


def queued(state: str, message: str = "") -> str:
    details = {"failedData": {"error": {"message": message}}} if message else {}
    return json.dumps({"name": "trial", "state": {"state": state, **details}})


def comes_and_goes(world: World) -> None:
    """Asked for, queued, there; at the end still there."""
    world.say(DESCRIBE, **MISSING)
    world.say(DESCRIBE, out=queued("WAITING_FOR_RESOURCES"))
    world.say(DESCRIBE, out=queued("PROVISIONING"))
    world.say(DESCRIBE, out=queued("ACTIVE"))
    world.say(NODE, out='{"state": "READY"}')


def verbs(world: World) -> list[str]:
    """The calls in short: `create`, `run 0`, `install all`, ..."""
    short = []
    for words in world.calls:
        line = " ".join(words)
        worker = re.search(r"--worker=(\w+)", line)
        verb = re.search(r"host\.sh (\w+)", line)
        name = verb[1] if verb else " ".join(words[3:5])
        short.append(f"{name} {worker[1]}" if worker else name)
    return short


def runs(world: World) -> list[str]:
    return [verb for verb in verbs(world) if verb.startswith("run ")]


CREATE, DELETE = "queued-resources create", "queued-resources delete"


def test_all_words_of_a_run(world: World, launch: Launch) -> None:
    comes_and_goes(world)
    assert launch("tpu-vm") == 0
    gcloud = ["gcloud", "compute", "tpus"]
    look = [*gcloud, "queued-resources", "describe", "trial", *PLACE, "--format=json"]
    arguments = [
        *("--config=configs/tiny.py", "--config.steps=3"),
        "--config.workdir=/mnt/coderllm/runs/trial",
        *("--config.mesh.platform=tpu", "--config.distributed.enabled=on"),
    ]
    run = (
        "cd coderllm_jax && bash launch/host.sh run trial --bucket=gs://my-bucket/coderllm "
        f"--mount=/mnt/coderllm -- {shlex.join(arguments)}"
    )
    ssh = [*gcloud, "tpu-vm", "ssh", "trial", *PLACE]
    calls = world.calls
    assert calls[:2] == [
        look,
        [
            *gcloud,
            *("queued-resources", "create", "trial", *PLACE, "--node-id=trial"),
            *("--accelerator-type=v5p-16", "--runtime-version=v2-alpha-tpuv5"),
            "--scopes=https://www.googleapis.com/auth/cloud-platform",
            "--spot",
        ],
    ]
    assert calls[2:5] == [look] * 3
    assert calls[5][:5] == [*gcloud, "tpu-vm", "scp"]
    assert calls[5][5].endswith("/code.tar.gz")
    assert calls[5][6:] == ["trial:coderllm-code.tar.gz", *PLACE, "--worker=all"]
    assert calls[6] == [
        *ssh,
        "--worker=all",
        "--command=mkdir -p coderllm_jax && tar xzf coderllm-code.tar.gz -C coderllm_jax && "
        "cd coderllm_jax && bash launch/host.sh install tpu configs/data.py",
    ]
    stop = "--command=cd coderllm_jax && bash launch/host.sh stop trial"
    assert calls[7] == [*ssh, "--worker=all", stop]
    # One connection a worker, in any order: they begin at the same time.
    assert sorted(calls[8:10]) == [
        [*ssh, f"--worker={rank}", f"--command={run}"] for rank in range(2)
    ]
    delete = [*gcloud, "queued-resources", "delete", "trial", *PLACE, "--force"]
    assert calls[10:] == [look, delete]


def test_a_dry_run_prints_what_a_run_gives_to_gcloud(
    world: World, launch: Launch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert launch("tpu-vm", "--dry-run", "--", '--config.title=it\'s $5 "now"') == 0
    assert world.calls == []
    lines = capsys.readouterr().out.splitlines()
    printed = [shlex.split(line.removesuffix(" &")) for line in lines if line[0] != "#"]
    comes_and_goes(world)
    assert launch("tpu-vm", "--", '--config.title=it\'s $5 "now"') == 0
    called = [["code.tar.gz" if "/code.tar.gz" in w else w for w in words] for words in world.calls]
    # It is queued for two looks longer than a dry run pretends.
    assert sorted(printed) == sorted(called[:3] + called[5:])
    # And the last shell on the way gives the run the very argument.
    (line,) = {words[-1] for words in called if RUN in words[-1]}
    assert '--config.title=it\'s $5 "now"' in shlex.split(line)


def test_reserved_capacity_another_runtime_and_one_host(world: World, launch: Launch) -> None:
    comes_and_goes(world)
    change = "service_account = 'me@x'\nspot = false"
    assert launch("tpu-vm", cloud=change, accelerator="v6e-8") == 0
    (create,) = [words for words in world.calls if "create" in words]
    assert "--accelerator-type=v6e-8" in create
    (run,) = [words[-1] for words in world.calls if RUN in words[-1]]
    assert "distributed" not in run
    assert "--spot" not in create
    assert "--service-account=me@x" in create


def test_a_preempted_slice_is_asked_for_anew_and_the_same_run_goes_on(
    world: World, launch: Launch
) -> None:
    world.say(DESCRIBE, **MISSING)
    world.say(DESCRIBE, out=queued("ACTIVE"))
    # Both workers of the first slice are cut off; the second slice finishes.
    for _ in range(2):
        world.say(RUN, code=255)
    world.say(RUN, code=0)
    world.say("host.sh result", code=255)
    world.say(NODE, out='{"state": "PREEMPTED"}')
    world.say(DESCRIBE, out=queued("SUSPENDED"))  # to be deleted
    world.say(DESCRIBE, **MISSING)
    world.say(DESCRIBE, out=queued("ACTIVE"))
    assert launch("tpu-vm") == 0
    seen = verbs(world)
    assert seen.count(CREATE) == seen.count(DELETE) == 2
    assert seen.index(NODE) < seen.index(DELETE) < len(seen) - 1 - seen[::-1].index(CREATE)
    assert len(runs(world)) == 4
    lines = {words[-1] for words in world.calls if RUN in words[-1]}
    assert len(lines) == 1  # the same command


def test_a_suspended_resource_of_an_earlier_launch_is_replaced(
    world: World, launch: Launch
) -> None:
    world.say(DESCRIBE, out=queued("SUSPENDED"))
    world.say(DESCRIBE, out=queued("SUSPENDED"))
    world.say(DESCRIBE, out=queued("ACTIVE"))
    assert launch("tpu-vm") == 0
    assert verbs(world)[:4] == [DESCRIBE, DESCRIBE, DELETE, CREATE]


def test_preempted_between_two_looks_while_it_waits(world: World, launch: Launch) -> None:
    world.say(DESCRIBE, **MISSING)
    world.say(DESCRIBE, out=queued("PROVISIONING"))
    world.say(DESCRIBE, out=queued("SUSPENDING"))  # passes by itself
    for _ in range(2):
        world.say(DESCRIBE, out=queued("SUSPENDED"))  # seen, then deleted
    world.say(DESCRIBE, out=queued("WAITING_FOR_RESOURCES"))
    world.say(DESCRIBE, out=queued("ACTIVE"))
    assert launch("tpu-vm") == 0
    made = [verb for verb in verbs(world) if verb in (CREATE, DELETE)]
    assert made == [CREATE, DELETE, CREATE, DELETE]
    assert len(runs(world)) == 2


def test_preempted_while_it_waits_until_the_hours_are_over(world, launch, capsys) -> None:
    world.say(DESCRIBE, **MISSING)
    world.say(DESCRIBE, out=queued("SUSPENDED"))
    assert launch("tpu-vm", top="tpu_vm = {wait_hours = 0}") == 1
    assert "still SUSPENDED after 0 hours" in capsys.readouterr().err
    assert verbs(world)[-1] == DELETE


def test_an_earlier_launchs_slice_is_taken_up(world: World, launch: Launch) -> None:
    world.say(DESCRIBE, out=queued("ACTIVE"))
    assert launch("tpu-vm", top="keep = true") == 0
    assert CREATE not in verbs(world)
    assert DELETE not in verbs(world)


def test_42_starts_all_again_on_the_same_slice(world: World, launch: Launch) -> None:
    comes_and_goes(world)
    for _ in range(2):
        world.say(RUN, code=42)
    world.say(RUN, code=0)
    assert launch("tpu-vm") == 0
    seen = verbs(world)
    assert len(runs(world)) == 4
    assert seen.count(CREATE) == seen.count("install all") == 1
    assert seen.count("stop all") == 2  # before each start


def test_1_of_one_worker_ends_it_whatever_the_others_say(world: World, launch: Launch) -> None:
    comes_and_goes(world)
    world.say("worker=1", RUN, code=1)
    world.say("worker=1", "host.sh result", out="1\n")
    world.say(RUN, code=42)
    assert launch("tpu-vm") == 1
    assert len(runs(world)) == 2
    assert verbs(world)[-1] == DELETE


def test_a_lost_connection_is_not_a_failed_run(world: World, launch: Launch) -> None:
    """gcloud ends with 1 where it cannot reach a worker, too."""
    comes_and_goes(world)
    world.say("worker=1", RUN, code=1)
    world.say("worker=1", RUN, code=0)
    world.say("worker=1", "host.sh result", out="running\n")
    assert launch("tpu-vm") == 0
    assert len(runs(world)) == 4


def test_a_run_that_is_interrupted_again_and_again(world, launch, capsys) -> None:
    comes_and_goes(world)
    world.say(RUN, code=42)
    assert launch("tpu-vm", top="max_restarts = 1") == 1
    assert len(runs(world)) == 4
    assert verbs(world)[-1] == DELETE
    assert "error: the run ended with 42 2 times; " in capsys.readouterr().err


@pytest.mark.parametrize("failing", [CREATE, "tpu-vm scp", "host.sh install"])
def test_what_fails_on_the_way_leaves_nothing(world, launch, capsys, failing: str) -> None:
    comes_and_goes(world)
    world.say(failing, code=1)
    assert launch("tpu-vm") == 1
    assert verbs(world)[-1] == DELETE
    assert runs(world) == []
    said = capsys.readouterr().err.splitlines()
    assert re.match(r"error: \w.* failed \(gcloud ended with 1\); its lines are above", said[-1])


def test_preempted_while_installing(world: World, launch: Launch) -> None:
    world.say(DESCRIBE, **MISSING)
    world.say(DESCRIBE, out=queued("ACTIVE"))
    world.say("host.sh install", code=255)
    world.say("host.sh install", code=0)
    world.say(NODE, **MISSING)
    assert launch("tpu-vm") == 0
    assert verbs(world).count(CREATE) == 1  # the second time it is there in this world
    assert len(runs(world)) == 2


def test_a_request_that_fails_says_why(world, launch, capsys) -> None:
    world.say(DESCRIBE, **MISSING)
    world.say(DESCRIBE, out=queued("FAILED", "no quota for v5e"))
    assert launch("tpu-vm") == 1
    assert "error: trial is FAILED (no quota for v5e); another zone" in capsys.readouterr().err
    assert verbs(world)[-1] == DELETE


def test_waiting_ends(world, launch, capsys) -> None:
    world.say(DESCRIBE, **MISSING)
    world.say(DESCRIBE, out=queued("WAITING_FOR_RESOURCES"))
    assert launch("tpu-vm", top="tpu_vm = {wait_hours = 0}") == 1
    assert "still WAITING_FOR_RESOURCES after 0 hours" in capsys.readouterr().err
    assert verbs(world)[-1] == DELETE


def test_what_cannot_be_deleted_is_said_with_the_command(world, launch, capsys) -> None:
    comes_and_goes(world)
    world.say(DELETE, code=1)
    assert launch("tpu-vm") == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: trial could not be deleted and goes on to cost")
    assert shlex.split(said.partition("run: ")[2]) == world.calls[-1]


def test_no_permission_is_no_reason_to_wait(world, launch, capsys) -> None:
    world.say(DESCRIBE, code=1, err="ERROR: PERMISSION_DENIED: not yours")
    assert launch("tpu-vm") == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert "gcloud cannot describe trial: ERROR: PERMISSION_DENIED: not yours" in said
    assert len(world.calls) == 2  # one look, and one when cleaning up


def test_a_network_that_is_away_for_a_while(world: World, launch: Launch) -> None:
    world.say(DESCRIBE, **MISSING)
    for _ in range(3):
        world.say(DESCRIBE, code=1, err="ERROR: connection reset")
    world.say(DESCRIBE, out=queued("ACTIVE"))
    assert launch("tpu-vm") == 0


def test_after_a_signal_a_network_that_is_away_is_not_waited_for(world, launch, capsys) -> None:
    told = str(world.folder / "told")
    world.say(DESCRIBE, **MISSING)
    world.say(DESCRIBE, out=queued("ACTIVE"))
    world.say(DESCRIBE, code=1, err="ERROR: connection reset")
    world.say("host.sh stop")  # before the start
    world.say("host.sh stop", touch=told)
    world.say(RUN, code=42, until=told)
    send_when(lambda: len(runs(world)) == 2, signal.SIGINT)
    assert launch("tpu-vm") == 1
    assert verbs(world).count(DESCRIBE) == 2 + 3
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: gcloud cannot describe trial: ERROR: connection reset; ")
    delete = shlex.split(said.partition("to delete it: ")[2])
    assert delete[3:6] == [*DELETE.split(), "trial"]
    assert delete[-1] == "--force"


def test_clean_up_deletes_and_nothing_else(world: World, launch: Launch) -> None:
    world.say(DESCRIBE, out=queued("ACTIVE"))
    world.say(DESCRIBE, **MISSING)
    assert launch("tpu-vm", "--clean-up") == 0
    assert verbs(world) == [DESCRIBE, DELETE]
    assert launch("tpu-vm", "--clean-up") == 0
    assert verbs(world) == [DESCRIBE, DELETE, DESCRIBE]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_it_runs_saves_then_deletes(
    world, launch, capsys, number: signal.Signals
) -> None:
    comes_and_goes(world)
    told = str(world.folder / "told")
    world.say("host.sh stop")  # before the start
    world.say("host.sh stop", touch=told)
    world.say(RUN, code=42, until=told)
    send_when(lambda: len(runs(world)) == 2, number)
    assert launch("tpu-vm") == 42
    assert verbs(world)[-3:] == ["stop all", DESCRIBE, DELETE]
    assert len(runs(world)) == 2
    line = f"interrupted: {number.name}; the same command goes on"
    assert capsys.readouterr().err.splitlines()[-1] == line


def test_a_signal_while_it_is_queued_deletes(world: World, launch: Launch) -> None:
    world.say(DESCRIBE, **MISSING)
    world.say(DESCRIBE, out=queued("WAITING_FOR_RESOURCES"))
    send_when(lambda: verbs(world).count(DESCRIBE) > 3, signal.SIGINT)
    assert launch("tpu-vm") == 42
    assert verbs(world)[-1] == DELETE
    assert runs(world) == []


def test_secrets_are_copied_as_a_file_and_shown_nowhere(
    world, launch, tmp_path, capsys, monkeypatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "canary-environment")
    secrets = tmp_path / "my secrets.env"
    secrets.write_text("HF_TOKEN=canary-file\n")
    secrets.chmod(0o600)
    comes_and_goes(world)
    top = f"secrets_file = '{secrets}'"
    assert launch("tpu-vm", "--dry-run", top=top) == 0
    assert launch("tpu-vm", top=top) == 0
    (copy,) = [words for words in world.calls if str(secrets) in words]
    assert copy[3:7] == ["tpu-vm", "scp", str(secrets), "trial:coderllm-secrets"]
    (install,) = [words[-1] for words in world.calls if "host.sh install" in words[-1]]
    assert (
        "&& bash launch/host.sh receive trial < ../coderllm-secrets && rm ../coderllm-secrets &&"
    ) in install
    said = capsys.readouterr()
    assert "canary" not in said.out + said.err + json.dumps(world.calls)
