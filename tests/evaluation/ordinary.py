"""Commands run as an ordinary user, from a test that root runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from coderllm_jax.evaluation.python_files import out_of_reach

ROOT = Path(__file__).resolve().parents[2]
ORDINARY_ID = 65532  # nobody's, and not the one that root's sandboxes use

# Opens closed folders on the way to Python and the checkout, in a mount namespace of its own: what
# is needed is bound aside, the closed folder covered by an open one, and bound back.
_SCRIPT = """
id=$1; closed=$2; count=$3; shift 3
if [ "$closed" != none ]; then
  mount -t tmpfs -o mode=755,size=1m none /mnt
  number=0
  for path; do
    [ $number -lt $count ] || break
    if [ -d "$path" ]; then mkdir /mnt/$number; else : > /mnt/$number; fi
    mount --bind "$path" /mnt/$number
    number=$((number + 1))
  done
  mount -t tmpfs -o mode=755,size=1m none "$closed"
  number=0
  while [ $number -lt $count ]; do
    mkdir -p "$(dirname "$1")"
    if [ -d /mnt/$number ]; then mkdir -p "$1"; else : > "$1"; fi
    mount --bind /mnt/$number "$1"
    number=$((number + 1)); shift
  done
  umount --recursive /mnt
fi
exec setpriv --reuid="$id" --regid="$id" --clear-groups -- "$@"
"""


def run_as_ordinary_user(
    module: str, *arguments: str, timeout_s: float = 120.0
) -> subprocess.CompletedProcess[str]:
    """`python -m module arguments` as a user who is not root, from the checkout."""
    command = [sys.executable, "-B", "-m", module, *arguments]
    if os.geteuid() == 0:
        needed = (sys.base_prefix, sys.prefix, str(ROOT))
        paths = out_of_reach(dict.fromkeys(needed))
        closed = {_closed_folder(path) for path in paths} or {"none"}
        assert len(closed) == 1, f"more than one closed folder: {closed}"
        command = [
            *("unshare", "--mount", "--propagation", "private", "sh", "-ec", _SCRIPT, "sh"),
            *(str(ORDINARY_ID), closed.pop(), str(len(paths)), *paths, *command),
        ]
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def _closed_folder(path: str) -> str:
    parents = list(reversed(Path(path).parents))
    return str(next(parent for parent in parents if not parent.stat().st_mode & 0o001))
