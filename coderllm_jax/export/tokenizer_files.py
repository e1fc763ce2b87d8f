r"""A model's tokenizer as the files that others read, made from Gemma's SentencePiece model.

    tokenizer.model          the SentencePiece model, as Gemma's makers publish it
    tokenizer.json           the same vocabulary as Hugging Face's `tokenizers` spells it
    tokenizer_config.json    special tokens by name; one <bos> before every text; ids and a mask,
                             which is all that a Gemma's `generate` takes
    chat_template.jinja      the turns of `data.prompts`, for text

SentencePiece takes user-defined pieces out of the text first and merges what is left by score; in
tokenizer.json the first are added tokens and the second become a ranked list of merges:

    piece   kind           tokenizer.json                          GGUF
    "  "    user defined   added token, matched before merging     type 4, literal spaces
    "def"   normal         "d ef", "de f" at the rank of its score type 1
    <0x0A>  byte           in the vocabulary, for byte fallback    type 6
    <bos>   control        added token, special                    type 3

A user-defined run of spaces is written with literal spaces, not with U+2581: both readers look
for such pieces in the text as it came.

Here text never becomes a mark such as <start_of_turn> (`data.tokenizer`). Elsewhere a chat is one
text that is tokenized whole, so what is written lets it: marks are user-defined in the published
SentencePiece model and special in the others. Whoever loads an exported model must keep users
from typing them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from coderllm_jax.data.tokenizer import JsonTokenizer, SentencePieceTokenizer, Tokenizer
from coderllm_jax.errors import ModelError

_SPACE = "\u2581"
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
_NAMED = ("<bos>", "<eos>", "<unk>", "<pad>")

# As `data.prompts` makes a conversation, for those who have only text: no system role, the
# user's text stripped and the model's kept, a line break between turns and none after the last.
CHAT_TEMPLATE = """\
{{- bos_token -}}
{%- set said = namespace(system='', turns=0) -%}
{%- for message in messages -%}
{%- if message['content'] is string -%}
{%- set content = message['content'] -%}
{%- else -%}
{%- set content = message['content'] | map(attribute='text') | join('') -%}
{%- endif -%}
{%- if message['role'] == 'system' -%}
{%- if not loop.first -%}
{{- raise_exception('a system message must be the first one') -}}
{%- endif -%}
{%- set said.system = content + '\\n\\n' -%}
{%- else -%}
{%- if (message['role'] == 'user') != (said.turns % 2 == 0) -%}
{{- raise_exception('user and assistant must alternate, beginning with user') -}}
{%- endif -%}
{%- if said.turns -%}{{- '\\n' -}}{%- endif -%}
{%- if message['role'] == 'user' -%}
{{- '<start_of_turn>user\\n' + said.system + (content | trim) + '<end_of_turn>' -}}
{%- else -%}
{{- '<start_of_turn>model\\n' + content + '<end_of_turn>' -}}
{%- endif -%}
{%- set said.system = '' -%}
{%- set said.turns = said.turns + 1 -%}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '\\n<start_of_turn>model\\n' -}}{%- endif -%}
"""


class Piece(NamedTuple):
    """One entry of the vocabulary, as a text finds it: user-defined pieces with literal spaces."""

    text: str
    score: float
    kind: int


def chat_template(tokenizer: Tokenizer) -> str:
    """`CHAT_TEMPLATE` with the marks that this tokenizer has: Gemma 4 calls them otherwise."""
    start, end = tokenizer.start_of_turn_id, tokenizer.end_of_turn_id
    text = CHAT_TEMPLATE.replace("<start_of_turn>", mark_of(tokenizer, start))
    return text.replace("<end_of_turn>", mark_of(tokenizer, end))


def mark_of(tokenizer: Tokenizer, token: int) -> str:
    """How a control token is spelt."""
    return tokenizer.decode([token], skip_control=False)


def check_tokenizer(tokenizer: Tokenizer, *, format: str) -> None:
    """ModelError for a tokenizer that this format cannot hold."""
    if isinstance(tokenizer, SentencePieceTokenizer):
        return
    if isinstance(tokenizer, JsonTokenizer):
        if format not in ("gguf", "keras"):
            return
        raise ModelError(
            f"formats has {format}, which needs Gemma's tokenizer.model, and this model came with "
            "a tokenizer.json alone; put tokenizer.model (of a KerasHub preset, "
            "assets/tokenizer/vocabulary.spm) beside its weights"
        )
    raise ModelError(
        "the model's tokenizer is bytes, which no other program reads; "
        "export a model with Gemma's tokenizer, such as gemma3_270m"
    )


def published_model(tokenizer: SentencePieceTokenizer) -> bytes:
    """The SentencePiece model with the marks of turns as user-defined pieces, which text becomes.

    `SentencePieceTokenizer.from_file` takes them out of the text's reach again.
    """
    model = _parse(tokenizer)
    for piece in model.pieces:
        if piece.type == CONTROL and piece.piece not in _NAMED:
            piece.type = USER_DEFINED
    return model.SerializeToString(deterministic=True)


def _parse(tokenizer: SentencePieceTokenizer) -> Any:
    from sentencepiece import sentencepiece_model_pb2

    # Its classes exist only once the module has run.
    schema: Any = sentencepiece_model_pb2
    return schema.ModelProto.FromString(tokenizer.model)


def vocabulary_of(tokenizer: SentencePieceTokenizer) -> list[Piece]:
    """Every piece by id."""
    model = _parse(tokenizer)
    return [
        Piece(
            piece.piece.replace(_SPACE, " ") if piece.type == USER_DEFINED else piece.piece,
            piece.score,
            piece.type,
        )
        for piece in model.pieces
    ]


def write_tokenizer(folder: Path, tokenizer: Tokenizer, *, max_length: int, chat: bool) -> None:
    """Writes every file of the drawing that the tokenizer can give; `chat` adds the template.

    A tokenizer that came as tokenizer.json stays one and has no tokenizer.model.
    """
    if isinstance(tokenizer, JsonTokenizer):
        (folder / "tokenizer.json").write_text(tokenizer.text, encoding="utf-8")
    else:
        assert isinstance(tokenizer, SentencePieceTokenizer), type(tokenizer)
        pieces = vocabulary_of(tokenizer)
        (folder / "tokenizer.model").write_bytes(published_model(tokenizer))
        (folder / "tokenizer.json").write_text(
            json.dumps(tokenizer_json(pieces), ensure_ascii=False), encoding="utf-8"
        )
    config = {
        # The class that takes tokenizer.json as it is; Gemma's own rebuilds it from its parts.
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{f"{piece[1:-1]}_token": piece for piece in _NAMED},
        "add_bos_token": True,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        # Or transformers 4 adds token_type_ids, which `generate` of a Gemma refuses.
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": max_length,
        "padding_side": "left",
    }
    (folder / "tokenizer_config.json").write_text(f"{json.dumps(config, indent=1)}\n")
    if chat:
        template = chat_template(tokenizer)
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")


def tokenizer_json(pieces: list[Piece]) -> dict[str, Any]:
    """The content of tokenizer.json."""
    vocabulary = {piece.text: i for i, piece in enumerate(pieces)}
    if len(vocabulary) != len(pieces):
        raise ModelError("two pieces of the tokenizer are alike; tokenizer.json cannot say which")
    bos = vocabulary["<bos>"]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": i,
                "content": piece.text,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": piece.kind in (CONTROL, UNKNOWN),
            }
            for i, piece in enumerate(pieces)
            if piece.kind in (CONTROL, UNKNOWN, USER_DEFINED)
        ],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE},
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": _template("<bos>", "A"),
            "pair": [*_template("<bos>", "A"), *_template("<bos>", "B", type_id=1)],
            "special_tokens": {"<bos>": {"id": "<bos>", "ids": [bos], "tokens": ["<bos>"]}},
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": vocabulary,
            "merges": [[left, right] for _, left, right in sorted(_merges(pieces))],
        },
    }


def _template(special: str, sequence: str, *, type_id: int = 0) -> list[dict[str, Any]]:
    return [
        {"SpecialToken": {"id": special, "type_id": type_id}},
        {"Sequence": {"id": sequence, "type_id": type_id}},
    ]


def _merges(pieces: list[Piece]) -> Iterator[tuple[tuple[float, int, int], str, str]]:
    """Every pair of normal pieces that makes a third, with what to sort by: the best score first.

    Of the pairs that make one piece, which SentencePiece scores alike, the shorter left part goes
    first.
    """
    normal = {piece.text for piece in pieces if piece.kind == NORMAL}
    for i, piece in enumerate(pieces):
        if piece.kind != NORMAL:
            continue
        text = piece.text
        for cut in range(1, len(text)):
            if text[:cut] in normal and text[cut:] in normal:
                yield (-piece.score, i, cut), text[:cut], text[cut:]
