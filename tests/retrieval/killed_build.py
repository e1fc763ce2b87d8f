"""A build in a process of its own that says when a batch is kept, for a test that kills it.

`python -m tests.retrieval.killed_build INDEX CHUNKS`: from the second batch on it waits for ever.
"""

from __future__ import annotations

import sys
import time

from coderllm_jax.data.prepared import read_chunks
from coderllm_jax.retrieval.building import build_index
from tests.retrieval.hash_embedder import HashEmbedder


def main() -> None:
    def on_progress(done: int, total: int) -> None:
        print(f"{done} of {total}", flush=True)
        if done > 64:
            time.sleep(600)

    build_index(sys.argv[1], read_chunks(sys.argv[2]), HashEmbedder(), on_progress=on_progress)


if __name__ == "__main__":
    main()
