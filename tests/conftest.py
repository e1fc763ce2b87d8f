"""Fixtures that every test may ask for: the real model, loaded once, and small stand-ins for it."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile

# Before anything imports Keras or TensorFlow: the backend is read once, at import.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# Compiling is most of the tests' time and many tests compile the same. Each worker has a cache of
# its own: JAX's is not written atomically, and a process that dies in it must not disturb another
# worker. What the workers' children compile is apart for the same reason.
os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="coderllm-compiled-")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
# LLVM's part of compiling, the larger one, is cut short, here and in the processes that tests
# start: what they compile is run for milliseconds. XLA's own passes (fusion, layouts, partitioning,
# memory) stay those of a user's run. JAX_DISABLE_MOST_OPTIMIZATIONS=false before `make test`
# compiles everything as users do; what moves much data says so for itself.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")

import jax
import pytest

from coderllm_jax.config.training import ModelSection


def pytest_configure() -> None:
    """Sets JAX's cache of this process, and how the processes that tests start hear signals.

    Children of `make test &` or nohup ignore some, and a shell script cannot trap what it was
    started to ignore.
    """
    compiled = os.environ["JAX_COMPILATION_CACHE_DIR"]
    jax.config.update("jax_compilation_cache_dir", f"{compiled}/by_tests")
    default = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGQUIT: signal.SIG_DFL,
        signal.SIGHUP: signal.SIG_DFL,
    }
    for each, handler in default.items():
        if signal.getsignal(each) is signal.SIG_IGN:
            signal.signal(each, handler)


def pytest_unconfigure() -> None:
    """Removes what was compiled."""
    shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)


@pytest.fixture(scope="session")
def gemma():
    """The real Gemma 3 270M in float32 (mark the test `real_model`).

    It lies in the cache that training uses, so a machine converts it once for both.
    """
    from coderllm_jax.model.load import load_model

    return load_model("gemma3_270m", dtype="float32", cache_dir=ModelSection().cache_dir)


@pytest.fixture(scope="session")
def small_vocabulary():
    """(pieces, scores, types) as a GGUF lists them: Gemma's special pieces, bytes, a few words."""
    control = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>"]
    runs = ["\n", "\n\n", "  ", "    ", "<b>", "<img>", "<start_of_image>", "<end_of_image>"]
    in_bytes = [f"<0x{byte:02X}>" for byte in range(256)]
    letters = list("\u2581abcdefghijklmnopqrstuvwxyz=()<>_")
    merged = ["de", "def", "\u2581x", "re", "ret", "ur", "urn", "return"]
    pieces = control + runs + in_bytes + letters + merged
    types = [3] * len(control) + [4] * len(runs) + [6] * 256 + [1] * len(letters + merged)
    scores = [-1000.0] * len(control + runs) + [0.0] * 256
    scores += [-float(i) - len(merged) for i in range(len(letters))]
    scores += [-float(i) for i in range(len(merged))]
    return pieces, scores, types
