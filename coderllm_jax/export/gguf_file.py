"""Writes a model as a GGUF that llama.cpp loads: float32, float16, bfloat16 or Q8_0.

The header goes through the `gguf` package's writer; tensors follow it in the order of the drawing
in `model.gguf`, cast or quantized a few megabytes at a time. Matrices have the format that was
asked for, norms are float32 and written as 1 + scale.

                 matrices                                     bytes a weight
    f32          as they are                                  4
    f16, bf16    rounded                                      2
    q8_0         32 weights share one float16 scale           1.06

llama.cpp knows a Gemma by less than our architecture says, and by other words in each family
(its src/models/gemma*.cpp): the query's scale hangs on the number of layers, only Gemma 2 caps
attention, and always; Gemma 4's rotation is a tensor, in which a pair that stays where it is has a
factor of 1e30. What cannot be said is refused: the header is read back once the first tensor, that
one where there is one, is in the file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from coderllm_jax.data.tokenizer import SentencePieceTokenizer, Tokenizer
from coderllm_jax.errors import ModelError
from coderllm_jax.export.huggingface_folder import context_length
from coderllm_jax.export.layout import difference_of, row_chunks, stored_view
from coderllm_jax.export.merging import MergedModel
from coderllm_jax.export.tokenizer_files import (
    CONTROL,
    UNUSED,
    Piece,
    chat_template,
    vocabulary_of,
)
from coderllm_jax.model import gguf as reader
from coderllm_jax.model.architecture import Architecture, Family, base_name
from coderllm_jax.model.stored_layout import stored_shape

# As the hubs spell them. Gemma 4 is under the Apache licence (ai.google.dev/edge/litert-lm).
LICENCES: dict[Family, str] = {
    "gemma": "gemma",
    "gemma2": "gemma",
    "gemma3": "gemma",
    "gemma4": "apache-2.0",
}
GgufType = Literal["f32", "f16", "bf16", "q8_0"]
# Our name → the package's for a matrix, and for a file that is mostly of it.
_TYPES = {
    "f32": ("F32", "ALL_F32"),
    "f16": ("F16", "MOSTLY_F16"),
    "bf16": ("BF16", "MOSTLY_BF16"),
    "q8_0": ("Q8_0", "MOSTLY_Q8_0"),
}


class GgufSource(NamedTuple):
    """One tensor before it is written: numpy-order shape, the package's type, its values.

    path, layer: which of ours it is; of rotation's factors, which we have as a number, its name.
    """

    path: str
    layer: int | None
    name: str
    shape: tuple[int, ...]
    kind: Any
    read: Callable[[], np.ndarray]

    @property
    def num_bytes(self) -> int:
        """Bytes in the file, without padding."""
        from gguf import GGML_QUANT_SIZES

        block, size = GGML_QUANT_SIZES[self.kind]
        return math.prod(self.shape) // block * size


def write_gguf(file: Path, model: MergedModel, *, kind: GgufType, name: str) -> None:
    """Writes the file; `name` is what it calls itself. Raises ModelError for what GGUF lacks."""
    import gguf

    architecture, tokenizer = model.architecture, model.tokenizer
    assert isinstance(tokenizer, SentencePieceTokenizer), type(tokenizer)
    pieces = _fit(vocabulary_of(tokenizer), architecture.vocabulary)
    sources = list(gguf_sources(model, kind=kind))
    writer = gguf.GGUFWriter(file, architecture.family)
    writer.add_type("model")
    writer.add_name(name)
    writer.add_license(LICENCES[architecture.family])
    writer.add_file_type(gguf.LlamaFileType[_TYPES[kind][1]])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    _add_architecture(writer, architecture)
    _add_tokenizer(writer, tokenizer, pieces, chat=model.knows_turns)
    for source in sources:
        writer.add_tensor_info(
            source.name, source.shape, np.dtype(np.float32), source.num_bytes, source.kind
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    with file.open("r+b") as stream:
        stream.seek(0, 2)
        for source in sources:
            stream.write(b"\0" * (-stream.tell() % gguf.GGUF_DEFAULT_ALIGNMENT))
            for chunk in row_chunks(source.read()):
                stream.write(encode(chunk, source.kind))
            if source is sources[0]:
                # With it, everything is there that says what the model is: no need to write on.
                stream.flush()
                _check_sayable(file, architecture)
        stream.write(b"\0" * (-stream.tell() % gguf.GGUF_DEFAULT_ALIGNMENT))


def encode(values: np.ndarray, kind: Any) -> bytes:
    """Whole rows in the package's format of that kind."""
    from gguf import quantize

    return quantize(values.astype(np.float32, copy=False), kind).tobytes()


def gguf_sources(model: MergedModel, *, kind: GgufType) -> Iterator[GgufSource]:
    """Every tensor in the order of the file; rotation's factors, which only Gemma 4 has, first."""
    from gguf import GGMLQuantizationType

    architecture = model.architecture
    matrices = GGMLQuantizationType[_TYPES[kind][0]]
    outer = {"embedding": "token_embd", "final_norm": "output_norm"}
    if architecture.family == "gemma4":
        name, factors = reader.ROPE_FACTORS, _rope_factors(architecture)
        stored = GGMLQuantizationType.F32
        yield GgufSource(name, None, f"{name}.weight", factors.shape, stored, lambda: factors)
    for path, layer in model.tensors():
        ours = path.removeprefix("blocks/")
        if layer is None:
            name, shape = outer[path], model.whole(path).shape
        else:
            name = f"blk.{layer}.{reader.BLOCK_NAMES[base_name(ours)]}"
            shape = stored_shape(ours, architecture)
        is_matrix = len(shape) > 1
        stored = matrices if is_matrix else GGMLQuantizationType.F32
        if kind == "q8_0" and shape[-1] % 32 and is_matrix:
            raise ModelError(
                f"Q8_0 packs rows in blocks of 32 and '{name}' has rows of {shape[-1]}; "
                "choose gguf_types=f16"
            )
        yield GgufSource(path, layer, f"{name}.weight", shape, stored, _reader(model, path, layer))


def _rope_factors(architecture: Architecture) -> np.ndarray:
    """What each pair of a global head's rotation is slowed by: not at all, or to a standstill."""
    pairs = (architecture.global_head_size or architecture.head_size) // 2
    turning = int(architecture.rope_global_fraction * 2 * pairs) // 2
    return np.repeat(np.array([1.0, reader.STANDSTILL], np.float32), [turning, pairs - turning])


def _reader(model: MergedModel, path: str, layer: int | None) -> Callable[[], np.ndarray]:
    def read() -> np.ndarray:
        values = model.read(path, layer)
        if path.endswith("norm"):
            return values.astype(np.float32) + np.float32(1)
        if layer is None:
            return values
        return stored_view(path.removeprefix("blocks/"), values, model.architecture)

    return read


def _fit(pieces: list[Piece], rows: int) -> list[Piece]:
    """As many pieces as the embedding has rows: llama.cpp accepts no other number.

    Rows without a piece get an unused one; marks for images, which text-only models keep in
    their tokenizer, have no row.
    """
    missing = range(len(pieces), rows)
    return pieces[:rows] + [Piece(f"[PAD{i}]", -1000.0, UNUSED) for i in missing]


def _add_architecture(writer: Any, architecture: Architecture) -> None:
    import gguf

    writer.add_context_length(context_length(architecture))
    writer.add_embedding_length(architecture.width)
    writer.add_block_count(architecture.num_layers)
    writer.add_feed_forward_length(architecture.feed_forward)
    writer.add_head_count(architecture.num_heads)
    writer.add_layer_norm_rms_eps(architecture.norm_epsilon)
    writer.add_rope_freq_base(architecture.rope_global)
    if architecture.rope_global_scaling != 1:
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(architecture.rope_global_scaling)
    if architecture.family == "gemma4":
        _add_fourth(writer, architecture)
    else:
        writer.add_head_count_kv(architecture.num_kv_heads)
        writer.add_key_length(architecture.head_size)
        writer.add_value_length(architecture.head_size)
    if architecture.family == "gemma":
        return
    writer.add_sliding_window(architecture.window)
    writer.add_rope_freq_base_swa(architecture.rope_local)
    if architecture.family != "gemma4":
        writer.add_sliding_window_pattern(architecture.global_every)
    if architecture.family == "gemma2" and architecture.attention_soft_cap:
        writer.add_attn_logit_softcapping(architecture.attention_soft_cap)
    if architecture.final_soft_cap or architecture.family == "gemma4":
        # Without the key, llama.cpp caps a Gemma 4 at 30.
        writer.add_final_logit_softcapping(architecture.final_soft_cap)


def _add_fourth(writer: Any, architecture: Architecture) -> None:
    """Gemma 4 says of each layer whether it is local, and gives local heads keys of their own."""
    layers = range(architecture.num_layers)
    wide = architecture.global_head_size or architecture.head_size
    writer.add_sliding_window_pattern([not architecture.is_global(i) for i in layers])
    writer.add_head_count_kv([architecture.at(i).num_kv_heads for i in layers])
    writer.add_key_length(wide)
    writer.add_value_length(wide)
    writer.add_key_length_swa(architecture.head_size)
    writer.add_value_length_swa(architecture.head_size)
    # Whole heads: which pairs stand still, `rope_freqs` says.
    writer.add_rope_dimension_count(wide)
    writer.add_rope_dimension_count_swa(architecture.head_size)
    writer.add_shared_kv_layers(0)
    writer.add_embedding_length_per_layer_input(0)


def _add_tokenizer(writer: Any, tokenizer: Tokenizer, pieces: list[Piece], *, chat: bool) -> None:
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([piece.text for piece in pieces])
    writer.add_token_scores([piece.score for piece in pieces])
    writer.add_token_types([piece.kind for piece in pieces])
    writer.add_bos_token_id(tokenizer.bos_id)
    writer.add_eos_token_id(tokenizer.eos_id)
    writer.add_eot_token_id(tokenizer.end_of_turn_id)
    writer.add_unk_token_id(tokenizer.unk_id)
    writer.add_pad_token_id(tokenizer.pad_id)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)
    assert pieces[tokenizer.end_of_turn_id].kind == CONTROL
    if chat:
        writer.add_chat_template(chat_template(tokenizer))


def _check_sayable(file: Path, architecture: Architecture) -> None:
    """The file describes this architecture and no other."""
    if difference := difference_of(reader.architecture_of(reader.open_gguf(file)), architecture):
        raise ModelError(
            f"a GGUF cannot say all of this model: {difference}; export it as huggingface"
        )
