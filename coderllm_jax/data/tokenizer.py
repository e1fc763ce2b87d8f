"""Text to token ids and back: one interface, three tokenizers behind it.

    SentencePieceTokenizer  Gemma's: rebuilt from a GGUF, or a tokenizer.model beside weights
    JsonTokenizer           a Hugging Face tokenizer.json, through the `tokenizers` package
    ByteTokenizer           a byte an id, for the `tiny` model; needs nothing

Text never becomes a control token: in `encode("<start_of_turn>user")` the mark is spelled out in
ordinary pieces, so that a question cannot end its own turn. What writes the turns asks for the
ids by name (`start_of_turn_id`), or passes `control=True` for text that it wrote itself.

    "def fib(n):"      2063 10779 236769 236749 1473       encode(text)
    "<start_of_turn>"  236820 3041 236779 1340 236779 …    encode(text): text is only text
    "<start_of_turn>"  105                                 encode(text, control=True)

`decode(encode(text)) == text` for every text that UTF-8 can hold, with one exception that Gemma's
own tokenizer and llama.cpp share: SentencePiece writes a space as U+2581, so a literal U+2581
comes back as a space.
"""

from __future__ import annotations

import abc
import functools
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from coderllm_jax.errors import DataError, ModelError

_SPACE = "\u2581"
_NAMED = ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>")
# What Gemma 4 calls two of them; turns are written as before.
_GEMMA4 = {"<start_of_turn>": "<|turn>", "<end_of_turn>": "<turn|>"}
# What a published tokenizer may mark as ordinary text although only a program should write it.
_RESERVED = re.compile(r"<(mask|start_of_turn|end_of_turn|\|turn|turn\||unused\d+)>")
# A literal U+2581 may join a word, as a space does, but never a piece that is a run of spaces:
# llama.cpp looks for those in the text itself, SentencePiece after it has replaced its spaces.
_LITERAL_SPACE_RUN = re.compile("(?<=\u2581)(?=[\u2581 ])|(?<= )(?=\u2581)")
_MAX_FILE_BYTES = 256 << 20
_UNKNOWN, _CONTROL, _USER_DEFINED = 2, 3, 4  # piece types, alike in GGUF and SentencePiece


class Tokenizer(abc.ABC):
    """What every stage asks of a tokenizer. Immutable, and picklable for worker processes.

    A subclass gives `vocabulary`, its control pieces, and how a run of plain text becomes ids and
    back; keeping the two apart is done here, once.
    """

    vocabulary: int

    def __init__(self, control: dict[str, int], *, name: str) -> None:
        named = [control.get(piece, control.get(_GEMMA4.get(piece, ""), -1)) for piece in _NAMED]
        missing = [piece for piece, token in zip(_NAMED, named, strict=True) if token < 0]
        if missing:
            raise ModelError(f"{name}: has no control piece '{missing[0]}'; not Gemma's tokenizer")
        self.control_ids = control
        self.pad_id, self.eos_id, self.bos_id, self.unk_id = named[:4]
        self.start_of_turn_id, self.end_of_turn_id = named[4:]
        self._control_pieces = {token: piece for piece, token in control.items()}
        # Longest first, as llama.cpp looks for them.
        ordered = sorted(control, key=len, reverse=True)
        self._control_pattern = re.compile(f"({'|'.join(map(re.escape, ordered))})")

    @property
    @abc.abstractmethod
    def fingerprint(self) -> str:
        """A sha256 that differs wherever ids could differ."""

    @abc.abstractmethod
    def _encode_plain(self, texts: list[str]) -> list[list[int]]: ...

    @abc.abstractmethod
    def _decode_plain(self, ids: list[int]) -> str: ...

    def encode(self, text: str, *, control: bool = False) -> list[int]:
        """The ids of `text`, without a leading <bos>; control pieces only where asked for."""
        if not control:
            return self._encode_plain([_checked(text)])[0]
        # The pattern's group keeps the separators: every odd fragment is a control piece.
        fragments = self._control_pattern.split(_checked(text))
        encoded = self._encode_plain(fragments[::2])
        ids = encoded[0]
        for piece, run in zip(fragments[1::2], encoded[1:], strict=True):
            ids += [self.control_ids[piece], *run]
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of many texts at once."""
        return self._encode_plain([_checked(text) for text in texts])

    def decode(self, ids: Sequence[int], *, skip_control: bool = True) -> str:
        """The text of `ids`; control pieces are dropped, or spelled out."""
        if not isinstance(ids, list):
            ids = [int(token) for token in ids]
        parts: list[str] = []
        start = 0
        for end, token in enumerate(ids):
            if token in self._control_pieces:
                parts.append(self._decode_plain(ids[start:end]))
                if not skip_control:
                    parts.append(self._control_pieces[token])
                start = end + 1
        parts.append(self._decode_plain(ids[start:]))
        return "".join(parts)


class SentencePieceTokenizer(Tokenizer):
    """Gemma's tokenizer over a serialized SentencePiece model (BPE with byte fallback)."""

    def __init__(self, model: bytes, *, name: str = "tokenizer.model") -> None:
        import sentencepiece

        self.model = model
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(model)
            self.vocabulary = self._processor.vocab_size()
            ids = list(range(self.vocabulary))
            pieces = self._processor.IdToPiece(ids)
        except (RuntimeError, UnicodeDecodeError):
            raise ModelError(f"{name}: not a SentencePiece model; fetch the file again") from None
        special = zip(self._processor.IsControl(ids), self._processor.IsUnknown(ids), strict=True)
        marks = [one or other for one, other in special]
        super().__init__({pieces[i]: i for i in ids if marks[i]}, name=name)

    def __reduce__(self) -> tuple:
        return type(self), (self.model,)

    @classmethod
    def from_file(cls, path: str | Path) -> Self:
        """Reads a published tokenizer.model; marks that only programs write become control."""
        model = _read_bounded(path)
        return cls(_protect_control(model, name=str(path)), name=str(path))

    @functools.cached_property
    def fingerprint(self) -> str:
        return hashlib.sha256(self.model).hexdigest()

    def _encode_plain(self, texts: list[str]) -> list[list[int]]:
        batch = self._processor.Encode(texts, out_type=int)
        for i, text in enumerate(texts):
            if _SPACE in text:
                fragments = _LITERAL_SPACE_RUN.split(text)
                batch[i] = [token for run in self._processor.Encode(fragments) for token in run]
        return batch

    def _decode_plain(self, ids: list[int]) -> str:
        return self._processor.Decode(ids) if ids else ""


class JsonTokenizer(Tokenizer):
    """A Hugging Face tokenizer.json, for folders that hold no tokenizer.model."""

    def __init__(self, text: str, *, name: str = "tokenizer.json") -> None:
        try:
            import tokenizers
        except ImportError:
            raise ModelError(
                f"{name}: needs the 'tokenizers' package; install it, or put the model's "
                "tokenizer.model beside its weights"
            ) from None
        self.text = text
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(text)
        except Exception as error:  # noqa: BLE001 - the package raises nothing narrower
            raise ModelError(
                f"{name}: not a tokenizer.json ({error}); fetch the file again"
            ) from None
        self._tokenizer.encode_special_tokens = True
        self.vocabulary = self._tokenizer.get_vocab_size(with_added_tokens=True)
        added = self._tokenizer.get_added_tokens_decoder()
        special = {token.content: i for i, token in added.items() if token.special}
        super().__init__(special, name=name)

    def __reduce__(self) -> tuple:
        return type(self), (self.text,)

    @classmethod
    def from_file(cls, path: str | Path) -> Self:
        """Reads a published tokenizer.json."""
        try:
            text = _read_bounded(path).decode()
        except UnicodeDecodeError:
            raise ModelError(f"{path}: not UTF-8; fetch the file again") from None
        return cls(text, name=str(path))

    @functools.cached_property
    def fingerprint(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()

    def _encode_plain(self, texts: list[str]) -> list[list[int]]:
        batch = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids for encoding in batch]

    def _decode_plain(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=False)


class ByteTokenizer(Tokenizer):
    """A byte an id, for models without knowledge; ids 0 to 5 are the named control pieces."""

    vocabulary = 512
    _FIRST_BYTE = 16

    def __init__(self) -> None:
        super().__init__({piece: i for i, piece in enumerate(_NAMED)}, name="tiny")

    def __reduce__(self) -> tuple:
        return type(self), ()

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(b"bytes from 16, control from 0").hexdigest()

    def _encode_plain(self, texts: list[str]) -> list[list[int]]:
        return [[self._FIRST_BYTE + byte for byte in text.encode()] for text in texts]

    def _decode_plain(self, ids: list[int]) -> str:
        values = (token - self._FIRST_BYTE for token in ids)
        return bytes(value for value in values if 0 <= value < 256).decode(errors="replace")


def build_sentencepiece(
    pieces: Sequence[str], scores: Sequence[float], types: Sequence[int]
) -> bytes:
    """A SentencePiece model from the lists that a GGUF carries: BPE, byte fallback, text as it is.

    Two repairs make code tokenize as the model saw it. User-defined pieces hold literal spaces
    where SentencePiece, which has replaced them in the text by then, wants U+2581. The one unknown
    piece is marked as a control piece, and SentencePiece requires it to be marked unknown.
    """
    model = _schema().ModelProto()
    for piece, score, kind in zip(pieces, scores, types, strict=True):
        text = piece.replace(" ", _SPACE) if kind == _USER_DEFINED else piece
        try:
            model.pieces.add(piece=text, score=score, type=_UNKNOWN if piece == "<unk>" else kind)
        except ValueError:
            raise ModelError(
                f"piece {piece!r} of the tokenizer has type {kind}, which SentencePiece does not "
                "know; fetch the model's file again"
            ) from None
    trainer = model.trainer_spec
    trainer.model_type = trainer.BPE
    trainer.vocab_size = len(pieces)
    trainer.byte_fallback = True
    index = {piece: i for i, piece in enumerate(pieces) if piece in _NAMED}
    for field in ("pad", "eos", "bos", "unk"):
        setattr(trainer, f"{field}_id", index.get(f"<{field}>", -1))
        setattr(trainer, f"{field}_piece", f"<{field}>")
    # Text is taken as it is: no Unicode folding, no added and no removed spaces.
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.add_dummy_prefix = False
    model.normalizer_spec.remove_extra_whitespaces = False
    model.normalizer_spec.escape_whitespaces = True
    return model.SerializeToString(deterministic=True)


def _read_bounded(path: str | Path) -> bytes:
    """A tokenizer's file; one that no tokenizer needs to be as large as is not read at all."""
    try:
        size = Path(path).stat().st_size
        if size > _MAX_FILE_BYTES:
            raise ModelError(
                f"{path}: has {size} bytes; expected at most {_MAX_FILE_BYTES}, which is several "
                "times Gemma's; fetch the file again"
            )
        return Path(path).read_bytes()
    except OSError as error:
        raise ModelError(
            f"{path}: cannot be read ({error.strerror}); check its permissions"
        ) from None


def _protect_control(model: bytes, *, name: str) -> bytes:
    """The same model with marks such as <start_of_turn> out of the reach of text."""
    from google.protobuf.message import DecodeError

    try:
        parsed = _schema().ModelProto.FromString(model)
        for piece in parsed.pieces:
            if piece.type == _USER_DEFINED and _RESERVED.fullmatch(piece.piece):
                piece.type = _CONTROL
    except (DecodeError, TypeError):  # a piece that is not UTF-8 comes as bytes
        raise ModelError(f"{name}: not a SentencePiece model; fetch the file again") from None
    return parsed.SerializeToString(deterministic=True)


def _schema() -> Any:
    """SentencePiece's protocol buffer, whose classes exist only once the module has run."""
    from sentencepiece import sentencepiece_model_pb2

    return sentencepiece_model_pb2


def _checked(text: str) -> str:
    """The text itself; a lone surrogate, which UTF-8 cannot hold, is named with its place."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        found = f"U+{ord(text[error.start]):04X}"
        raise DataError(
            f"character {error.start} of a text is {found}, half of a surrogate pair; expected "
            "Unicode text; replace the character or drop the row"
        ) from None
    return text
