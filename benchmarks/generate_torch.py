"""transformers as an arm of `benchmarks.generate`: Gemma3ForCausalLM, greedy, left padding.

All the cores that this process may use; attention as transformers chooses it (sdpa).
"""

from __future__ import annotations

from benchmarks.generate_arm import Job, Loaded, Prompts, padded, run_job


def import_libraries() -> None:
    """torch and transformers, with a thread for each core."""
    import torch
    from transformers import Gemma3ForCausalLM

    from coderllm_jax.training.devices import usable_cores

    torch.set_num_threads(usable_cores())
    assert Gemma3ForCausalLM


def load(job: Job, prompts: Prompts) -> Loaded:
    """The folder's weights in the wanted format; no token ends an answer."""
    import torch
    import transformers

    del prompts
    model = transformers.Gemma3ForCausalLM.from_pretrained(
        job.huggingface, dtype=getattr(torch, job.format)
    ).eval()

    def generate(prompts: Prompts, num_new: int) -> list[list[int]]:
        longest = max(map(len, prompts))
        ids, mask = padded(prompts, length=longest, left=True)
        with torch.inference_mode():
            found = model.generate(
                input_ids=torch.from_numpy(ids).long(),
                attention_mask=torch.from_numpy(mask).long(),
                generation_config=transformers.GenerationConfig(
                    max_new_tokens=num_new,
                    min_new_tokens=num_new,
                    do_sample=False,
                    eos_token_id=None,
                    pad_token_id=0,
                ),
            )
        return found[:, longest:].tolist()

    return Loaded(generate, lambda: {"dtype": job.format})


if __name__ == "__main__":
    run_job(import_libraries, load)
