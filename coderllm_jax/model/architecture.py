"""What a Gemma is, as numbers: one frozen record per model, and the tree its weights live in.

The weights are KerasHub's own variables with the layers stacked on a leading axis N, so that one
compiled block serves all of them and a sharding rule is written once:

    embedding            [V, D]
    final_norm           [D]
    blocks
      pre_attention_norm [N, D]         query_norm, key_norm       [N, K]      (Gemma 3, 4)
      query              [N, H, D, K]   key, value                 [N, G, D, K]
      attention_output   [N, H, K, D]   post_attention_norm        [N, D]      (from Gemma 2 on)
      pre_ffw_norm       [N, D]         ffw_gating, ffw_gating_2   [N, D, F]
      ffw_linear         [N, F, D]      post_ffw_norm              [N, D]      (from Gemma 2 on)

G counts key-value heads; every other letter is in `records`. Norm scales are Gemma 1 to 3's: the
layer multiplies by (1 + scale).

Gemma 4's global layers have heads of their own size, so attention's weights lie in two stacks of
fewer layers, those of global layers under names of their own; the other leaves stay as they are:

      query, key, value, … [N - W, …]     global_query, global_key, … [W, …]     layer_scale [N]
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Literal, NamedTuple

Family = Literal["gemma", "gemma2", "gemma3", "gemma4"]


class Traits(NamedTuple):
    """What all models of a family share, and files of it therefore often leave out.

    layers_of_27b: the depth of the one model that scales queries by (width / heads) ** -0.5, not
    by head_size ** -0.5; 0 where there is none. whole_norms: files hold 1 + scale, which the layer
    multiplies by, and not the scale alone.
    """

    post_norms: bool
    query_key_norm: bool
    global_every: int
    rope_global: float
    layers_of_27b: int
    rope_local: float = 10_000.0
    whole_norms: bool = False


FAMILIES: dict[Family, Traits] = {
    "gemma": Traits(False, False, 1, 10_000.0, layers_of_27b=0),
    "gemma2": Traits(True, False, 2, 10_000.0, layers_of_27b=46),
    "gemma3": Traits(True, True, 6, 1_000_000.0, layers_of_27b=62),
    "gemma4": Traits(True, True, 6, 1_000_000.0, layers_of_27b=0, whole_norms=True),
}
_GLOBAL = "global_"
# What lies in stacks of its own where global layers have other heads.
_OF_HEADS = ("query", "key", "value", "query_norm", "key_norm", "attention_output")


def base_name(leaf: str) -> str:
    """What a leaf is in its layer: `global_query` is a layer's query."""
    return leaf.removeprefix(_GLOBAL)


@dataclasses.dataclass(frozen=True)
class Architecture:
    """The numbers that fix a Gemma's forward pass.

    `window` is the local layers' span in tokens; `global_every` says that layers with
    (index + 1) % global_every == 0 attend to everything (1: all layers are global).
    `query_scale` multiplies queries. Soft caps are 0 where the model has none.
    Wavelengths and scaling factors are those of rotary embedding on local and global layers.
    Where global layers have other heads than local ones: `global_head_size`, `global_kv_heads`;
    `keys_are_values` says that their values are their keys before norm and rotation. `value_norm`
    is a norm without a scale, `layer_scale` a number that a layer's output is multiplied by.
    `rope_global_fraction` is the part of a global head that rotates, slow pairs being left out.

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
    global_head_size: int | None = None
    global_kv_heads: int | None = None
    keys_are_values: bool = False
    value_norm: bool = False
    layer_scale: bool = False
    rope_global_fraction: float = 1.0

    @property
    def is_uniform(self) -> bool:
        """Whether every leaf has all layers, so that one compiled block can serve them."""
        return not (self.global_head_size or self.global_kv_heads or self.keys_are_values)

    def at(self, layer: int) -> Architecture:
        """The architecture as one layer sees it, the heads being its own."""
        return self if self.is_uniform or not self.is_global(layer) else self._global()

    @functools.lru_cache(maxsize=8)  # noqa: B019 - a few frozen records of numbers
    def _global(self) -> Architecture:
        return dataclasses.replace(
            self,
            head_size=self.global_head_size or self.head_size,
            num_kv_heads=self.global_kv_heads or self.num_kv_heads,
        )

    def layers_of(self, leaf: str) -> tuple[int, ...]:
        """The layers that a leaf's stack has, in order."""
        layers = range(self.num_layers)
        if self.is_uniform or base_name(leaf) not in _OF_HEADS:
            return tuple(layers)
        return tuple(i for i in layers if self.is_global(i) == leaf.startswith(_GLOBAL))

    def places_of(self, layer: int) -> dict[str, tuple[str, int]]:
        """Where a layer's weights lie: {"query": ("global_query", 0), …}, leaf and place in it."""
        return {
            base_name(leaf): (leaf, self.layers_of(leaf).index(layer))
            for leaf in self.block_shapes()
            if layer in self.layers_of(leaf)
        }

    def is_global(self, layer: int) -> bool:
        """Whether layer `layer` attends to the whole context."""
        return (layer + 1) % self.global_every == 0

    def block_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each block weight without its leading layer axis, in forward order."""
        d, f = self.width, self.feed_forward
        shapes: dict[str, tuple[int, ...]] = {"pre_attention_norm": (d,)} | _head_shapes(self)
        if not self.is_uniform:
            shapes |= {
                f"{_GLOBAL}{name}": shape
                for name, shape in _head_shapes(self._global()).items()
                if not (self.keys_are_values and name == "value")
            }
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
        if self.layer_scale:
            shapes["layer_scale"] = ()
        return shapes

    def weight_shapes(self) -> dict:
        """The whole tree of the module's drawing, with shapes for leaves."""
        return {
            "embedding": (self.vocabulary, self.width),
            "final_norm": (self.width,),
            "blocks": {
                name: (len(self.layers_of(name)), *shape)
                for name, shape in self.block_shapes().items()
            },
        }


def _head_shapes(seen: Architecture) -> dict[str, tuple[int, ...]]:
    """The weights of `_OF_HEADS` in a layer that sees the architecture so."""
    d, k, h, g = seen.width, seen.head_size, seen.num_heads, seen.num_kv_heads
    shapes: dict[str, tuple[int, ...]] = {
        "query": (h, d, k),
        "key": (g, d, k),
        "value": (g, d, k),
    }
    if seen.query_key_norm:
        shapes |= {"query_norm": (k,), "key_norm": (k,)}
    return shapes | {"attention_output": (h, k, d)}


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
