"""What a Gemma is, as numbers: one frozen record per model, and the tree its weights live in.

The weights are KerasHub's own variables with the layers stacked on a leading axis N, so that one
compiled block serves all of them and a sharding rule is written once:

    embedding            [V, D]
    final_norm           [D]
    blocks
      pre_attention_norm [N, D]         query_norm, key_norm       [N, K]      (Gemma 3)
      query              [N, H, D, K]   key, value                 [N, G, D, K]
      attention_output   [N, H, K, D]   post_attention_norm        [N, D]      (Gemma 2, 3)
      pre_ffw_norm       [N, D]         ffw_gating, ffw_gating_2   [N, D, F]
      ffw_linear         [N, F, D]      post_ffw_norm              [N, D]      (Gemma 2, 3)

G counts key-value heads; every other letter is in `records`. Norm scales are KerasHub's: the
layer multiplies by (1 + scale).
"""

from __future__ import annotations

import dataclasses
from typing import Literal, NamedTuple

Family = Literal["gemma", "gemma2", "gemma3"]


class Traits(NamedTuple):
    """What all models of a family share, and files of it therefore often leave out.

    layers_of_27b: the depth of the one model that scales queries by (width / heads) ** -0.5, not
    by head_size ** -0.5; 0 where there is none.
    """

    post_norms: bool
    query_key_norm: bool
    global_every: int
    rope_global: float
    layers_of_27b: int
    rope_local: float = 10_000.0


FAMILIES: dict[Family, Traits] = {
    "gemma": Traits(False, False, 1, 10_000.0, layers_of_27b=0),
    "gemma2": Traits(True, False, 2, 10_000.0, layers_of_27b=46),
    "gemma3": Traits(True, True, 6, 1_000_000.0, layers_of_27b=62),
}


@dataclasses.dataclass(frozen=True)
class Architecture:
    """The numbers that fix a Gemma's forward pass.

    `window` is the local layers' span in tokens; `global_every` says that layers with
    (index + 1) % global_every == 0 attend to everything (1: all layers are global).
    `query_scale` multiplies queries. Soft caps are 0 where the model has none.
    Wavelengths and scaling factors are those of rotary embedding on local and global layers.
    Families differ in these numbers and in nothing else; `family` itself only says by what names
    other programs know the model.
    """

    family: Family
    num_layers: int
    vocabulary: int
    width: int
    feed_forward: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    window: int
    global_every: int
    query_scale: float
    rope_local: float = 10_000.0
    rope_global: float = 1_000_000.0
    rope_local_scaling: float = 1.0
    rope_global_scaling: float = 1.0
    norm_epsilon: float = 1e-6
    query_key_norm: bool = True
    post_norms: bool = True
    attention_soft_cap: float = 0.0
    final_soft_cap: float = 0.0

    def is_global(self, layer: int) -> bool:
        """Whether layer `layer` attends to the whole context."""
        return (layer + 1) % self.global_every == 0

    def block_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each block weight without its leading layer axis, in forward order."""
        d, f, k = self.width, self.feed_forward, self.head_size
        h, g = self.num_heads, self.num_kv_heads
        shapes: dict[str, tuple[int, ...]] = {
            "pre_attention_norm": (d,),
            "query": (h, d, k),
            "key": (g, d, k),
            "value": (g, d, k),
        }
        if self.query_key_norm:
            shapes |= {"query_norm": (k,), "key_norm": (k,)}
        shapes["attention_output"] = (h, k, d)
        if self.post_norms:
            shapes["post_attention_norm"] = (d,)
        shapes |= {
            "pre_ffw_norm": (d,),
            "ffw_gating": (d, f),
            "ffw_gating_2": (d, f),
            "ffw_linear": (f, d),
        }
        if self.post_norms:
            shapes["post_ffw_norm"] = (d,)
        return shapes

    def weight_shapes(self) -> dict:
        """The whole tree of the module's drawing, with shapes for leaves."""
        return {
            "embedding": (self.vocabulary, self.width),
            "final_norm": (self.width,),
            "blocks": {
                name: (self.num_layers, *shape) for name, shape in self.block_shapes().items()
            },
        }


GEMMA3_270M = Architecture(
    family="gemma3",
    num_layers=18,
    vocabulary=262_144,
    width=640,
    feed_forward=2048,
    num_heads=4,
    num_kv_heads=1,
    head_size=256,
    window=512,
    global_every=6,
    query_scale=256**-0.5,
)

TINY = Architecture(
    family="gemma3",
    num_layers=3,
    vocabulary=512,
    width=32,
    feed_forward=64,
    num_heads=4,
    num_kv_heads=2,
    head_size=8,
    window=16,
    global_every=3,
    query_scale=8**-0.5,
)
