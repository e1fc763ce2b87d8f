"""What an exported model says of itself: whose it is, what it was trained on, how it was measured.

    runs/lora/config.json, manifest.json, report/summary.json   ─┐
    runs/lora/evaluation/results.json, where there is one       ─┼→ Provenance ──► export.json
    the model's name, source hash and adapter                   ─┘             └─► README.md

Nothing is read that training and evaluation did not write; what is missing is left out.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from coderllm_jax.config.export import safe_name
from coderllm_jax.generation.trained import TrainedModel
from coderllm_jax.model import huggingface, keras_folder, presets
from coderllm_jax.model.presets import ALIASES
from coderllm_jax.training.run_folder import RunFolder, read_json


class _Naming(NamedTuple):
    """KerasHub's names of some presets → the hub's name.

    Of the pattern's two groups the first says that a model was instructed, the second its size;
    bare: what the hub adds where it was not.
    """

    preset: str
    repository: str
    bare: str = ""


_NAMINGS = (
    _Naming(r"gemma_(instruct_)?(2b|7b)_en", "google/gemma-{}"),
    _Naming(r"gemma_1\.1_(instruct_)?(2b|7b)_en", "google/gemma-1.1-{}"),
    _Naming(r"code_gemma_(instruct_)?(2b|7b)_en", "google/codegemma-{}"),
    _Naming(r"code_gemma_1\.1_(instruct_)?(2b|7b)_en", "google/codegemma-1.1-{}"),
    _Naming(r"gemma2_(instruct_)?(2b|9b|27b)_en", "google/gemma-2-{}"),
    _Naming(r"gemma3_(instruct_)?(270m)", "google/gemma-3-{}"),
    _Naming(r"gemma3_(instruct_)?(1b|4b|12b|27b)(?:_text)?", "google/gemma-3-{}", bare="-pt"),
    _Naming(r"gemma4_(instruct_)?(31b)", "google/gemma-4-31B"),
)
# Of those, the repositories that hold a vision tower as well.
_MULTIMODAL = r"google/(gemma-3-(4b|12b|27b)|gemma-4)-.+"

_TRAINING = (
    "step",
    "steps",
    "examples",
    "tokens",
    "loss_tokens",
    "learning_rate",
    "batch_size",
    "seed",
    "baseline_eval_loss",
    "baseline_few_shot_loss",
    "best_eval_loss",
)
_DATA = ("sha256", "evaluation_sha256", "sources", "num_trained", "num_evaluation_items")


@dataclasses.dataclass(frozen=True)
class Provenance:
    """Everything the card is made of. Empty mappings where there is no run or no evaluation."""

    name: str
    base: str  # as model_name
    base_repository: str  # as the hub calls it, "" where that is not known
    base_is_multimodal: bool  # of what others load by that name, the base is the text model
    identity: Mapping[str, Any]
    training: Mapping[str, Any]
    data: Mapping[str, Any]
    lora: Mapping[str, Any]
    base_source: str
    figures: Mapping[str, Mapping[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        """For export.json."""
        return dataclasses.asdict(self)


def read_provenance(
    model: TrainedModel, *, name: str = "", base_model: str = "", path: str = ""
) -> Provenance:
    """What is known of `model`, which was loaded from `path`; the first two replace what is."""
    loaded = str(model.identity["name"])
    base = public_name(loaded)
    repository = base_model or repository_of(base)
    manifest, summary, config, figures = ({}, {}, {}, {})
    if model.run is not None:
        folder = RunFolder(model.run)
        manifest, config = read_json(folder.manifest), read_json(folder.config)
        summary = read_json(folder.summary) if folder.summary.is_file() else {}
        results = model.run / "evaluation" / "results.json"
        figures = _figures(read_json(results), model) if results.is_file() else {}
    trained = model.identity.get("trained", {})
    return Provenance(
        name=name or default_name(base, path, model.run),
        base=base,
        base_repository=repository,
        base_is_multimodal=is_multimodal(loaded, repository),
        identity={**model.identity, "name": base},
        training=_some(
            {**config, **summary, "step": trained.get("step")},
            _TRAINING,
        ),
        data=_some(manifest.get("data", {}), _DATA),
        lora=_some(config.get("lora", {}), ("rank", "alpha", "targets")) if model.adapters else {},
        base_source=str(manifest.get("model", {}).get("source", "")),
        figures=figures,
    )


def public_name(name: str) -> str:
    """A model's name without what it says of this machine: of a folder or file, the last part."""
    is_path = not name.startswith("hf://") and (name.startswith("gguf:") or os.sep in name)
    return Path(name.removeprefix("gguf:")).name if is_path else name


def repository_of(base: str) -> str:
    """The hub's name of a model's name, where it has one."""
    if base.startswith("hf://"):
        return base.removeprefix("hf://")
    for naming in _NAMINGS:
        if found := re.fullmatch(naming.preset, ALIASES.get(base, base)):
            instructed, size = found.groups()
            return naming.repository.format(size) + ("-it" if instructed else naming.bare)
    return ""


def is_multimodal(name: str, repository: str) -> bool:
    """Whether the model loaded by `name` is the text model of a multimodal `repository`.

    Where the repository's name does not say so, that which was loaded has its layout.
    """
    if re.fullmatch(_MULTIMODAL, repository):
        return True
    if name.startswith("hf://"):
        return huggingface.is_multimodal(presets.find_hub_config(name))
    folder = Path(name).expanduser()
    is_folder = (folder / keras_folder.CONFIG).is_file()
    return is_folder and huggingface.is_multimodal(huggingface.read_config(folder))


def default_name(base: str, path: str, run: Path | None) -> str:
    """The base and the run, as a file may be called."""
    trained = run.name if run is not None else "" if path == base else path
    names = [safe_name(word) for word in (base, trained) if word]
    return "-".join(dict.fromkeys(names))


def _some(values: Mapping[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    return {key: values[key] for key in keys if values.get(key) is not None}


def _figures(results: Mapping[str, Any], model: TrainedModel) -> dict[str, dict[str, Any]]:
    """suite/name → value and interval, of every figure that has a value.

    Empty where another model was evaluated: a run that was trained on keeps its earlier results.
    """
    evaluated = results.get("manifest", {}).get("answerer", {}).get("model", {})
    if evaluated.get("trained") != model.identity.get("trained"):
        return {}
    return {
        f"{suite}/{name}": _some(figure, ("value", "low", "high", "num_items"))
        for suite, content in results.get("suites", {}).items()
        for name, figure in content.get("figures", {}).items()
        if figure.get("value") is not None
    }
