"""Makes the virtual environment that `make` works in. Needs nothing but the standard library.

    python3 scripts/install.py train     a training run on the best device of this machine
    python3 scripts/install.py compare   the same, with what retrieval needs
    python3 scripts/install.py test      the test-suite and the checks
    python3 scripts/install.py full      everything, the peers and torch included

The environment holds a list of what was finished in it:

    .venv/
      installed.json   {"python": "3.11.7 at /usr", "files": {"train.lock": "<sha256>", ...},
                        "checkout": "/home/me/coderllm_jax"}
      bin/python ...

A file enters the list when pip has returned, so an interrupted installation counts as none. Where
the list no longer fits (a lock changed, another Python), the environment is made anew. A folder
without a list is somebody else's work and is left alone. Concurrent calls wait for each other.

It also brings some of Debian's programs (`DEBIAN`), where it may: as root or with a sudo that asks
nothing, on a system with apt-get. Where it may not, it says what is missing, and goes on: code is
not executed, and those tests are skipped.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence

ROOT = pathlib.Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "requirements"
LIST_NAME = "installed.json"
TRAIN_LOCKS = {"cpu": "train.lock", "cuda": "cuda.lock", "tpu": "tpu.lock"}
APT_TIMEOUT_S = 300
# Package, the program in it, what it is for, and for whom.
DEBIAN = (
    ("bubblewrap", "bwrap", "sandbox for generated code", ("compare", "test", "full")),
    ("chromium", "chromium", "browser to look at pages with", ("test", "full")),
    ("prometheus", "promtool", "promtool to check metrics with", ("test", "full")),
    ("shellcheck", "shellcheck", "shellcheck to check launch scripts with", ("test", "full")),
)
# PCI ids as jax tells TPUs from Google's network cards, which share the vendor.
GOOGLE_PCI_VENDOR = "0x1ae0"
TPU_PCI_DEVICES = {"0x0027", "0x0056", "0x005e", "0x0062", "0x0063", "0x006f", "0x0076"}


class InstallError(Exception):
    """Something the caller can mend; printed as one line."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Brings the environment up to what is asked; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("purpose", choices=("train", "compare", "test", "full"))
    parser.add_argument("--platform", choices=("auto", *TRAIN_LOCKS), default="auto")
    parser.add_argument("--venv", type=pathlib.Path, default=ROOT / ".venv")
    options = parser.parse_args(arguments)
    try:
        check_python()
        platform = detect_platform() if options.platform == "auto" else options.platform
        with exclusive(options.venv):
            install(options.venv, required_files(options.purpose, platform))
            for package, program, use, purposes in DEBIAN:
                if options.purpose in purposes and (missing := install_debian(package, program)):
                    print(f"install: no {use}: {missing}", file=sys.stderr)
    except InstallError as error:
        print(f"install: {error}", file=sys.stderr)
        return 1
    return 0


def check_python() -> None:
    """Raises where this Python cannot make the environment."""
    version = ".".join(map(str, sys.version_info[:3]))
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        raise InstallError(
            f"Python {version} at {sys.executable}; expected 3.11, 3.12 or 3.13: install one, "
            "then `make PYTHON=/path/to/python3.11 ...`"
        )
    try:
        import ensurepip  # noqa: F401  Debian ships Python without it; `venv` alone imports.
        import venv  # noqa: F401
    except ImportError as error:
        raise InstallError(
            f"{sys.executable} has no module {error.name!r}; on Debian and Ubuntu: "
            f"apt-get install python3.{sys.version_info[1]}-venv"
        ) from None


def detect_platform() -> str:
    """This machine's accelerator by the traces of its driver: no library is there to ask yet."""
    smi = shutil.which("nvidia-smi")
    if smi and subprocess.run([smi, "--list-gpus"], capture_output=True, check=False).stdout:
        return "cuda"
    for vendor in pathlib.Path("/sys/bus/pci/devices").glob("*/vendor"):
        device = vendor.with_name("device")
        ids = vendor.read_text().strip(), device.read_text().strip()
        if ids[0] == GOOGLE_PCI_VENDOR and ids[1] in TPU_PCI_DEVICES:
            return "tpu"
    return "cpu"


def required_files(purpose: str, platform: str) -> list[str]:
    """Names of the files in requirements/ that `purpose` installs, in order."""
    return {
        "train": ["bootstrap.lock", TRAIN_LOCKS[platform]],
        "compare": ["bootstrap.lock", TRAIN_LOCKS[platform], "retrieval.lock", "torch.txt"],
        "test": ["bootstrap.lock", "dev.lock", "torch.txt"],
        "full": ["bootstrap.lock", "full.lock", "torch.txt"],
    }[purpose]


def install(venv: pathlib.Path, names: Sequence[str]) -> None:
    """Installs what of `names` the environment lacks, after making it (anew) where needed."""
    python = f"{'.'.join(map(str, sys.version_info[:3]))} at {sys.base_prefix}"
    finished = read_list(venv)
    if finished and (finished["python"] != python or is_outdated(finished["files"])):
        print(f"install: {venv} was made from other locks or another Python; making it anew")
        shutil.rmtree(venv)
        finished = None
    if finished is None:
        finished = claim(venv, python)
    if not finished["files"]:
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    for name in names:
        if name not in finished["files"]:
            started = time.monotonic()
            print(f"install: requirements/{name} into {venv} ...", flush=True)
            pip_install(venv, name)
            finished["files"][name] = sha256(name)
            write_list(venv, finished)
            print(f"install: requirements/{name} done in {time.monotonic() - started:.0f} s")
    if finished.get("checkout") != str(ROOT):
        # Editable, so that `import coderllm_jax` works from any folder and follows the checkout.
        pip(venv, "--no-index", "--no-deps", "--no-build-isolation", "--editable", str(ROOT))
        write_list(venv, finished | {"checkout": str(ROOT)})


def install_debian(package: str, program: str) -> str:
    """Installs a Debian package where its program is missing; returns why it still is, else ""."""
    if sys.platform != "linux":
        return f"{package} is installed on Linux only"
    reason = "" if shutil.which(program) else _apt_install(package, program)
    by_hand = f"install {package} by hand (apt-get install {package})"
    return f"{reason}; {by_hand}" if reason else ""


def _apt_install(package: str, program: str) -> str:
    apt, sudo = shutil.which("apt-get"), shutil.which("sudo")
    if apt is None:
        return f"there is no {program} on PATH, and no apt-get to install it with"
    if os.geteuid() and sudo is None:
        return f"there is no {program} on PATH, and only root may install it"
    command = [*([sudo, "-n"] if os.geteuid() and sudo else []), apt]
    get = [*command, "install", "--yes", "--no-install-recommends", package]
    print(f"install: {package} ...", flush=True)
    for step in (get, [*command, "update"], get):  # a fresh container has no package lists yet
        try:
            done = subprocess.run(
                step,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
                timeout=APT_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"{' '.join(step)} took more than {APT_TIMEOUT_S} s"
        if shutil.which(program):
            return ""
    said = done.stderr.strip().splitlines()
    return f"{' '.join(get)} failed ({said[-1] if said else done.returncode})"


def claim(venv: pathlib.Path, python: str) -> dict:
    """Starts the list of a new environment; refuses a folder that this program did not make."""
    if venv.exists() and any(venv.iterdir()):
        raise InstallError(
            f"{venv} is there and was not made by `make`; remove it, or name another folder: "
            "make VENV=folder ..."
        )
    venv.mkdir(parents=True, exist_ok=True)
    finished = {"python": python, "files": {}}
    write_list(venv, finished)
    return finished


def pip_install(venv: pathlib.Path, name: str) -> None:
    """Installs one file of requirements/."""
    options = ["--requirement", str(REQUIREMENTS / name)]
    if name.endswith(".lock"):
        # The lock is complete: resolving again would only cost time. What has no wheel is built
        # with the backends of bootstrap.lock instead of unpinned ones fetched for it.
        options += ["--require-hashes", "--no-deps", "--no-build-isolation"]
    pip(venv, *options)


def pip(venv: pathlib.Path, *options: str) -> None:
    """Runs `pip install` in the environment."""
    command = [str(venv / "bin" / "python"), "-m", "pip", "install"]
    command += ["--disable-pip-version-check", *options]
    if not sys.stdout.isatty():
        command += ["--quiet", "--quiet"]  # a log wants errors only; a person, signs of life
    if subprocess.run(command, check=False).returncode:
        raise InstallError(f"{' '.join(command)} failed; its messages are above")


def is_outdated(files: Mapping[str, str]) -> bool:
    """Whether a file was installed whose content is another now."""
    return any(
        not (REQUIREMENTS / name).exists() or sha256(name) != digest
        for name, digest in files.items()
    )


def sha256(name: str) -> str:
    """Digest of a file of requirements/."""
    return hashlib.sha256((REQUIREMENTS / name).read_bytes()).hexdigest()


def read_list(venv: pathlib.Path) -> dict | None:
    """What is finished in `venv`; None where there is no list."""
    try:
        return json.loads((venv / LIST_NAME).read_text())
    except FileNotFoundError:
        return None


def write_list(venv: pathlib.Path, finished: dict) -> None:
    """Replaces the list in one step: an interruption leaves the old one or the new one."""
    partial = venv / f"{LIST_NAME}.partial"
    partial.write_text(json.dumps(finished, indent=2) + "\n")
    partial.replace(venv / LIST_NAME)


@contextlib.contextmanager
def exclusive(venv: pathlib.Path) -> Iterator[None]:
    """Holds the environment against other calls; the kernel lets go when a process dies."""
    with venv.with_name(f"{venv.name}.lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"install: waiting for another installation into {venv}", flush=True)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    sys.exit(main())
