"""Which system calls a sandboxed program may make, as the bytes that the kernel's filter takes.

An allow list: what an ordinary single-process Python program does with files, memory, threads,
timers and pipes. Everything else answers ENOSYS, as a kernel that never had it would (libraries
then take their older path), starting with sockets, ptrace, mount, bpf, keyctl, io_uring,
perf_event_open, memfd_create, userfaultfd, namespaces and other processes' memory. Five calls are
allowed by their arguments only:

    clone       threads; another process or a namespace: EPERM (clone3: ENOSYS, as arguments in
                memory cannot be read by a filter; the C library then calls clone)
    socketpair  AF_UNIX, the pair that asyncio wakes itself with
    ioctl       what Python asks of a descriptor: is it a terminal, block or not, inheritable
    prctl       a thread's name; prlimit64: the own process

The program is classic BPF over `struct seccomp_data {int nr; u32 arch; u64 ip; u64 args[6];}`
(seccomp(2), linux/filter.h), made here so that no compiler and no libseccomp is needed.
"""

from __future__ import annotations

import platform
import struct
from collections.abc import Iterable
from typing import NamedTuple

# name:number on x86-64:number on aarch64 (`-`: that architecture never had it)
_ALLOWED = """
    read:0:63 write:1:64 open:2:- close:3:57 stat:4:- fstat:5:80 lstat:6:- poll:7:- lseek:8:62
    mmap:9:222 mprotect:10:226 munmap:11:215 brk:12:214 rt_sigaction:13:134 rt_sigprocmask:14:135
    rt_sigreturn:15:139 rt_sigpending:127:136 rt_sigtimedwait:128:137 rt_sigsuspend:130:133
    pread64:17:67 pwrite64:18:68 readv:19:65 writev:20:66 preadv:295:69 pwritev:296:70
    preadv2:327:286 pwritev2:328:287 access:21:- pipe:22:- pipe2:293:59 select:23:-
    pselect6:270:72 ppoll:271:73 sched_yield:24:124 mremap:25:216 msync:26:227 mincore:27:232
    madvise:28:233 dup:32:23 dup2:33:- dup3:292:24 pause:34:- nanosleep:35:101 getitimer:36:102
    alarm:37:- setitimer:38:103 getpid:39:172 sendfile:40:71 exit:60:93 exit_group:231:94
    wait4:61:260 waitid:247:95 kill:62:129 tkill:200:130 tgkill:234:131 uname:63:160 fcntl:72:25
    flock:73:32 fsync:74:82 fdatasync:75:83 truncate:76:45 ftruncate:77:46 fallocate:285:47
    getdents:78:- getdents64:217:61 getcwd:79:17 chdir:80:49 fchdir:81:50 rename:82:-
    renameat:264:38 renameat2:316:276 mkdir:83:- mkdirat:258:34 rmdir:84:- creat:85:- link:86:-
    linkat:265:37 unlink:87:- unlinkat:263:35 symlink:88:- symlinkat:266:36 readlink:89:-
    readlinkat:267:78 chmod:90:- fchmod:91:52 fchmodat:268:53 umask:95:166 gettimeofday:96:169
    getrlimit:97:163 setrlimit:160:164 getrusage:98:165 sysinfo:99:179 times:100:153
    getuid:102:174 getgid:104:176 geteuid:107:175 getegid:108:177 getppid:110:173 getpgrp:111:-
    getpgid:121:155 setpgid:109:154 setsid:112:157 getsid:124:156 getgroups:115:158
    getresuid:118:148 getresgid:120:150 capget:125:90 sigaltstack:131:132 utime:132:- utimes:235:-
    utimensat:280:88 futimesat:261:- statfs:137:43 fstatfs:138:44 getpriority:140:141
    setpriority:141:140 sched_getparam:143:121 sched_getscheduler:145:120
    sched_setaffinity:203:122 sched_getaffinity:204:123 sched_get_priority_max:146:125
    sched_get_priority_min:147:126 sched_rr_get_interval:148:127 arch_prctl:158:- gettid:186:178
    time:201:- futex:202:98 futex_waitv:449:449 set_tid_address:218:96 set_robust_list:273:99
    get_robust_list:274:100 restart_syscall:219:128 fadvise64:221:223 timer_create:222:107
    timer_settime:223:110 timer_gettime:224:108 timer_getoverrun:225:109 timer_delete:226:111
    clock_gettime:228:113 clock_getres:229:114 clock_nanosleep:230:115 epoll_create:213:-
    epoll_create1:291:20 epoll_ctl:233:21 epoll_wait:232:- epoll_pwait:281:22 epoll_pwait2:441:441
    eventfd:284:- eventfd2:290:19 timerfd_create:283:85 timerfd_settime:286:86
    timerfd_gettime:287:87 signalfd:282:- signalfd4:289:74 openat:257:56 openat2:437:437
    newfstatat:262:79 faccessat:269:48 faccessat2:439:439 statx:332:291 getrandom:318:278
    copy_file_range:326:285 membarrier:324:283 rseq:334:293 close_range:436:436 execve:59:221
    getxattr:191:8 lgetxattr:192:9 fgetxattr:193:10 listxattr:194:11 llistxattr:195:12
    flistxattr:196:13 sendto:44:206 recvfrom:45:207 shutdown:48:210 getsockname:51:204
    getpeername:52:205 getsockopt:55:209 setsockopt:54:208 getcpu:309:168
"""
_CONDITIONAL = "clone:56:220 socketpair:53:199 ioctl:16:29 prctl:157:167 prlimit64:302:261"

_AF_UNIX = 1
_CLONE_THREAD, _CLONE_NAMESPACES = 0x0001_0000, 0x7E02_0000
_IOCTL_REQUESTS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)  # TCGETS .. FIONBIO .. FIOCLEX
_PRCTL_OPTIONS = (15, 16, 0x5356_4D41)  # PR_SET_NAME, PR_GET_NAME, PR_SET_VMA (glibc names memory)

_EPERM, _ENOSYS = 1, 38
_ALLOW, _ERRNO, _KILL_PROCESS = 0x7FFF_0000, 0x0005_0000, 0x8000_0000
_LOAD, _EQUAL, _ABOVE, _AT_LEAST, _HAS_BITS, _RETURN = 0x20, 0x15, 0x25, 0x35, 0x45, 0x06
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENTS_AT = 0, 4, 16
_X32_BIT = 0x4000_0000  # x86-64's second system-call table


class _Architecture(NamedTuple):
    audit: int
    column: int


_ARCHITECTURES = {
    "x86_64": _Architecture(0xC000_003E, 1),
    "aarch64": _Architecture(0xC000_00B7, 2),
}


def why_no_filter(machine: str | None = None) -> str | None:
    """Why this machine has no filter; None where it has one."""
    machine = platform.machine() if machine is None else machine
    if machine in _ARCHITECTURES:
        return None
    return f"no system-call filter for {machine!r}, only for {' and '.join(_ARCHITECTURES)}"


def filter_program(machine: str | None = None) -> bytes:
    """The filter for `machine` (default: this one), as `bwrap --seccomp` reads it."""
    machine = platform.machine() if machine is None else machine
    architecture = _ARCHITECTURES[machine]
    calls = _numbers(_CONDITIONAL, architecture)
    program = [
        _step(_LOAD, _ARCHITECTURE_AT),
        _step(_EQUAL, architecture.audit, yes=1),
        _step(_RETURN, _KILL_PROCESS),  # e.g. 32-bit calls, whose numbers mean something else
        _step(_LOAD, _NUMBER_AT),
        _step(_AT_LEAST, _X32_BIT, no=1),
        _step(_RETURN, _ERRNO | _ENOSYS),
    ]
    for first, last in _ranges(_numbers(_ALLOWED, architecture).values()):
        program += [
            _step(_AT_LEAST, first, no=2),
            _step(_ABOVE, last, yes=1),
            _step(_RETURN, _ALLOW),
        ]
    program += _where(calls["socketpair"], 0, (_AF_UNIX,))
    program += _where(calls["ioctl"], 1, _IOCTL_REQUESTS)
    program += _where(calls["prctl"], 0, _PRCTL_OPTIONS)
    program += _where(calls["prlimit64"], 0, (0,))
    program += [
        _step(_EQUAL, calls["clone"], no=5),
        _step(_LOAD, _ARGUMENTS_AT),
        _step(_HAS_BITS, _CLONE_THREAD, no=2),
        _step(_HAS_BITS, _CLONE_NAMESPACES, yes=1),
        _step(_RETURN, _ALLOW),
        _step(_RETURN, _ERRNO | _EPERM),
        _step(_RETURN, _ERRNO | _ENOSYS),
    ]
    return b"".join(program)


def _step(code: int, value: int, *, yes: int = 0, no: int = 0) -> bytes:
    """One `struct sock_filter`; `yes` and `no` count the instructions to skip."""
    return struct.pack("=HBBI", code, yes, no, value)


def _where(number: int, argument: int, values: tuple[int, ...]) -> list[bytes]:
    """Allows call `number` where the low half of its argument is one of `values`.

    The kernel takes these arguments as 32-bit numbers, so the high half says nothing.
    """
    tests = [_step(_EQUAL, value, yes=len(values) - i) for i, value in enumerate(values)]
    return [
        _step(_EQUAL, number, no=len(values) + 3),
        _step(_LOAD, _ARGUMENTS_AT + 8 * argument),
        *tests,
        _step(_RETURN, _ERRNO | _ENOSYS),
        _step(_RETURN, _ALLOW),
    ]


def _numbers(table: str, architecture: _Architecture) -> dict[str, int]:
    entries = (entry.split(":") for entry in table.split())
    return {
        entry[0]: int(entry[architecture.column])
        for entry in entries
        if entry[architecture.column] != "-"
    }


def _ranges(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Sorted runs of neighbours: [1, 2, 3, 7] is [(1, 3), (7, 7)]."""
    runs: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
    return runs
