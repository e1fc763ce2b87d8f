"""Loads a model of 380 MB in a process of its own and prints, as JSON, what memory it took.

    python -m tests.model.born_sharded write FOLDER
    python -m tests.model.born_sharded load FOLDER CACHE    every case, one after another
    python -m tests.model.born_sharded join FOLDER PORT ID  one of two processes, four devices each

Resident memory is the kernel's own high-water mark (VmHWM), which is reset before each case.
"""

from __future__ import annotations

import ctypes
import dataclasses
import gc
import json
import os
import sys
from pathlib import Path

NUM_LAYERS, WIDTH, FEED_FORWARD, VOCABULARY = 12, 1024, 4096, 8192
MIB = 1 << 20


def architecture():
    from coderllm_jax.model.architecture import TINY

    return dataclasses.replace(
        TINY,
        num_layers=NUM_LAYERS,
        vocabulary=VOCABULARY,
        width=WIDTH,
        feed_forward=FEED_FORWARD,
        num_heads=8,
        num_kv_heads=8,
        head_size=128,
        global_every=6,
        query_scale=128**-0.5,
    )


def write(folder: Path) -> None:
    """A Hugging Face folder in two bfloat16 files; every number differs from its neighbours."""
    import ml_dtypes
    import numpy as np
    import safetensors.numpy

    from coderllm_jax.model.huggingface import BLOCK_NAMES
    from coderllm_jax.model.stored_layout import stored_shape

    model = architecture()
    shapes = {"embed_tokens": (VOCABULARY, WIDTH), "norm": (WIDTH,)}
    for i in range(NUM_LAYERS):
        for name in model.block_shapes():
            shapes[f"layers.{i}.{BLOCK_NAMES[name]}"] = stored_shape(name, model)
    base = np.arange(FEED_FORWARD * WIDTH * 2, dtype=np.uint32) * np.uint32(2654435761) >> 18
    tensors = {}
    for number, (name, shape) in enumerate(shapes.items()):
        bits = (base[: np.prod(shape)].astype(np.uint16) + np.uint16(number)) & np.uint16(0x3FFF)
        tensors[f"model.{name}.weight"] = bits.view(ml_dtypes.bfloat16).reshape(shape)
    for part in (0, 1):
        half = dict(list(tensors.items())[part::2])
        safetensors.numpy.save_file(half, folder / f"model-{part}.safetensors")


def open_huggingface(folder: Path):
    from coderllm_jax.model.huggingface import SafetensorsFolder, read_weights

    return read_weights(SafetensorsFolder(folder), architecture())


def fill_unsharded(leaf, dtype, where):
    """What loading did before: the whole leaf in host memory, then its parts."""
    import jax
    import numpy as np

    values = np.asarray(leaf)
    return jax.make_array_from_callback(
        values.shape, where, lambda index: np.array(values[index], dtype)
    )


def resident(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(field)


class Watched:
    """Resident bytes when it begins, and the most that were resident until it ends."""

    def __enter__(self):
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        self.before = resident("VmRSS")
        return self

    def __exit__(self, *error):
        self.peak = resident("VmHWM") - self.before
        self.kept = resident("VmRSS") - self.before


def load_case(leaves, mesh, *, folder: Path, check: bool = False) -> dict:
    import jax
    import numpy as np

    from coderllm_jax.model.sharding import sharding_by_path, tree_path
    from coderllm_jax.model.weights import place

    with Watched() as memory:
        weights = place(leaves, architecture(), dtype="bfloat16", sharding=sharding_by_path(mesh))
    shards, wrong = {}, []
    for path, leaf in jax.tree_util.tree_leaves_with_path(weights):
        name = tree_path(path)
        parts = [shard.data for shard in leaf.addressable_shards]
        shards[name] = {
            "shapes": sorted({part.shape for part in parts}),
            "bytes": sum(part.nbytes for part in parts),
            "whole": leaf.nbytes,
        }
    if check:
        for name, expected in open_huggingface(folder):
            leaf = weights
            for key in name.split("/"):
                leaf = leaf[key]
            values = np.asarray(expected)
            wrong += [
                name
                for shard in leaf.addressable_shards
                if not np.array_equal(
                    np.asarray(shard.data), values[shard.index].astype(leaf.dtype)
                )
            ]
    return {"peak": memory.peak, "kept": memory.kept, "leaves": shards, "wrong": wrong}


def convert_case(folder: Path, cache: Path, *, whole: bool) -> dict:
    import numpy as np

    from coderllm_jax.model.cache import cache_folder, write_cached

    leaves = open_huggingface(folder)
    if whole:
        leaves = ((path, np.asarray(leaf)) for path, leaf in leaves)
    with Watched() as memory:
        write_cached(
            cache_folder(cache, source_sha256=f"{whole:064d}", dtype="bfloat16"),
            leaves,
            architecture=architecture(),
            tokenizer=b"none",
            dtype="bfloat16",
            source="test",
        )
    return {"peak": memory.peak}


def load(folder: Path, cache: Path) -> dict:
    from coderllm_jax.config.training import MeshSection
    from coderllm_jax.model import weights
    from coderllm_jax.model.cache import cache_folder, open_cached
    from coderllm_jax.model.sharding import make_mesh

    def mesh(data, fsdp, tensor):
        return make_mesh(MeshSection(data=data, fsdp=fsdp, tensor=tensor))

    cases = {"convert": convert_case(folder, cache, whole=False)}
    cases["convert, whole leaves"] = convert_case(folder, cache / "again", whole=True)
    cached = open_cached(cache_folder(cache, source_sha256="0" * 64, dtype="bfloat16"))
    sources = {"huggingface": lambda: open_huggingface(folder), "cache": cached.leaves}
    # Once unmeasured: what jax allocates for good on first use is no part of a model.
    load_case(open_huggingface(folder), mesh(1, 8, 1), folder=folder)
    for name, open_leaves in sources.items():
        for sizes in ((1, 8, 1), (2, 2, 2)):
            # Values cost more time than memory: one mesh a source.
            check = (name == "cache") == (sizes == (1, 8, 1))
            case = load_case(open_leaves(), mesh(*sizes), folder=folder, check=check)
            cases[f"{name} {'x'.join(map(str, sizes))}"] = case
    sharded = weights._fill
    weights._fill = fill_unsharded
    for name, open_leaves in sources.items():
        case = load_case(open_leaves(), mesh(1, 8, 1), folder=folder)
        cases[f"{name} 1x8x1, whole leaves"] = case
    weights._fill = sharded
    return cases


def join(folder: Path, port: str, rank: int) -> dict:
    import jax

    from coderllm_jax.config.training import MeshSection
    from coderllm_jax.model.sharding import make_mesh

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{port}", 2, rank)
    mesh = make_mesh(MeshSection(data=1, fsdp=8, tensor=1))
    load_case(open_huggingface(folder), mesh, folder=folder)
    case = load_case(open_huggingface(folder), mesh, folder=folder, check=True)
    jax.distributed.shutdown()
    return case


def main() -> None:
    command, *arguments = sys.argv[1:]
    if command == "write":
        write(Path(arguments[0]))
    elif command == "load":
        print(json.dumps(load(Path(arguments[0]), Path(arguments[1]))))
    else:
        print(json.dumps(join(Path(arguments[0]), arguments[1], int(arguments[2]))))


if __name__ == "__main__":
    assert os.environ.get("XLA_FLAGS"), "the parent says how many devices there are"
    main()
