"""Every way in which a checkpoint can go bad is noticed, and the run goes on from a good one."""

from __future__ import annotations

import errno
import json
import math
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coderllm_jax.errors import RunError
from coderllm_jax.training import checkpoint
from coderllm_jax.training.checkpoint import Checkpoints
from coderllm_jax.training.integrity import (
    MANIFEST,
    add_eval_loss,
    find_damage,
    read_manifest,
    write_manifest,
)
from coderllm_jax.training.record import RunRecord
from tests.training.checkpoint_processes import SIZE, state_of, values_of

LIKE = {"w": jax.ShapeDtypeStruct((16, 24), jnp.float32)}


def noise(step: int, megabytes: int = 4) -> dict[str, jax.Array]:
    """A state that does not shrink when Orbax compresses it."""
    values = np.random.default_rng(step).integers(0, 2**32, megabytes << 18, np.uint32)
    return {"w": jnp.asarray(values)}


def record_at(step: int, loss: float = math.nan) -> RunRecord:
    return RunRecord(step=step, evaluations=[{"step": step, "eval_loss": loss}])


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One step as Orbax and we leave it, to be copied: a save costs more than a copy."""
    folder = tmp_path_factory.mktemp("template")
    with Checkpoints(folder) as checkpoints:
        checkpoints.save({"w": jnp.asarray(values_of(1))}, RunRecord(step=1))
    return folder / "1"


def make_steps(template: Path, folder: Path, steps: range) -> None:
    for step in steps:
        place = shutil.copytree(template, folder / str(step))
        (place / MANIFEST).unlink()
        write_manifest(place, step=step, eval_loss=None)


def data_files(step: Path) -> list[Path]:
    return sorted(path for path in step.rglob("*") if path.is_file() and path != step / MANIFEST)


def flip_a_bit(path: Path, seed: int) -> None:
    content = bytearray(path.read_bytes())
    at = random.Random(seed).randrange(len(content) * 8)
    content[at // 8] ^= 1 << at % 8
    path.write_bytes(content)


# ------------------------------------------------------------------------------------ damage


def test_one_bit_in_each_of_twenty_checkpoints(template: Path, tmp_path: Path) -> None:
    make_steps(template, tmp_path, range(1, 22))
    damaged = {}
    for step in range(2, 22):
        path = random.Random(step).choice(data_files(tmp_path / str(step)))
        flip_a_bit(path, seed=step)
        damaged[step] = path.relative_to(tmp_path / str(step)).as_posix()
    notes: list[str] = []
    with Checkpoints(tmp_path, note=notes.append) as checkpoints:
        restored = checkpoints.restore_latest(LIKE)
        assert restored is not None
        np.testing.assert_array_equal(restored[0]["w"], values_of(1))
        found = {each.step: each for each in checkpoints.set_aside}
        assert checkpoints.steps() == [1]
    assert found.keys() == damaged.keys()
    for step, name in damaged.items():
        assert found[step].reason == f"{name} has another sha256 than when it was written"
        assert data_files(Path(found[step].place)), "set aside, not deleted"
        assert any(f"step {step} cannot be used ({name}" in note for note in notes)


def largest(step: Path) -> Path:
    return max(data_files(step), key=lambda path: path.stat().st_size)


def truncate(step: Path) -> None:
    os.truncate(largest(step), largest(step).stat().st_size - 1)


def empty(step: Path) -> None:
    largest(step).write_bytes(b"")


def drop_a_file(step: Path) -> None:
    largest(step).unlink()


def drop_the_commit_marker(step: Path) -> None:
    (step / "commit_success.txt").unlink()


def drop_the_state(step: Path) -> None:
    shutil.rmtree(step / "state")


def add_a_file(step: Path) -> None:
    (step / "state/extra").write_text("")


def link_elsewhere(step: Path) -> None:
    path = largest(step)
    path.rename(step.parent / "elsewhere")
    path.symlink_to(step.parent / "nowhere")


def drop_the_manifest(step: Path) -> None:
    (step / MANIFEST).unlink()


def truncate_the_manifest(step: Path) -> None:
    os.truncate(step / MANIFEST, 100)


def empty_the_manifest(step: Path) -> None:
    (step / MANIFEST).write_text("")


def change_the_loss(step: Path) -> None:
    text = (step / MANIFEST).read_text().replace('"eval_loss": null', '"eval_loss": 0.5')
    (step / MANIFEST).write_text(text)


def take_anothers_name(step: Path) -> None:
    shutil.rmtree(step)
    shutil.copytree(step.parent / "1", step)


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (truncate, r"has \d+ bytes instead of \d+"),
        (empty, r"has 0 bytes instead of \d+"),
        (drop_a_file, "is missing"),
        (drop_the_commit_marker, r"commit_success\.txt is missing"),
        (drop_the_state, r"state/\S+ is missing"),
        (add_a_file, "state/extra does not belong to it"),
        (link_elsewhere, "No such file"),
        (drop_the_manifest, "has no integrity.json: it was never finished"),
        (truncate_the_manifest, "integrity.json cannot be read"),
        (empty_the_manifest, "integrity.json cannot be read"),
        (change_the_loss, "integrity.json has another sha256 than it says"),
        (take_anothers_name, "integrity.json is that of step 1"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_damaged_step_is_set_aside_and_the_one_before_is_used(
    template: Path, tmp_path: Path, harm, reason
) -> None:
    make_steps(template, tmp_path, range(1, 4))
    harm(tmp_path / "3")
    notes: list[str] = []
    with Checkpoints(tmp_path, note=notes.append) as checkpoints:
        assert checkpoints.restore_latest(LIKE) is not None
        assert checkpoints.steps() == [1, 2]
        [found] = checkpoints.set_aside
        assert found.step == 3
        assert Path(found.place) == tmp_path / "set_aside/3-1"
        [note] = notes
        assert re.search(rf"DAMAGED: step 3 cannot be used \(.*{reason}", note)
        # The name is free again, and a second bad 3 does not push out the first.
        assert checkpoints.save({"w": jnp.asarray(values_of(3))}, RunRecord(step=3))
        checkpoints.wait()
        assert checkpoints.steps() == [2, 3]
        drop_a_file(tmp_path / "3")
        checkpoints.restore_latest(LIKE)
        assert Path(checkpoints.set_aside[-1].place) == tmp_path / "set_aside/3-2"


def test_every_bit_of_a_manifest_counts(template: Path, tmp_path: Path) -> None:
    make_steps(template, tmp_path, range(1, 2))
    whole = (tmp_path / "1" / MANIFEST).read_bytes()
    for seed in range(200):
        flip_a_bit(tmp_path / "1" / MANIFEST, seed)
        same = json.loads(whole) == _loads((tmp_path / "1" / MANIFEST).read_bytes())
        assert same or find_damage(tmp_path / "1"), f"seed {seed}"
        (tmp_path / "1" / MANIFEST).write_bytes(whole)
    assert not find_damage(tmp_path / "1")


def _loads(text: bytes) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return None


def test_a_manifest_that_was_being_written_anew_when_the_process_died(
    template: Path, tmp_path: Path
) -> None:
    make_steps(template, tmp_path, range(1, 3))
    (tmp_path / "2" / f".{MANIFEST}.unfinished").write_text('{"step"')
    assert find_damage(tmp_path / "2") == ""
    add_eval_loss(tmp_path / "2", 1.5)
    assert find_damage(tmp_path / "2") == ""
    assert read_manifest(tmp_path / "2").eval_loss == 1.5


def test_a_loss_that_comes_later_blesses_no_damage(template: Path, tmp_path: Path) -> None:
    make_steps(template, tmp_path, range(1, 2))
    flip_a_bit(data_files(tmp_path / "1")[0], seed=1)
    add_eval_loss(tmp_path / "1", 1.5)
    assert "sha256" in find_damage(tmp_path / "1")


def test_says_so_when_none_is_left(template: Path, tmp_path: Path) -> None:
    make_steps(template, tmp_path, range(1, 3))
    for step in (1, 2):
        truncate(tmp_path / str(step))
    notes: list[str] = []
    with Checkpoints(tmp_path, note=notes.append) as checkpoints:
        assert checkpoints.restore_latest(LIKE) is None
        assert [each.step for each in checkpoints.set_aside] == [2, 1]
    assert notes[-1] == "NO CHECKPOINT IS LEFT that can be restored"


def test_a_fresh_folder_says_nothing(tmp_path: Path) -> None:
    notes: list[str] = []
    with Checkpoints(tmp_path / "new", note=notes.append) as checkpoints:
        assert checkpoints.restore_latest(LIKE) is None
        assert checkpoints.restore_best(LIKE) is None
    assert not notes


def test_the_best_that_is_damaged_gives_way_to_the_next_best(tmp_path: Path) -> None:
    like = {"w": jnp.zeros(3)}
    with Checkpoints(tmp_path, keep_latest=9) as checkpoints:
        for step, loss in enumerate([4.0, 2.0, 3.0, 2.0, math.nan], start=1):
            checkpoints.save({"w": jnp.full(3, float(step))}, record_at(step, loss))
        checkpoints.wait()
        for expected in (4, 2, 3, 1):
            restored = checkpoints.restore_best(like)
            assert restored is not None
            assert restored[1].step == expected
            np.testing.assert_array_equal(restored[0]["w"], expected)
            truncate(tmp_path / str(expected))
        assert checkpoints.restore_best(like) is None
        with pytest.raises(RunError, match=r"/2 is not there or was damaged.*restored: \[5\]"):
            checkpoints.restore(2, like)
        truncate(tmp_path / "5")
        with pytest.raises(RunError, match=r"/5 is not there or was damaged.*restored: none"):
            checkpoints.restore(5, like)


def test_a_step_that_orbax_alone_refuses_is_set_aside(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_steps(template, tmp_path, range(1, 4))
    with Checkpoints(tmp_path) as checkpoints:
        restore = checkpoints._checkpointer.restore

        def refuse(place: Path, args: object) -> object:
            if place.name in refused:
                raise ValueError("a format of tomorrow\nand pages of advice")
            return restore(place, args=args)

        monkeypatch.setattr(checkpoints._checkpointer, "restore", refuse)
        refused = {"1", "2", "3"}
        with pytest.raises(RunError, match=r"/3 is undamaged but .* \(a format of tomorrow\); use"):
            checkpoints.restore_latest(LIKE)
        assert checkpoints.steps() == [1, 2, 3], "what no step survives is not the steps' fault"
        refused = {"3"}
        assert checkpoints.restore_latest(LIKE) is not None
        assert [each.step for each in checkpoints.set_aside] == [3]


# --------------------------------------------------------------------------- saves that fail


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(disk)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"a small tmpfs cannot be mounted here (needs root and mount): {error}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def fill(disk: Path, leaving: int) -> None:
    with (disk / "filler").open("wb") as file:
        file.write(bytes(shutil.disk_usage(disk).free - leaving))


def test_a_full_disk_costs_a_save_and_nothing_else(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = small_disk / "checkpoints"
    notes: list[str] = []
    with Checkpoints(folder, keep_latest=2, note=notes.append) as checkpoints:
        assert checkpoints.save(noise(1), record_at(1, 1.0))
        checkpoints.wait()
        fill(small_disk, leaving=2 << 20)
        assert not checkpoints.save(noise(2), record_at(2))
        assert "step 2 (2 MB free on the disk, 21 MB needed)" in notes[-1]
        assert notes[-1].endswith("if it ends now, it goes on from step 1")

        # The disk fills up between the check and the writing.
        monkeypatch.setattr(checkpoint, "free_bytes", lambda path: 1 << 40)
        assert checkpoints.save(noise(3), record_at(3))
        with pytest.raises(RunError, match=r"step 3 could not be saved \(.*; mend that .* step 1$"):
            checkpoints.wait()
        assert [each.step for each in checkpoints.failures] == [2, 3]
        assert [path.name for path in folder.iterdir()] == ["1"], "nothing partial is left"

        (small_disk / "filler").unlink()
        assert checkpoints.save(noise(4), record_at(4))
        checkpoints.wait()
        for step in (1, 4):
            np.testing.assert_array_equal(
                checkpoints.restore(step, noise(0))[0]["w"], noise(step)["w"]
            )
        assert not checkpoints.set_aside


def test_a_disk_that_fills_before_the_manifest_costs_that_step_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    notes: list[str] = []
    with Checkpoints(tmp_path, keep_latest=1, note=notes.append) as checkpoints:
        checkpoints.save(state := {"w": jnp.ones(3)}, RunRecord(step=1))
        checkpoints.wait()
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, "write_manifest", fail)
            checkpoints.save(state, RunRecord(step=2))
            with pytest.raises(RunError, match=r"step 2 could not be saved .*No space left"):
                checkpoints.wait()
        assert checkpoints.steps() == [1]
        assert [path.name for path in tmp_path.iterdir()] == ["1"]
        checkpoints.save(state, RunRecord(step=2))
        checkpoints.wait()
        assert checkpoints.steps() == [2]


def test_a_folder_that_becomes_useless_costs_the_save(tmp_path: Path) -> None:
    with Checkpoints(tmp_path / "run") as checkpoints:
        (tmp_path / "run").rmdir()
        (tmp_path / "run").write_text("")
        assert not checkpoints.save({"w": jnp.ones(3)}, RunRecord(step=1))
        assert "/run cannot be used (File exists)" in checkpoints.failures[0].reason
        with pytest.raises(RunError, match=r"/run cannot be read \(Not a directory\); make it"):
            checkpoints.restore_latest(LIKE)
        (tmp_path / "run").unlink()
        assert checkpoints.save({"w": jnp.ones(3)}, RunRecord(step=2)), "made again"
        assert checkpoints.steps() == [2]


def test_a_save_that_orbax_refuses_at_once_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(place: Path, args: object) -> None:
        Path(f"{place}.orbax-checkpoint-tmp").mkdir()
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save({"w": jnp.ones(3)}, RunRecord(step=1))
        with monkeypatch.context() as patch:
            patch.setattr(checkpoints._checkpointer, "save", refuse)
            assert not checkpoints.save({"w": jnp.ones(3)}, RunRecord(step=2))
        assert "Permission denied" in checkpoints.failures[0].reason
        assert [path.name for path in tmp_path.iterdir()] == ["1"]
        with pytest.raises(RunError, match=r"step 2 could not be saved"):
            checkpoints.wait()


def test_a_folder_that_cannot_be_made_is_a_mistake_of_the_user(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"cannot be used .*; name another workdir"):
        Checkpoints(tmp_path / "file/run")


def test_an_error_while_deleting_costs_no_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> None:
        largest(path).unlink()  # half deleted, with a manifest that looks well
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    notes: list[str] = []
    with Checkpoints(tmp_path, keep_latest=1, note=notes.append) as checkpoints:
        with monkeypatch.context() as patch:
            patch.setattr("coderllm_jax.training.step_folders.shutil.rmtree", fail)
            for step in (1, 2):
                checkpoints.save({"w": jnp.ones(3)}, RunRecord(step=step))
            checkpoints.wait()
        assert checkpoints.steps() == [2]
        assert "old checkpoints cannot be deleted" in notes[0]
    with Checkpoints(tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == ["2"], "swept at the next start"


# -------------------------------------------------------------------------------- retention


def test_nothing_is_deleted_before_the_new_step_has_its_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def look(folder: Path, **kwargs: object) -> object:
        seen.append(sorted(path.name for path in tmp_path.iterdir()))
        return write_manifest(folder, **kwargs)

    monkeypatch.setattr(checkpoint, "write_manifest", look)
    with Checkpoints(tmp_path, keep_latest=1) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save({"w": jnp.ones(3)}, RunRecord(step=step))
        checkpoints.wait()
    assert seen == [["1"], ["1", "2"], ["2", "3"]]
    assert read_manifest(tmp_path / "3").eval_loss is None


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_never_displaces_the_best_across_restarts(
    tmp_path: Path, bad: float
) -> None:
    for step, loss in enumerate([2.0, bad, 1.0, bad, 1.0, bad, bad], start=1):
        with Checkpoints(tmp_path, keep_latest=1) as checkpoints:
            checkpoints.save({"w": jnp.ones(3)}, record_at(step, loss))
            checkpoints.wait()
            assert {1: 1, 2: 1, 3: 3, 4: 3, 5: 5, 6: 5, 7: 5}[step] in checkpoints.steps()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["5", "7"]


# ------------------------------------------------------------------------- other processes


Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a function of checkpoint_processes.py; whatever still runs at the end is killed."""
    children = []

    def start_one(*arguments: object, devices: int = 1) -> subprocess.Popen[str]:
        child = subprocess.Popen(
            [sys.executable, "-m", "tests.training.checkpoint_processes", *map(str, arguments)],
            env=os.environ
            | {
                "JAX_PLATFORMS": "cpu",
                "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        children.append(child)
        return child

    yield start_one
    for child in children:
        child.kill()
        child.communicate()


def test_killed_at_any_moment_the_newest_finished_step_restores(
    start: Start, tmp_path: Path
) -> None:
    """Saving and deleting never pause in the child, so most kills hit one or the other."""
    moments = random.Random(0)
    folders = [tmp_path / str(trial) for trial in range(6)]
    children = [start("save_until_killed", folder) for folder in folders]
    finished = {}
    for folder, child in zip(folders, children, strict=True):
        assert child.stdout is not None
        for _ in range(4):  # at least three steps are finished, and one is deleted
            child.stdout.readline()
        time.sleep(moments.uniform(0, 0.4))
        child.send_signal(signal.SIGKILL)
        rest, _ = child.communicate()
        finished[folder] = max([3, *map(int, rest.split())])
    like = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, state_of(0)))
    for folder, known in finished.items():
        with Checkpoints(folder) as checkpoints:
            restored = checkpoints.restore_latest(like)
            assert restored is not None
            state, record = restored
            assert record.step >= known
            assert state["a"].shape == (SIZE,)
            jax.tree.map(np.testing.assert_array_equal, state, state_of(record.step))
            for each in checkpoints.set_aside:
                assert each.step == record.step + 1
                assert "never finished" in each.reason
            names = {path.name for path in folder.iterdir()} - {"set_aside"}
            assert names == {str(step) for step in checkpoints.steps()}, "debris is swept"


def test_from_eight_devices_onto_four_and_one(start: Start, tmp_path: Path) -> None:
    child = start("save_on_eight", tmp_path, devices=8)
    _, errors = child.communicate()
    assert child.returncode == 0, errors[-4000:]
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore_latest({"w": jnp.zeros((16, 24))})
        assert restored is not None
        np.testing.assert_array_equal(restored[0]["w"], values_of(1))


def start_two(start: Start, what: str, folder: Path) -> list[subprocess.Popen[str]]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    return [start(what, folder, address, index) for index in (0, 1)]


def test_a_peer_that_dies_during_a_save_is_not_waited_for(start: Start, tmp_path: Path) -> None:
    first, second = start_two(start, "lose_a_peer", tmp_path)
    output, errors = first.communicate(timeout=60)
    assert output.endswith("left\n"), errors[-4000:]
    second.communicate()
    # JAX's client aborts it where the first one has left before its own end comes.
    assert second.returncode in (-signal.SIGKILL, -signal.SIGABRT)
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore_latest({"w": jnp.zeros((16, 24))})
        assert restored is not None
        assert restored[1].step in (1, 2), "1, or 2 where the peer's part was written in time"
        np.testing.assert_array_equal(restored[0]["w"], values_of(1))


def test_two_processes_go_on_from_the_same_step(start: Start, tmp_path: Path) -> None:
    children = start_two(start, "be_one_of_two", tmp_path)
    outputs = [child.communicate() for child in children]
    for child, (_, errors) in zip(children, outputs, strict=True):
        assert child.returncode == 0, errors[-4000:]
    first, second = (json.loads(output.splitlines()[-1]) for output, _ in outputs)
    for each in (first, second):
        assert each["before"] == [1, 2, 3]
        assert each["restored"] == 2
        assert each["after"] == [1, 2]
        assert each["was_saved"] is False
        assert "step 4 could not be saved (0 MB free" in each["refusal"]
        assert each["refusal"].endswith("it goes on from step 2")
    assert (first["set_aside"], second["set_aside"]) == ([3], [])
    assert len(first["notes"]) == 2
    assert not second["notes"]
