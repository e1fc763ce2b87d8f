"""A trained model out of the door: folders and files that other programs load, each proven first.

    runs/lora ──► MergedModel ──► writer ──► .NAME.partial/ ──► read back ──► reloaded ──► NAME/
                  (merging)       one a format              every tensor   logits, tokens
                                                            is the one      equal ours
                                                            meant           (or it is deleted)

    format        writer              read back by        reloaded by (a process of its own)
    huggingface   huggingface_folder  model.huggingface   transformers
    peft          peft_folder         itself, unfolded    peft over the base as a folder
    gguf          gguf_file           model.gguf          llama.cpp
    keras         keras_preset        model.keras_folder  keras_hub

The entry is `__main__`; the order of things is `exporting`. Weights are written tensor by tensor,
so that memory stays near one copy of the model.
"""
