"""An export in the terminal's words: where each artifact lies, and how near it is."""

from __future__ import annotations

from coderllm_jax.export.drift import Drift
from coderllm_jax.export.exporting import ExportResult
from coderllm_jax.export.verification import Verification


def describe_export(result: ExportResult) -> str:
    """A line a folder, and under it one for each artifact."""
    lines = []
    for wanted, folder in result.folders.items():
        lines.append(str(folder))
        for name, found in result.verifications.items():
            if name == wanted or (wanted == "gguf" and name.endswith(".gguf")):
                lines.append(f"  {name}: {_line(found)}")
    return "\n".join(lines)


def _line(found: Verification | None) -> str:
    if found is None:
        return "UNVERIFIED; every tensor reads back, and no library that loads it was asked"
    text = f"by {found.loader}, {_figures(found.program)} from ours"
    if found.rounding is not None:
        text += f"; rounding cost {_figures(found.rounding)}"
    return text


def _figures(drift: Drift) -> str:
    return (
        f"logits {drift.difference:.2g} (KL {drift.kl:.1g} nats, the same likeliest token at "
        f"{drift.positions - drift.flips} of {drift.positions})"
    )
