"""SIGTERM and SIGINT in a process of its own: nothing here may reach the tests themselves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from coderllm_jax.training.signals import StopSignals

BEGIN = """
import os, signal, sys, time
from coderllm_jax.training.signals import StopSignals
def send(number):
    os.kill(os.getpid(), number)
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", BEGIN + code]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_first_signal_is_a_wish_and_the_second_sigint_an_order() -> None:
    done = run("""
with StopSignals(grace_period_s=60, note=print) as signals:
    assert signals.received == ""
    send(signal.SIGINT)
    print(signals.received)
    try:
        send(signal.SIGINT)
        time.sleep(5)
    except KeyboardInterrupt:
        print("at once")
""")
    assert done.stdout.splitlines() == [
        "SIGINT: saving, then stopping; once more ends it now",
        "SIGINT",
        "at once",
    ]
    assert done.returncode == 0


def test_sigterm_may_come_often() -> None:
    done = run("""
with StopSignals(grace_period_s=60) as signals:
    for _ in range(5):
        send(signal.SIGTERM)
    print(signals.received)
""")
    assert (done.returncode, done.stdout) == (0, "SIGTERM\n")


def test_the_grace_period_ends_what_no_handler_can(tmp_path) -> None:
    done = run("""
import ctypes
library, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(256)
with StopSignals(grace_period_s=0.5):
    send(signal.SIGTERM)
    library.pthread_mutex_lock(mutex)
    library.pthread_mutex_lock(mutex)
""")
    assert done.returncode == 42
    assert done.stderr.startswith(
        "interrupted: not saved within 0.5 s of SIGTERM; the same command"
    )


def test_sigint_has_no_clock_and_a_run_that_saved_in_time_is_left_alone() -> None:
    done = run("""
with StopSignals(grace_period_s=0.3):
    send(signal.SIGINT)
    time.sleep(0.8)
with StopSignals(grace_period_s=0.3):
    send(signal.SIGTERM)
time.sleep(0.8)
print("saved")
""")
    assert (done.returncode, done.stdout) == (0, "saved\n")


def test_a_terminal_that_is_gone_does_not_turn_a_signal_into_an_error() -> None:
    done = run("""
def gone(text):
    raise BrokenPipeError
with StopSignals(grace_period_s=60, note=gone) as signals:
    send(signal.SIGTERM)
    print(signals.received)
""")
    assert (done.returncode, done.stdout) == (0, "SIGTERM\n"), done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_handlers_are_put_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with StopSignals(grace_period_s=60):
        assert signal.getsignal(number) != before
    assert signal.getsignal(number) == before
    assert not any(thread.name == "stop-signals" for thread in threading.enumerate())


def test_outside_the_main_thread_it_hears_of_none() -> None:
    failures: list[BaseException] = []

    def use() -> None:
        try:
            with StopSignals(grace_period_s=60) as signals:
                assert signals.received == ""
        except BaseException as error:  # noqa: BLE001 - told by the main thread
            failures.append(error)

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert failures == []


def test_what_the_shell_ignores_for_a_background_process_is_heard_and_nohup_is_obeyed() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGHUP)}
    try:
        for number in before:
            signal.signal(number, signal.SIG_IGN)
        with StopSignals(grace_period_s=60) as signals:
            os.kill(os.getpid(), signal.SIGHUP)
            assert signals.received == ""
            os.kill(os.getpid(), signal.SIGINT)
            assert signals.received == "SIGINT"
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
