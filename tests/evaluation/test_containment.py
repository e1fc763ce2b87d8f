"""The sandbox: what its docstring says it covers, attacked as root and as an ordinary user."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from coderllm_jax.evaluation.python_files import UNPRIVILEGED_ID
from coderllm_jax.evaluation.sandbox import run_program
from tests.evaluation import attacks
from tests.evaluation.needs import needs_sandbox
from tests.evaluation.ordinary import ROOT, run_as_ordinary_user

pytestmark = needs_sandbox
REFUSED = {"OSError", "PermissionError", "FileNotFoundError"}


@pytest.fixture(scope="module", params=["as_root", "as_an_ordinary_user"])
def ended(request, tmp_path_factory):
    """How every attack ended, by name."""
    folder = tmp_path_factory.mktemp("host")
    for parent in (folder, *folder.parents):  # pytest closes its folders to other users
        if parent.owner() == Path.home().owner() and parent != parent.parent:
            parent.chmod(parent.stat().st_mode | 0o011)
        if parent.name.startswith("pytest-of-"):
            break
    (folder / "canary.txt").write_text(attacks.CANARY_TEXT)
    (folder / "canary.txt").chmod(0o644)
    is_root = os.geteuid() == 0
    if request.param == "as_root":
        if not is_root:
            pytest.skip("the tests do not run as root")
        done = attacks.in_a_process(folder)
    else:
        done = run_as_ordinary_user("tests.evaluation.attacks", str(folder))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def printed(ended, name: str):
    """What the attack printed as JSON, after it ended by itself."""
    assert ended[name]["ended"] == "exited", ended[name]
    assert ended[name]["exit_code"] == 0, ended[name]
    return json.loads(ended[name]["output"])


def test_it_ran_as_who_it_says(ended, request):
    as_root = "as_root" in request.node.name
    assert (ended["afterwards"]["uid"] == 0) is as_root


def test_nothing_is_left_running(ended):
    assert ended["afterwards"]["children"] == []


def test_nothing_is_left_written(ended):
    done = printed(ended, "writes_outside")
    assert {outcome for pair in done.values() for outcome in pair} <= REFUSED
    places = [Path(folder) for folder in done if folder.startswith("/")]
    places += [Path("/tmp"), Path.home(), ROOT]
    left = [str(path) for place in places for path in place.glob(f"{attacks.MARK}*")]
    assert left == []


def test_another_process_is_never_made(ended):
    assert ended["fork_bomb"]["output"] == "PermissionError\n"


def test_threads_are_counted(ended):
    assert 10 < int(ended["thread_bomb"]["output"]) <= attacks.LIMITS.threads


def test_memory_ends_at_the_limit(ended):
    assert ended["eight_gigabytes"]["exit_code"] == 1
    assert ended["eight_gigabytes"]["output"].endswith("MemoryError\n")
    assert 128 <= printed(ended, "eight_gigabytes_in_pieces") <= 512


@pytest.mark.parametrize("name", ["endless_output", "endless_errors"])
def test_output_ends_at_the_limit(ended, name):
    assert ended[name]["ended"] == "output"
    assert len(ended[name]["output"]) == attacks.LIMITS.output_bytes


@pytest.mark.parametrize(
    "name", ["ignores_signals", "sleeps", "closes_its_output_and_goes_on", "stays_behind"]
)
def test_time_ends_what_does_not_end_itself(ended, name):
    assert ended[name]["ended"] == "timeout"
    assert ended[name]["wall_s"] < attacks.LIMITS.wall_s + 2


def test_no_sockets(ended):
    assert set(printed(ended, "sockets").values()) == {"OSError"}
    assert ended["connects"]["output"] == "OSError OSError gaierror\n"


def test_nothing_of_the_host_is_seen(ended):
    output = ended["canaries"]["output"]
    assert ended["canaries"]["exit_code"] == 0
    assert attacks.CANARY_TEXT not in output
    assert "SECRET" not in output
    environment, opened, arguments, folder = json.loads(output)
    assert opened == "FileNotFoundError"
    assert (environment["HOME"], arguments, folder) == ("/tmp", ["program.py"], "/tmp")
    assert str(ROOT) not in output


def test_links_lead_nowhere(ended):
    assert set(printed(ended, "links_outside").values()) <= REFUSED


def test_files_end_at_their_size_and_tmp_at_its_own(ended):
    largest, total = printed(ended, "a_gigabyte_file")
    assert largest == attacks.LIMITS.file_bytes
    assert total <= attacks.LIMITS.tmp_bytes


def test_no_proc_no_sys_no_devices(ended):
    assert ended["proc_and_sys"]["output"] == (
        "[false, false, false, false, false] ['null', 'urandom', 'zero']\n"
    )


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="calls by their x86-64 numbers")
def test_dangerous_system_calls_are_refused(ended):
    assert set(printed(ended, "system_calls").values()) <= {"ENOSYS", "EPERM"}


def test_no_privileges(ended):
    privileges = printed(ended, "privileges")
    assert privileges.pop("raises_limit") != "allowed"
    assert privileges == {
        "uid": 65534,
        "gid": 65534,
        "groups": [],
        "capabilities": [0, 0],
        "pid": 2,
    }


def test_signals_reach_nobody_else(ended):
    assert ended["kills_everything"]["ended"] == "exited"


def test_no_descriptor_is_inherited(ended):
    assert printed(ended, "descriptors") == [0, 1, 2]


def test_no_other_programs(ended):
    assert ended["executes"]["output"] == "FileNotFoundError FileNotFoundError\n65534 []\n"


def test_the_benchmarks_answers_are_hidden(ended):
    assert ended["answers_of_the_benchmarks"]["output"] == (
        "ModuleNotFoundError ModuleNotFoundError\n"
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="the tests do not run as root")
def test_root_s_sandboxes_belong_to_nobody():
    """Seen from outside, by name: the uid inside is one that root has mapped, and says nothing."""
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run_program, "import time; time.sleep(60)", limits=attacks.LIMITS)
        deadline_s = time.monotonic() + attacks.LIMITS.wall_s
        owners: set[str] = set()
        while not owners and time.monotonic() < deadline_s:
            owners = _owners_of("coderllm_jax.evaluation.inside.program")
        assert running.result().ended == "timeout"
    assert owners == {str(UNPRIVILEGED_ID)}


def _owners_of(words: str) -> set[str]:
    """All uids and groups of interpreters whose command line has `words`."""
    found: set[str] = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            status = (process / "status").read_text()
            if words in (process / "cmdline").read_text() and status.startswith("Name:\tpython"):
                lines = dict(line.split(":", 1) for line in status.splitlines())
                found |= {*lines["Uid"].split(), *lines["Gid"].split(), *lines["Groups"].split()}
        except OSError:
            continue
    return found


def test_killing_who_started_it_ends_it():
    code = (
        "from coderllm_jax.evaluation.sandbox import Limits, run_program\n"
        "run_program('import time; time.sleep(600)', limits=Limits(wall_s=600))\n"
    )
    starter = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    try:
        family = _wait_for(lambda: _descendants(starter.pid), lambda found: len(found) == 3)
    finally:
        starter.kill()
        starter.wait()
    assert len(family) == 3  # bubblewrap outside, bubblewrap inside, the program
    alive = _wait_for(lambda: [p for p in family if Path(f"/proc/{p}").exists()], lambda p: not p)
    assert alive == []


def _wait_for(look: Callable[[], list[int]], is_good: Callable[[list[int]], bool]) -> list[int]:
    deadline_s = time.monotonic() + 10
    while not is_good(found := look()) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    return found


def _descendants(pid: int) -> list[int]:
    try:
        lists = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:
        return []
    children = [int(child) for text in lists for child in text.split()]
    return children + [inner for child in children for inner in _descendants(child)]
