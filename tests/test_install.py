"""scripts/install.py: what counts as installed, and when an environment is made anew."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


LOCKS = ("bootstrap.lock", "train.lock", "cuda.lock", "retrieval.lock", "dev.lock")


@pytest.fixture
def installer(tmp_path, monkeypatch):
    """The script as a module, with requirements of its own and a pip that only takes notes."""
    spec = importlib.util.spec_from_file_location("install", ROOT / "scripts" / "install.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    requirements = tmp_path / "requirements"
    requirements.mkdir()
    for name in (*LOCKS, "torch.txt"):
        (requirements / name).write_text(f"# {name}\n")
    monkeypatch.setattr(module, "REQUIREMENTS", requirements)
    monkeypatch.setattr(module.shutil, "which", lambda name: f"/usr/bin/{name}")
    calls = []

    def run(command, **_):
        if command[1:3] == ["-m", "venv"]:
            calls.append("venv")
            Path(command[3], "bin").mkdir(parents=True, exist_ok=True)
            return subprocess.CompletedProcess(command, 0)
        installed = [Path(word).name for word in command if word.endswith((".lock", "torch.txt"))]
        calls.append(installed[0] if installed else "checkout")
        return subprocess.CompletedProcess(command, int(calls[-1] == module.failing))

    module.failing = ""
    module.calls = calls
    monkeypatch.setattr(module.subprocess, "run", run)
    return module


def install(installer, venv: Path, purpose: str = "train", platform: str = "cpu") -> list[str]:
    """Runs the script; returns what it did."""
    before = len(installer.calls)
    installer.code = installer.main([purpose, "--platform", platform, "--venv", str(venv)])
    return installer.calls[before:]


def test_a_second_call_does_nothing(installer, tmp_path):
    venv = tmp_path / "venv"
    assert install(installer, venv) == ["venv", "bootstrap.lock", "train.lock", "checkout"]
    assert installer.code == 0
    assert install(installer, venv) == []
    assert installer.code == 0


def test_layers_add_up(installer, tmp_path):
    venv = tmp_path / "venv"
    install(installer, venv)
    assert install(installer, venv, "compare") == ["retrieval.lock", "torch.txt"]
    assert install(installer, venv, "test") == ["dev.lock"]
    assert install(installer, venv, "train", "cuda") == ["cuda.lock"]
    assert install(installer, venv) == []


def test_a_changed_lock_makes_it_anew(installer, tmp_path):
    venv = tmp_path / "venv"
    install(installer, venv)
    install(installer, venv, "test")
    (venv / "left-over").touch()
    (installer.REQUIREMENTS / "dev.lock").write_text("# newer\n")
    assert install(installer, venv) == ["venv", "bootstrap.lock", "train.lock", "checkout"]
    assert not (venv / "left-over").exists()
    # A lock that was never installed changes nothing.
    (installer.REQUIREMENTS / "dev.lock").write_text("# newest\n")
    assert install(installer, venv) == []


def test_another_python_makes_it_anew(installer, tmp_path, monkeypatch):
    venv = tmp_path / "venv"
    install(installer, venv)
    monkeypatch.setattr(installer.sys, "base_prefix", "/elsewhere")
    assert install(installer, venv)[0] == "venv"


def test_a_failed_installation_counts_as_none(installer, tmp_path, capsys):
    venv = tmp_path / "venv"
    installer.failing = "train.lock"
    assert install(installer, venv) == ["venv", "bootstrap.lock", "train.lock"]
    assert installer.code == 1
    assert capsys.readouterr().err.count("\n") == 1
    installer.failing = ""
    assert install(installer, venv) == ["train.lock", "checkout"]
    assert installer.code == 0


def test_an_interrupted_start_is_taken_up_again(installer, tmp_path):
    venv = tmp_path / "venv"
    installer.failing = "bootstrap.lock"
    install(installer, venv)
    installer.failing = ""
    assert install(installer, venv) == ["venv", "bootstrap.lock", "train.lock", "checkout"]


def test_somebody_elses_environment_is_left_alone(installer, tmp_path, capsys):
    venv = tmp_path / "venv"
    venv.mkdir()
    (venv / "precious").write_text("mine")
    assert install(installer, venv) == []
    assert installer.code == 1
    assert "was not made by `make`" in capsys.readouterr().err
    assert [path.name for path in venv.iterdir()] == ["precious"]


def test_concurrent_calls_wait(installer, tmp_path):
    venv = tmp_path / "venv"
    with installer.exclusive(venv):
        other = threading.Thread(target=install, args=(installer, venv))
        other.start()
        other.join(timeout=0.3)
        assert other.is_alive()
        assert installer.calls == []
    other.join(timeout=10)
    assert installer.calls[-1] == "checkout"


@pytest.mark.parametrize("version", [(3, 10, 4), (3, 14, 0)])
def test_another_pythons_version_is_one_line(installer, monkeypatch, version):
    monkeypatch.setattr(installer.sys, "version_info", version)
    with pytest.raises(installer.InstallError, match=r"expected 3\.11, 3\.12 or 3\.13: install"):
        installer.check_python()


def test_a_python_without_venv_is_one_line(installer, monkeypatch):
    monkeypatch.setitem(sys.modules, "ensurepip", None)
    with pytest.raises(installer.InstallError, match=r"apt-get install python3\.\d+-venv"):
        installer.check_python()


def test_list_is_replaced_in_one_step(installer, tmp_path, monkeypatch):
    venv = tmp_path / "venv"
    install(installer, venv)
    before = installer.read_list(venv)
    monkeypatch.setattr(json, "dumps", lambda *_, **__: "{ torn")
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError("power cut")))
    with pytest.raises(OSError, match="power cut"):
        installer.write_list(venv, {"python": "?", "files": {}})
    assert installer.read_list(venv) == before


# ----------------------------------------------------------------------------------- make


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    # `make test` runs these tests, and would hand its own variables to a make inside.
    environment = {name: value for name, value in os.environ.items() if "MAKE" not in name}
    return subprocess.run(
        ["make", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_make_train_is_one_command():
    done = make("-n", "train", "PYTHON=py", "VENV=v", "PLATFORM=cuda", "ARGS=--config.steps=3")
    assert done.stdout.splitlines() == [
        "py scripts/install.py --venv v --platform cuda train",
        "v/bin/python -m coderllm_jax.train --config=configs/lora.py "
        "--config.mesh.platform=gpu --config.steps=3",
    ]


def test_continuous_integration_is_make_test():
    assert (ROOT / ".ci" / "run").read_text().splitlines()[-1] == "exec make test"
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    lines = make("-n", "test", "PYTHON=py", "VENV=v").stdout.splitlines()
    assert lines[0].startswith("py scripts/install.py")
    assert lines[1] == "scripts/check v/bin/python"
    assert lines[-1].startswith("v/bin/python -m pytest")


def test_no_python_is_one_line():
    done = make("train", "PYTHON=")
    assert done.returncode != 0
    assert "no Python 3.11, 3.12 or 3.13 on PATH" in done.stderr.splitlines()[0]


# ------------------------------------------------------------------------------ the sandbox


@pytest.fixture
def system(installer, monkeypatch):
    """A Debian without bubblewrap: `programs` are on PATH, `commands` is what was run."""
    installer.programs, installer.commands = {"apt-get", "sudo"}, []
    installer.apt_succeeds_after = 0

    def run(command, **_):
        installer.commands.append(" ".join(command).replace("/usr/bin/", ""))
        if len(installer.commands) > installer.apt_succeeds_after and "install" in command:
            installer.programs.add("bwrap")
            return subprocess.CompletedProcess(command, 0, "", "")
        return subprocess.CompletedProcess(command, 100, "", "E: Unable to locate bubblewrap\n")

    def which(name):
        return f"/usr/bin/{name}" if name in installer.programs else None

    monkeypatch.setattr(installer.subprocess, "run", run)
    monkeypatch.setattr(installer.shutil, "which", which)
    monkeypatch.setattr(installer.sys, "platform", "linux")
    monkeypatch.setattr(installer.os, "geteuid", lambda: 0)
    return installer


GET = "apt-get install --yes --no-install-recommends bubblewrap"


def test_the_sandbox_is_installed_once(system):
    assert system.install_debian("bubblewrap", "bwrap") == ""
    assert system.install_debian("bubblewrap", "bwrap") == ""
    assert system.commands == [GET]


def test_package_lists_are_fetched_where_they_are_missing(system):
    system.apt_succeeds_after = 2
    assert system.install_debian("bubblewrap", "bwrap") == ""
    assert system.commands == [GET, "apt-get update", GET]


def test_an_ordinary_user_asks_sudo_and_is_never_asked(system, monkeypatch):
    monkeypatch.setattr(system.os, "geteuid", lambda: 1000)
    assert system.install_debian("bubblewrap", "bwrap") == ""
    assert system.commands == [f"sudo -n {GET}"]


@pytest.mark.parametrize(
    ("programs", "reason"),
    [
        ({"apt-get"}, "only root may install it; install bubblewrap by hand"),
        ({"sudo"}, "no apt-get to install it with; install bubblewrap by hand"),
        ({"apt-get", "sudo"}, "failed (E: Unable to locate bubblewrap); install bubblewrap by"),
    ],
)
def test_what_cannot_be_installed_is_said(system, monkeypatch, programs, reason):
    monkeypatch.setattr(system.os, "geteuid", lambda: 1000)
    system.programs, system.apt_succeeds_after = programs, 99
    assert reason in system.install_debian("bubblewrap", "bwrap")


def test_a_missing_sandbox_fails_no_installation(installer, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(installer, "install_debian", lambda package, program: f"no {program}")
    assert install(installer, tmp_path / "venv", "test") != []
    assert installer.code == 0
    assert capsys.readouterr().err.splitlines() == [
        "install: no sandbox for generated code: no bwrap",
        "install: no browser to look at pages with: no chromium",
        "install: no promtool to check metrics with: no promtool",
        "install: no shellcheck to check launch scripts with: no shellcheck",
    ]
