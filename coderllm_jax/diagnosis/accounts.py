"""Credentials: whether they are set. A value is never read into a finding, not even its length."""

from __future__ import annotations

import netrc
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from coderllm_jax.diagnosis.check import Check

GROUP = "Accounts"


def check_accounts(environment: Mapping[str, str] = os.environ) -> Iterator[Check]:
    """Kaggle, Hugging Face and Weights & Biases; none is needed for the default model."""
    home = Path(environment.get("HOME", "~")).expanduser()
    kaggle = Path(environment.get("KAGGLE_CONFIG_DIR") or home / ".kaggle")
    yield _check(
        "Kaggle",
        variables=_set(environment, "KAGGLE_API_TOKEN")
        or _set(environment, "KAGGLE_USERNAME", "KAGGLE_KEY"),
        files=[kaggle / "kaggle.json", kaggle / "access_token"],
        purpose="KerasHub presets",
        remedy="accept the model's licence on kaggle.com, then set KAGGLE_USERNAME and KAGGLE_KEY",
    )
    cache = Path(environment.get("XDG_CACHE_HOME") or home / ".cache")
    hub = Path(environment.get("HF_HOME") or cache / "huggingface")
    yield _check(
        "Hugging Face",
        variables=_set(environment, "HF_TOKEN") or _set(environment, "HUGGING_FACE_HUB_TOKEN"),
        files=[Path(environment.get("HF_TOKEN_PATH") or hub / "token")],
        purpose="gated hf:// models",
        remedy="accept the model's licence on huggingface.co, then set HF_TOKEN",
    )
    where = Path(environment.get("NETRC") or home / ".netrc")
    yield _check(
        "Weights & Biases",
        variables=_set(environment, "WANDB_API_KEY"),
        files=[where] if _has_wandb_login(where) else [],
        purpose="logging runs there",
        remedy="set WANDB_API_KEY",
    )


def _check(name: str, *, variables: str, files: list[Path], purpose: str, remedy: str) -> Check:
    if variables:
        return Check(GROUP, name, "ok", f"set ({variables})")
    for file in files:
        try:
            mode = file.stat().st_mode
        except OSError:
            continue
        if stat.S_ISREG(mode) and mode & 0o077:
            remedy = f"others may read it: chmod 600 {file}"
            return Check(GROUP, name, "warning", f"set ({file})", remedy)
        return Check(GROUP, name, "ok", f"set ({file})")
    return Check(GROUP, name, "ok", f"not set; only needed for {purpose}", remedy)


def _set(environment: Mapping[str, str], *names: str) -> str:
    """The names, if every one has a value."""
    return " and ".join(names) if all(environment.get(name) for name in names) else ""


def _has_wandb_login(file: Path) -> bool:
    try:
        return netrc.netrc(file).authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError, UnicodeDecodeError):
        return False
