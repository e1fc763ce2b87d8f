"""Keeps credentials out of whatever a person or a file may see.

    redact("403 for https://hub/?token=hf_abc")  →  "403 for https://hub/?token=***"

A secret is a value: that of every environment variable that is called a token, key, secret or
password, and what the hubs' clients keep in files. Each is blotted out as it stands, URL-encoded,
and in base64 wherever it may lie in an encoded text (HTTP's Basic scheme joins user and key).

Covers: error lines, notes and anything else that is passed through `redact`.
Does not cover: text in which a secret was cut, encrypted or compressed.
"""

from __future__ import annotations

import base64
import configparser
import json
import os
import re
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

_NAMES = re.compile(r"(TOKEN|KEY|SECRET|PASSWORD|PASSWD|CREDENTIALS?)$", re.IGNORECASE)
# Shorter values are words: blotting out every "1" or "true" would make errors unreadable.
_SHORTEST = 8
_MAX_FILE_BYTES = 1 << 16
BLOT = "***"


def redact(text: str) -> str:
    """The text with every known credential replaced by `***`."""
    return redactor()(text)


def redactor() -> Callable[[str], str]:
    """`redact` for many texts: the credentials are looked for once, now.

    What goes into JSON or another format that escapes is passed through it beforehand: afterwards a
    secret with a quote or an umlaut is not found.
    """
    secrets = sorted(known_secrets(), key=len, reverse=True)
    forms = [form for secret in secrets for form in _forms(secret)]

    def blot(text: str) -> str:
        for form in forms if len(text) >= _SHORTEST else ():
            text = text.replace(form, BLOT)
        return text

    return blot


def known_secrets() -> set[str]:
    """Credentials that this process can see: environment and the hubs' own files."""
    found = {value for name, value in os.environ.items() if _NAMES.search(name)}
    for path in _token_files():
        found.update(_secrets_in(path))
    stripped = {secret.strip() for secret in found}
    return {secret for secret in stripped if len(secret) >= _SHORTEST and not _is_path(secret)}


def _token_files() -> Iterator[Path]:
    home = Path(os.path.expanduser("~"))  # noqa: PTH111 - Path.home() raises where there is none
    cache = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    hub = Path(os.environ.get("HF_HOME") or cache / "huggingface")
    yield Path(os.environ.get("HF_TOKEN_PATH") or hub / "token")
    yield hub / "stored_tokens"
    folders = [home / ".kaggle", home / ".config" / "kaggle"]
    if given := os.environ.get("KAGGLE_CONFIG_DIR"):
        folders.append(Path(given))
    for folder in folders:
        yield folder / "kaggle.json"
        yield folder / "access_token"
    yield Path(os.environ.get("NETRC") or home / ".netrc")


def _secrets_in(path: Path) -> set[str]:
    """What a client's file keeps: the `key`s of JSON, the values of an INI, netrc's passwords."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            text = file.read(_MAX_FILE_BYTES)
    except OSError:
        return set()
    if path.name.endswith(".json"):
        return _json_secrets(text)
    if path.name == "stored_tokens":
        return _ini_values(text)
    if path.name.endswith("netrc"):
        return set(re.findall(r"\bpassword\s+(\S+)", text))
    return {text}


def _json_secrets(text: str) -> set[str]:
    try:
        values: Any = json.loads(text)
    except ValueError:
        return set()
    if not isinstance(values, dict):
        return set()
    return {
        value for name, value in values.items() if isinstance(value, str) and _NAMES.search(name)
    }


def _ini_values(text: str) -> set[str]:
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(text)
    except configparser.Error:
        return set()
    return {value for section in parser.values() for value in section.values()}


def _forms(secret: str) -> Iterator[str]:
    yield secret
    yield urllib.parse.quote(secret, safe="")
    raw = secret.encode()
    # In base64 a text looks different at each of three offsets; the characters at either end also
    # hold bits of their neighbours and are left out.
    for offset in range(3):
        body = raw[-offset % 3 :]
        body = body[: len(body) // 3 * 3]
        if len(body) >= _SHORTEST - 2:
            encoded = base64.b64encode(body).decode()
            yield encoded
            yield encoded.replace("+", "-").replace("/", "_")


def _is_path(value: str) -> bool:
    """GOOGLE_APPLICATION_CREDENTIALS and the like name a file, which an error may have to name."""
    return value.startswith(("/", "~", "./")) and len(value) < 4096 and Path(value).exists()
