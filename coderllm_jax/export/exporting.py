"""The order of an export: one model loaded once, every format written, proven, and put in place.

    load ── probes ── reference logits
      for each format:  .FORMAT.partial/ written ── every tensor read back
    drop the model
      for each format:  logits of what was rounded ── reloaded by its library ── card
      all of them:      renamed to FORMAT/

Weights are in memory once, in float32 whatever is written: while formats are written, then as they
were rounded, then in the other library's process. What fails is deleted before the error is told,
what was proven before it is kept, and a folder under its final name is always whole and proven.
After a signal there is none: the same command finds every place as free as the first time. A killed
export leaves .FORMAT.partial folders, which the next one into the same `out` removes; two at once
into one `out` are refused.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import gc
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from coderllm_jax import entry
from coderllm_jax.config.export import FORMATS, ExportConfig, safe_name
from coderllm_jax.data.tokenizer import Tokenizer
from coderllm_jax.errors import ConfigError, DeviceError, ModelError, ResumableError, UserError
from coderllm_jax.export.drift import Logits
from coderllm_jax.export.formats import (
    Artifact,
    bytes_needed,
    read_leaves,
    write_format,
)
from coderllm_jax.export.huggingface_folder import write_huggingface
from coderllm_jax.export.merging import MergedModel
from coderllm_jax.export.model_card import model_card, write_notice
from coderllm_jax.export.placing import check_space, held, partial_folder, put_in_place
from coderllm_jax.export.probes import Probes, forward_logits, make_probes, own_logits
from coderllm_jax.export.provenance import Provenance, read_provenance
from coderllm_jax.export.tokenizer_files import check_tokenizer, mark_of
from coderllm_jax.export.verification import Verification, check_loaders, verify
from coderllm_jax.generation.trained import TrainedModel, find_place, load_trained
from coderllm_jax.model.architecture import Architecture
from coderllm_jax.model.forward import ForwardOptions
from coderllm_jax.model.load import check_source
from coderllm_jax.model.precision import FLOAT32
from coderllm_jax.model.weights import place

RECORD = "export.json"
_BASE = "base"  # what an adapter is proven on lies beside the formats for as long

Note = Callable[[str], None]
Verifications = dict[str, Verification | None]


class ExportResult(NamedTuple):
    """Where each format lies, and what was found of each artifact (None: nobody was asked)."""

    folders: Mapping[str, Path]
    verifications: Mapping[str, Verification | None]


@dataclasses.dataclass(frozen=True)
class _Written:
    """What is left of the model once it is dropped: all that proving needs.

    artifacts: by format. base: the folder under a PEFT adapter, where there is one.
    """

    architecture: Architecture
    tokenizer: Tokenizer
    knows_turns: bool
    provenance: Provenance
    probes: Probes
    reference: Logits
    artifacts: Mapping[str, Sequence[Artifact]]
    base: Path | None

    @property
    def marks(self) -> tuple[str, str]:
        """How the start and the end of a turn are spelt."""
        tokens = (self.tokenizer.start_of_turn_id, self.tokenizer.end_of_turn_id)
        start, end = (mark_of(self.tokenizer, token) for token in tokens)
        return start, end


def export_model(
    config: ExportConfig | Mapping[str, Any], *, note: Note = lambda _: None
) -> ExportResult:
    """Writes and proves what `config` asks for. `note` hears what goes on.

    Raises a UserError with the remedy where something cannot be written, is there already, or is
    not what it should be, or no disk is left; ResumableError where a signal ended it. Nothing
    half-written remains.
    """
    if not isinstance(config, ExportConfig):
        config = ExportConfig.from_config_dict(config)
    if config.verify:
        check_loaders(config.formats)
    out = _out_folder(config)
    try:
        with held(out, (*FORMATS, _BASE)):
            _check_free(config, out)
            return _export(config, out, note)
    except ResumableError as error:
        signal = str(error).partition(";")[0]
        raise ResumableError(
            f"{signal}; nothing half-written is left: the same command starts it again"
        ) from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DeviceError(
            f"{out}: the disk is full, there or in {tempfile.gettempdir()} ({error.strerror}); "
            "nothing half-written is left: make room, or name another out"
        ) from None


def _out_folder(config: ExportConfig) -> Path:
    """Where everything goes."""
    found = find_place(config.model_path)
    if found.folder is None:
        check_source(config.model_path)
    if config.out:
        out = Path(config.out).expanduser()
    elif found.run is not None:
        out = found.run / "export"
    else:
        out = Path("exports") / safe_name(config.model_path)
    return out


def _check_free(config: ExportConfig, out: Path) -> None:
    """ConfigError where something is there that may not be replaced."""
    for wanted in config.formats:
        if (out / wanted).exists() and not config.overwrite:
            raise ConfigError(
                f"{out / wanted} is there already; set overwrite=True to replace it, or name "
                "another out"
            )


def _export(config: ExportConfig, out: Path, note: Note) -> ExportResult:
    folders = {wanted: out / wanted for wanted in config.formats}
    proven: dict[str, Verifications] = {}
    with contextlib.ExitStack() as stack:
        partial = {
            wanted: stack.enter_context(partial_folder(folder))
            for wanted, folder in folders.items()
        }
        needs_base = config.verify and "peft" in config.formats
        base = stack.enter_context(partial_folder(out / _BASE)) if needs_base else None
        try:
            # The host writes the formats, and computes in float32 what they are compared with.
            with entry.ends_on_signals(), jax.default_device(jax.devices("cpu")[0]):
                written = _write(config, partial, base, note)
                gc.collect()  # the weights: whoever loads them next is another process
                for wanted, folder in partial.items():
                    verifications: Verifications = {}
                    for artifact in written.artifacts[wanted]:
                        verifications[artifact.name] = (
                            _prove(artifact, wanted, written, note) if config.verify else None
                        )
                    _describe(folder, wanted, written, verifications)
                    proven[wanted] = verifications
        except UserError:
            put_in_place({partial[wanted]: folders[wanted] for wanted in proven})
            raise
        put_in_place({partial[wanted]: folders[wanted] for wanted in proven})
    found: Verifications = {}
    for verifications in proven.values():
        found |= verifications
    return ExportResult(folders, found)


def _write(
    config: ExportConfig, partial: Mapping[str, Path], base: Path | None, note: Note
) -> _Written:
    """Loads the model, asks it the probes, writes every format and reads it back."""
    note("loading the model")
    model = _load(config)
    check_space(next(iter(partial.values())), bytes_needed(model.architecture, config))
    provenance = read_provenance(
        model, name=config.name, base_model=config.base_model, path=config.model_path
    )
    note("asking it the probes")
    probes = make_probes(model.tokenizer, model.architecture)
    reference = own_logits(model, probes)
    merged = MergedModel.of(model)
    artifacts = {}
    for wanted, folder in partial.items():
        note(f"writing {wanted}")
        artifacts[wanted] = write_format(
            wanted,
            folder,
            merged,
            config,
            name=provenance.name,
            base=provenance.base_repository or provenance.base,
            base_is_multimodal=provenance.base_is_multimodal,
        )
    if base is not None:
        note("writing the base that the adapter is proven on")
        write_huggingface(
            base, merged.base(), dtype="float32", max_shard_bytes=config.max_shard_bytes
        )
    return _Written(
        architecture=model.architecture,
        tokenizer=model.tokenizer,
        knows_turns=model.knows_turns,
        provenance=provenance,
        probes=probes,
        reference=reference,
        artifacts=artifacts,
        base=base,
    )


def _load(config: ExportConfig) -> TrainedModel:
    # In float32 whatever is written: numbers are rounded once, after the merge, and a CPU that
    # computes in float32 would copy bfloat16 weights into it (1.5 times the memory in all).
    model = load_trained(config.model_path, precision=FLOAT32, cache_dir=config.model.cache_dir)
    for wanted in config.formats:
        check_tokenizer(model.tokenizer, format=wanted)
    if "peft" in config.formats and not model.adapters:
        raise ModelError(
            f"formats has peft, and {config.model_path} has no adapter; drop peft from formats"
        )
    base = model.identity.get("trained", {}).get("base")
    if "peft" in config.formats and base:
        raise ModelError(
            f"formats has peft, and {config.model_path} was trained on {base} kernels, which no "
            "published model has, so that its adapter alone would answer otherwise; "
            "drop peft from formats (the others are merged)"
        )
    return model


def _prove(artifact: Artifact, format: str, written: _Written, note: Note) -> Verification:
    rounded = None
    if artifact.is_rounded:
        note(f"asking {artifact.name} the probes, as it was rounded")
        rounded = _rounded_logits(artifact, written)
    note(f"reloading {artifact.name}")
    return verify(
        artifact.path,
        format=format,
        number_format=artifact.number_format,
        tokenizer=written.tokenizer,
        probes=written.probes,
        reference=written.reference,
        rounded=rounded,
        base=written.base if format == "peft" else None,
        base_is_multimodal=written.provenance.base_is_multimodal,
        chat=written.knows_turns,
    )


def _rounded_logits(artifact: Artifact, written: _Written) -> Logits:
    weights = place(read_leaves(artifact), written.architecture, dtype="float32")
    options = ForwardOptions(precision=FLOAT32)
    return forward_logits(written.architecture, weights, {}, options, written.probes)


def _describe(
    folder: Path, format: str, written: _Written, verifications: Mapping[str, Verification | None]
) -> None:
    """The model card, the notice, and the same for programs."""
    provenance = written.provenance
    found = {
        name: None if verification is None else verification.to_dict()
        for name, verification in verifications.items()
    }
    files = sorted(path.name for path in folder.iterdir())
    card = model_card(
        provenance,
        written.architecture.family,
        format=format,
        files=files,
        verifications=found,
        marks=written.marks if written.knows_turns else None,
    )
    (folder / "README.md").write_text(card, encoding="utf-8")
    write_notice(folder, provenance, written.architecture.family)
    record = {
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "format": format,
        "verification": found,
        **provenance.to_dict(),
    }
    (folder / RECORD).write_text(f"{json.dumps(record, indent=1)}\n", encoding="utf-8")
