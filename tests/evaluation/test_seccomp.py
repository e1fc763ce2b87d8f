"""The system-call filter, run through a small interpreter of the kernel's programs."""

from __future__ import annotations

import struct

import pytest

from coderllm_jax.evaluation.seccomp import filter_program, why_no_filter

ALLOW, KILL = 0x7FFF0000, 0x80000000
ENOSYS, EPERM = 0x00050000 | 38, 0x00050000 | 1
AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
NEW_USER, THREAD = 0x10000000, 0x00010000


def verdict(number: int, *arguments: int, machine: str = "x86_64", audit: int = 0) -> int:
    """What the filter answers to one call, as seccomp(2) and bpf(4) define its instructions."""
    fields = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack("=iIQ6Q", number, audit or AUDIT[machine], 0, *fields)
    program = list(struct.iter_unpack("=HBBI", filter_program(machine)))
    accumulator, at = 0, 0
    for _ in range(len(program)):
        code, yes, no, value = program[at]
        at += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("=I", data, value)
        elif code == 0x06:
            return value
        else:
            held = {
                0x15: accumulator == value,
                0x25: accumulator > value,
                0x35: accumulator >= value,
                0x45: bool(accumulator & value),
            }[code]
            at += yes if held else no
    raise AssertionError("the program has no end")


@pytest.mark.parametrize(
    ("machine", "read", "write", "socket", "ptrace", "clone3"),
    [("x86_64", 0, 1, 41, 101, 435), ("aarch64", 63, 64, 198, 117, 435)],
)
def test_the_common_are_allowed_and_the_dangerous_are_not_there(
    machine, read, write, socket, ptrace, clone3
):
    assert {verdict(n, machine=machine) for n in (read, write)} == {ALLOW}
    assert {verdict(n, machine=machine) for n in (socket, ptrace, clone3)} == {ENOSYS}


@pytest.mark.parametrize(("machine", "clone"), [("x86_64", 56), ("aarch64", 220)])
def test_threads_are_the_only_new_tasks(machine, clone):
    assert verdict(clone, THREAD | 0x3D0F00 & ~THREAD, machine=machine) == ALLOW
    assert verdict(clone, 17, machine=machine) == EPERM  # fork: SIGCHLD
    assert verdict(clone, THREAD | NEW_USER, machine=machine) == EPERM


@pytest.mark.parametrize(("machine", "socketpair"), [("x86_64", 53), ("aarch64", 199)])
def test_pairs_of_local_sockets_only(machine, socketpair):
    assert verdict(socketpair, 1, machine=machine) == ALLOW
    assert verdict(socketpair, 2, machine=machine) == ENOSYS


def test_own_limits_only_and_no_terminal_tricks():
    assert verdict(302, 0) == ALLOW
    assert verdict(302, 1) == ENOSYS
    assert verdict(16, 0, 0x5401) == ALLOW
    assert verdict(16, 0, 0x5412) == ENOSYS  # TIOCSTI types into the terminal


def test_other_call_tables_are_no_way_round():
    assert verdict(0x40000000 | 41) == ENOSYS  # x32
    assert verdict(0x40000000) == ENOSYS
    assert verdict(0, audit=0x40000003) == KILL  # 32-bit x86, where 0 is restart_syscall


def test_an_unknown_architecture_is_named():
    assert why_no_filter("x86_64") is None
    assert why_no_filter("riscv64") == (
        "no system-call filter for 'riscv64', only for x86_64 and aarch64"
    )
