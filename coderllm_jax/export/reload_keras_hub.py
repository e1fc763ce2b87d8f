"""A KerasHub preset's folder in keras_hub: the body of a process, see `reload_protocol`."""

from __future__ import annotations

import json
import os
from pathlib import Path

os.environ["KERAS_BACKEND"] = "jax"  # read once, when keras is imported

import keras
import keras_hub
import numpy as np

from coderllm_jax.export.reload_protocol import Job, Reply, answer


def reload(job: Job) -> Reply:
    """Loads the folder as the model card says, in float32, and asks."""
    # By its own class: CausalLM itself takes Gemma 4's draft model for the task (KerasHub 0.32).
    config = json.loads((Path(job.artifact) / "config.json").read_text())
    task = getattr(keras_hub.models, config["class_name"].replace("Backbone", "CausalLM"))
    model = task.from_preset(job.artifact, dtype="float32")
    logits = []
    for prompt, positions in zip(job.prompts, job.positions, strict=True):
        tokens = np.array([prompt], np.int32)
        inputs = {"token_ids": tokens, "padding_mask": np.ones_like(tokens)}
        if any(each.name == "position_ids" for each in model.backbone.inputs):
            inputs["position_ids"] = np.arange(tokens.shape[1], dtype=np.int32)[None]
        hidden = model.backbone(inputs)
        chosen = keras.ops.take(hidden, np.array(positions, np.int32), axis=1)
        table = model.backbone.token_embedding
        logits.append(np.asarray(table(chosen, reverse=True)[0], np.float32))
    return Reply(
        versions={"keras-hub": keras_hub.__version__, "keras": keras.__version__},
        logits=logits,
        text_ids=[_prompt_ids(model, text) for text in job.texts],
        chat_ids=[_prompt_ids(model, text) for text in job.chat_texts],
    )


def _prompt_ids(model: keras_hub.models.CausalLM, text: str) -> list[int]:
    """What `generate` starts from for this text."""
    made = model.preprocessor.generate_preprocess(text)
    return np.asarray(made["token_ids"])[np.asarray(made["padding_mask"]).astype(bool)].tolist()


if __name__ == "__main__":
    answer(reload)
