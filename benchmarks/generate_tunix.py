"""Tunix as an arm of `benchmarks.peers`: its own sampler, greedy, left padding.

Prompts are padded to the longest of them and the cache holds just what is needed, which is kinder
than Tunix's default, the next power of two. The sampler takes texts; a stand-in for its tokenizer
hands it the ids that everybody gets.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.generate_arm import Job, Loaded, Prompts, run_job


def import_libraries() -> None:
    """Tunix's sampler and model, on JAX."""
    import jax
    from tunix.generate import sampler
    from tunix.models.gemma3 import model

    jax.devices()
    assert sampler
    assert model


class Numbered:
    """Texts "0", "1", ... are the prompts of those numbers. No token ends an answer."""

    def __init__(self, prompts: Prompts) -> None:
        self.prompts = prompts

    def encode(self, text: str) -> list[int]:
        """The prompt after its <bos>, which the sampler adds."""
        return self.prompts[int(text)].tolist()[1:]

    def decode(self, ids: list[int]) -> str:
        """Nothing: tokens are what is compared."""
        del ids
        return ""

    def bos_id(self) -> int:
        """What every prompt begins with."""
        return int(self.prompts[0][0])

    def eos_id(self) -> int:
        """None of the vocabulary."""
        return -1

    def pad_id(self) -> int:
        """Gemma's <pad>."""
        return 0


def load(job: Job, prompts: Prompts) -> Loaded:
    """A sampler over the folder's weights."""
    from tunix.generate.sampler import CacheConfig, Sampler

    from benchmarks.tunix_model import load_gemma3

    model = load_gemma3(Path(job.huggingface), dtype=job.format)
    longest = max(map(len, prompts))
    sampler = Sampler(
        model,
        Numbered(prompts),
        CacheConfig(
            cache_size=longest + job.num_new,
            num_layers=model.config.num_layers,
            num_kv_heads=model.config.num_kv_heads,
            head_dim=model.config.head_dim,
        ),
    )
    del model

    def generate(prompts: Prompts, num_new: int) -> list[list[int]]:
        found = sampler(
            [str(number) for number in range(len(prompts))],
            max_generation_steps=num_new,
            max_prompt_length=longest,
        )
        return [list(map(int, row)) for row in found.tokens]

    return Loaded(generate, lambda: {"dtype": job.format})


if __name__ == "__main__":
    run_job(import_libraries, load)
