"""A model with what was trained onto it, found by one path: whatever can be evaluated or served.

    runs/lora                  a run: its best adapter
    runs/lora/checkpoints/40   one of its steps; runs/lora/checkpoints: the best of them
    runs/lora/adapter          an adapter's folder, or a copy of one
    everything else            a model by name or folder, as `model.load` understands it

An adapter is put onto the model it was trained on, and onto no other: the weights' sha256 decides.
Where its run had rounded kernels (`lora.base`), onto kernels rounded in the same way, as floats:
what answers, is evaluated and is exported is then what was trained, and as fast as any other model.
The float model would be another function, whose answers nobody has seen during training.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jax

from coderllm_jax.data.tokenizer import Tokenizer
from coderllm_jax.errors import ModelError, RunError
from coderllm_jax.model.architecture import Architecture
from coderllm_jax.model.forward import ForwardOptions
from coderllm_jax.model.load import LoadedModel, load_model
from coderllm_jax.model.mapped import sha256_of
from coderllm_jax.model.precision import Precision
from coderllm_jax.model.quantization import BaseFormat, dequantize_weights
from coderllm_jax.model.rounded_file import RoundedKernels, open_kernels
from coderllm_jax.model.weights import Dtype
from coderllm_jax.training.adapter import Adapter, load_adapter
from coderllm_jax.training.checkpoint import read_trainable
from coderllm_jax.training.integrity import read_manifest
from coderllm_jax.training.run_folder import RunFolder, read_json

_ADAPTER_CONFIG, _STEP_MANIFEST = "adapter_config.json", "integrity.json"


class TrainedModel(NamedTuple):
    """Weights ready for generation. `adapters` is empty for a base model and after full training.

    knows_turns: whether it was trained on chat turns, here or by its makers. identity: JSON that
    tells it from every other model. run: the run's folder it comes from, if any.
    """

    name: str
    architecture: Architecture
    tokenizer: Tokenizer
    weights: dict[str, Any]
    adapters: dict[str, Any]
    options: ForwardOptions
    knows_turns: bool
    identity: dict[str, Any]
    run: Path | None = None


class Place(NamedTuple):
    """What a path was found to be. `folder` is None for a model by name."""

    kind: str  # run, checkpoint, adapter or model
    folder: Path | None
    run: Path | None


def find_place(path: str) -> Place:
    """Tells what `path` is by what lies there; RunError for a run without anything to load."""
    folder = Path(path).expanduser()
    if (folder / _ADAPTER_CONFIG).is_file() and "kind" in read_json(folder / _ADAPTER_CONFIG):
        return Place("adapter", folder, _run_of(folder.parent))
    if (folder / _STEP_MANIFEST).is_file():
        run = _run_of(folder.parent.parent)
        if run is None:
            raise RunError(
                f"{folder} is a checkpoint without its run; expected config.json and "
                f"manifest.json in {folder.parent.parent}: leave it where training wrote it"
            )
        return Place("checkpoint", folder, run)
    if folder.name == "checkpoints" and (run := _run_of(folder.parent)):
        return Place("checkpoint", _best_step(folder), run)
    if run := _run_of(folder):
        adapter = RunFolder(run).adapter
        if (adapter / _ADAPTER_CONFIG).is_file():
            return Place("run", adapter, run)
        if RunFolder(run).checkpoints.is_dir():
            return Place("checkpoint", _best_step(RunFolder(run).checkpoints), run)
        raise RunError(f"{run} has neither an adapter nor a checkpoint yet; let it train first")
    if not folder.exists() and (folder.parts[:1] == ("runs",) or path.endswith(("/adapter", "/"))):
        raise RunError(f"{path}: no such folder; train first (make train), or name another one")
    return Place("model", None, None)


def model_of(place: Place) -> str:
    """The name of the model that what lies there was trained on; empty where that is not said."""
    if place.run is not None:
        return str(read_json(RunFolder(place.run).config)["model_name"])
    if place.kind == "adapter" and place.folder is not None:
        return str(read_json(place.folder / _ADAPTER_CONFIG)["model"])
    return ""


def load_trained(path: str, *, precision: Precision, cache_dir: str) -> TrainedModel:
    """Loads what `path` names. Raises RunError and ModelError with the remedy."""
    place = find_place(path)
    dtype: Dtype = "bfloat16" if precision.weights == "bfloat16" else "float32"
    if place.folder is None:
        model = load_model(path, dtype=dtype, cache_dir=cache_dir)
        return _bare(model, precision)
    adapter = _read(place)
    name = adapter.config["model"]
    base = _base_of(adapter.config)
    kernels = _kernels_of(place, adapter.config)
    model = load_model(name, dtype=dtype, cache_dir=cache_dir, base=base, kernels=kernels)
    if model.sha256 != adapter.config["model_sha256"]:
        raise ModelError(
            f"{place.folder} was trained on other weights than {name} has here "
            f"({adapter.config['model_sha256'][:12]}…, not {model.sha256[:12]}…); "
            "bring the model it was trained on"
        )
    model = model._replace(weights=dequantize_weights(model.weights, precision.weights))
    bare = _bare(model, precision)
    # A checkpoint of the step that the adapter is from is the same model, and has the same name.
    trained = {key: adapter.config[key] for key in ("kind", "step", "sha256")}
    if not base.is_float:
        trained |= {"base": base.base, "base_int8": list(base.int8)}
    if kernels:
        trained |= {"kernels_sha256": adapter.config["kernels_sha256"]}
    found = bare._replace(
        name=place.run.name if place.run else place.folder.name,
        identity={**bare.identity, "trained": trained},
        knows_turns=True,
        run=place.run,
    )
    if adapter.config["kind"] == "full":
        weights = jax.tree.map(
            lambda new, old: jax.numpy.asarray(new, old.dtype), adapter.tensors, bare.weights
        )
        return found._replace(weights=weights)
    scale = adapter.config["alpha"] / adapter.config["rank"]
    return found._replace(
        adapters=jax.tree.map(jax.numpy.asarray, adapter.tensors),
        options=ForwardOptions(precision=precision, lora_scale=scale),
        identity={**found.identity, "lora_scale": scale},
    )


def _bare(model: LoadedModel, precision: Precision) -> TrainedModel:
    is_instructed = _is_instructed(model.name)
    return TrainedModel(
        name=model.name,
        architecture=model.architecture,
        tokenizer=model.tokenizer,
        weights=model.weights,
        adapters={},
        options=ForwardOptions(precision=precision),
        knows_turns=is_instructed,
        identity={
            "name": model.name,
            "sha256": model.sha256,
            "tokenizer": model.tokenizer.fingerprint,
            "is_instructed": is_instructed,
        },
    )


def _base_of(config: dict[str, Any]) -> BaseFormat:
    """The kernels that an adapter was trained on; floats where it says nothing of them."""
    return BaseFormat.make(config.get("base", "float"), config.get("base_int8", ()))


def _kernels_of(place: Place, config: dict[str, Any]) -> RoundedKernels | None:
    """The kernels that a run rounded on its rows; they lie in its folder, or beside a copy."""
    expected = config.get("kernels_sha256")
    if expected is None:
        return None
    assert place.folder is not None
    homes = [place.folder, place.run] if place.run else [place.folder]
    files = [RunFolder(home).kernels for home in homes]
    for file in files:
        if file.is_file():
            if (found := sha256_of(file)) != expected:
                raise RunError(
                    f"{file}: sha256 is {found[:12]}…, expected {expected[:12]}…; the file is "
                    "damaged or another run's: copy it from the run again"
                )
            return open_kernels(file)
    raise RunError(
        f"{place.folder} was trained on kernels that its run rounded, and there is no "
        f"{files[0]}; copy the file from the run's folder to there"
    )


def _read(place: Place) -> Adapter:
    """The adapter at a place; a checkpoint's is put together from the step and its run."""
    assert place.folder is not None
    if place.kind != "checkpoint":
        return load_adapter(place.folder)
    assert place.run is not None
    config = read_json(RunFolder(place.run).config)
    manifest = read_json(RunFolder(place.run).manifest)
    step = read_manifest(place.folder)
    found: dict[str, Any] = {
        "kind": "lora" if config["lora"]["enabled"] else "full",
        "model": config["model_name"],
        "model_sha256": manifest["identity"]["model"]["sha256"],
        "step": step.step,
        "sha256": step.sha256,
        "rank": config["lora"]["rank"],
        "alpha": config["lora"]["alpha"],
        "base": config["lora"].get("base", "float"),
        "base_int8": config["lora"].get("base_int8", []),
        "kernels_sha256": manifest["identity"]["lora"].get("kernels_sha256"),
    }
    return Adapter(read_trainable(place.folder), found)


def _run_of(folder: Path) -> Path | None:
    run = RunFolder(folder)
    return folder if run.config.is_file() and run.manifest.is_file() else None


def _best_step(folder: Path) -> Path:
    found: dict[Path, float | None] = {}
    for step in folder.iterdir():
        if (step / _STEP_MANIFEST).is_file():
            try:
                found[step] = read_manifest(step).eval_loss
            except ValueError:
                continue
    if not found:
        raise RunError(f"{folder} holds no finished checkpoint; let the run train further")
    evaluated = {step: loss for step, loss in found.items() if loss is not None}
    if evaluated:
        return min(evaluated, key=lambda step: (evaluated[step], -int(step.name)))
    return max(found, key=lambda step: int(step.name))


def _is_instructed(name: str) -> bool:
    """Whether a model's name, or a chat template in its folder, says that it knows chat turns."""
    words = name.lower().replace("_", "-").replace("/", "-").replace(".", "-").split("-")
    if {"it", "instruct", "chat"} & set(words):
        return True
    folder = Path(name).expanduser()
    if (folder / "chat_template.jinja").is_file():
        return True
    tokenizer = folder / "tokenizer_config.json"
    return tokenizer.is_file() and bool(read_json(tokenizer).get("chat_template"))
