"""The transformer block that BERT, OPT and ViT share, and its scanned stack."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from qtx.attention import AttentionConfig, AttentionSpec, MultiHeadAttention, Rows
from qtx.attention.fused import AUTO, BACKEND_NAMES
from qtx.attention.past import CACHE
from qtx.axes import constrain
from qtx.foundation.errors import QtxError
from qtx.foundation.limits import Checked, at_least, one_of, positive, within
from qtx.layers import Dropout, dense, layer_norm, rms_norm
from qtx.masks import real_positions
from qtx.models.activations import ACTIVATIONS
from qtx.models.remat import NONE, REMAT_POLICIES, rematerialized
from qtx.models.rotary import rotation
from qtx.parts import Part
from qtx.sites import Site

# Up to this many layers, a training step compiles each apart: 4 layers of width 256 are 7 % faster on a CPU that way.
# More would take too long to compile.
UNROLLED_LAYERS = 6

FROM_DATA = ("vocab_size", "image_size", "channels", "num_classes")
"""Options that a config may leave to the data."""
RATE = within("[0, 1)", "a rate in [0, 1)")


@dataclasses.dataclass(frozen=True)
class TransformerConfig(Checked):
    """The options that every family has, and facts about a family that more than its module reads. These facts are no
    options, unless a family makes one of them a field.

    Attributes:
      pre_norm: whether the norms are on the residual branches; otherwise they follow the residual sums.
      norm: the norm of the blocks, `"LN"` or `"RMSNorm"`.
      activation: the activation of the feed-forward networks, a name in `ACTIVATIONS`.
      causal: whether a query sees only itself and what is before it.
      gated: whether the feed-forward networks are gated: activation(gate) times another projection (Shazeer 2020).
      attention_bias, mlp_bias, mlp_out_bias, norm_bias: whether the projections of the attention, the first layers of
        the feed-forward networks, their last layer, and the norms have biases.
      attention_out_bias: whether the attention's output projection has a bias; None: as its other projections.
      qk_norm: whether every head's queries and keys are normalized.
      prefix: how many learned keys and values stand before every text (`qtx.attention.prefix`).
      branch_norms: whether the outputs of the branches are normalized.
      norm_offset: what the scale of an RMSNorm is beside (`qtx.layers.RMSNorm`).
      reads: what a batch holds, `"tokens"` `[B, T]` or `"images"` `[B, H, W, C]`.
      shared_layers: whether all layers have the same parameters.
      num_layers, width, num_heads, mlp_width: the shape; width is divided among the heads.
      dropout: the rate on both residual branches, and on the embeddings of BERT and ViT.
      attention_dropout: the rate on the attention probabilities.
      init_std: the standard deviation of initial kernels and embeddings. Narrow models need more than the usual 0.02
        for attention to start off the uniform distribution (about 1 / sqrt(width)).
      layer_norm_epsilon: the epsilon of the norms, by default the family's own.
      dtype: the dtype of the computation, "float32" or "bfloat16"; parameters are float32.
      remat: a name in `REMAT_POLICIES`: which of a block's activations the backward pass computes again, to save
        memory.
      attention: the attention variant.
      attention_backend: how attention is computed, a name in `qtx.attention.fused.BACKEND_NAMES`: `"naive"`, with all
        T x T scores and probabilities in memory; a backend that never has them; or `"auto"`, what is fastest there.

    Raises:
      QtxError: if the heads do not divide the width.
    """

    pre_norm: ClassVar[bool]
    norm: ClassVar[str] = "LN"
    activation: ClassVar[str]
    causal: ClassVar[bool]
    gated: ClassVar[bool] = False
    attention_bias: ClassVar[bool] = True
    mlp_bias: ClassVar[bool] = True
    mlp_out_bias: ClassVar[bool] = True
    norm_bias: ClassVar[bool] = True
    attention_out_bias: ClassVar[bool | None] = None
    qk_norm: ClassVar[bool] = False
    branch_norms: ClassVar[bool] = False
    prefix: ClassVar[int] = 0
    norm_offset: ClassVar[float] = 0.0
    reads: ClassVar[str] = "tokens"
    shared_layers: ClassVar[bool] = False

    num_layers: Annotated[int, at_least(1)] = 12
    width: Annotated[int, at_least(1)] = 768
    num_heads: Annotated[int, at_least(1)] = 12
    mlp_width: Annotated[int, at_least(1)] = 3072
    dropout: Annotated[float, RATE] = 0.1
    attention_dropout: Annotated[float, RATE] = 0.1
    init_std: Annotated[float, positive()] = 0.02
    layer_norm_epsilon: Annotated[float, positive()] = 1e-12
    dtype: Annotated[str, one_of(("float32", "bfloat16"))] = "float32"
    remat: Annotated[str, one_of(REMAT_POLICIES, "remat policy")] = NONE
    attention: AttentionConfig = AttentionConfig()
    attention_backend: Annotated[str, one_of(BACKEND_NAMES)] = AUTO

    def __post_init__(self):
        super().__post_init__()
        # In families with an option `head_dim`, heads have a size of their own: the width is not divided.
        if getattr(self, "head_dim", None) is None and self.width % self.num_heads:
            nearest = round(self.width / self.num_heads) or 1
            raise QtxError(
                f"width {self.width} is not divisible by num_heads {self.num_heads}: "
                f"set width to {nearest * self.num_heads}, or num_heads to a divisor of {self.width}"
            )

    @property
    def from_data(self) -> tuple[str, ...]:
        """Lists the options of `FROM_DATA` that this config has a use for."""
        return tuple(field.name for field in dataclasses.fields(self) if field.name in FROM_DATA)

    def resolved(self) -> Self:
        """Returns the config with options at their defaults where they are None; only what the data tell stays None."""
        return self

    def trained_at(self, length: int) -> Self:
        """Returns the config of a model that is trained at `length` tokens (see `Normalizer.trained_at`)."""
        return dataclasses.replace(self, attention=self.attention.trained_at(length))

    @property
    def per_layer(self) -> dict[str, Any]:
        """Returns what each layer is told of its own, arrays with a row a layer: its `window` (`qtx.masks.Mask`), the
        `frequencies` and the `rotary_size` of its rotary positions (`qtx.models.rotary`), and whether its attention's
        input is `normed`."""
        return {}

    @property
    def attention_spec(self) -> AttentionSpec:
        """Returns the specification of every layer's attention."""
        return AttentionSpec(
            self.num_heads,
            self.attention,
            use_bias=self.attention_bias,
            out_bias=self.attention_out_bias,
            prefix=self.prefix,
            dropout=self.attention_dropout,
            init_std=self.init_std,
            dtype=jnp.dtype(self.dtype),
            backend=self.attention_backend,
        )

    def real_positions(self, batch: Mapping[str, Any], length: int) -> jax.Array | None:
        """Says which positions of the model's sequences count as real tokens, in ranges, statistics, noise and losses:
        `[B, length]`; None: all do, or the model has no sequences of this length.

        By default the batch's `mask` says it, and every patch and class token of an image counts. A model that adds
        positions to those of the batch, such as registers, says here which of its `length` positions are real.
        """
        return real_positions(batch, length)

    def example(self) -> dict[str, Any]:
        """Makes the smallest batch that the module takes, to learn shapes with; what the data tell must be known."""
        return {"tokens": np.zeros((1, 2), np.int32)}


def make_norm(config: TransformerConfig, name: str, part: Part = Part.NORM) -> nn.Module:
    """Makes a norm as those of a model's blocks."""
    dtype = jnp.dtype(config.dtype)
    if config.norm == "RMSNorm":
        return rms_norm(config.layer_norm_epsilon, dtype, name, part, config.norm_offset)
    return layer_norm(config.layer_norm_epsilon, dtype, name, part, config.norm_bias)


class Mlp(nn.Module):
    """The feed-forward network; sites hidden (after the activation, times the gated projection where there is one)
    `[B, T, mlp_width]` and out `[B, T, width]`."""

    config: TransformerConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        c, dtype = self.config, jnp.dtype(self.config.dtype)

        def project(name):
            axes, part = ("embed", "mlp"), Part.PREACTIVATION
            return dense(c.mlp_width, axes, c.init_std, dtype, name, c.mlp_bias, part=part)(x)

        hidden = ACTIVATIONS[c.activation](project("gate" if c.gated else "in"))
        hidden = hidden * project("in") if c.gated else hidden
        hidden = Site(Part.HIDDEN, name="hidden")(hidden)
        return dense(x.shape[-1], ("mlp", "embed"), c.init_std, dtype, "out", c.mlp_out_bias, part=Part.BRANCH)(hidden)


def prepared(config: TransformerConfig, own: Mapping[str, jax.Array], first: Any) -> Callable[..., Any] | None:
    """Returns what a layer does to queries `[B, T, H, D]` and keys `[B, T, K, D]`, of positions from `first` on, before
    their product: norms, modules of the attention, and rotary positions; None: nothing."""
    turned = rotation(own["frequencies"], own.get("rotary_size", 1.0), first) if "frequencies" in own else None
    if not config.qk_norm:
        return turned

    def prepare(query: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        query = make_norm(config, "query_norm", Part.QUERY)(query)
        key = make_norm(config, "key_norm", Part.KEY)(key)
        return (query, key) if turned is None else turned(query, key)

    return prepare


class Block(nn.Module):
    """Attention and feed-forward network with residuals. Sites: {attention,mlp}_{residual,norm}, and attention_in where
    some layers have no norm before their attention; {attention,mlp}_branch_norm, where the branches end in norms."""

    config: TransformerConfig
    deterministic: bool

    @nn.compact
    def __call__(self, x: jax.Array, rows: Rows, own: Mapping[str, jax.Array] | None = None) -> tuple[jax.Array, None]:
        """Returns (`[B, T, width]`, None) for x `[B, T, width]`, what its queries see, and what the layer is told of
        its own (`TransformerConfig.per_layer`)."""
        c, own = self.config, own or {}
        rows = rows.within(own["window"]) if "window" in own else rows
        # Left to itself, XLA's partitioner (jaxlib 0.10.2) exchanges examples within a gated model's block, if the
        # devices of a data x fsdp x tensor mesh have one example each.
        x = constrain(x, "batch")
        attention_norm = make_norm(c, "attention_norm")
        mlp_norm = make_norm(c, "mlp_norm")
        attention = MultiHeadAttention(c.attention_spec, self.deterministic, name="attention")
        mlp = Mlp(c, name="mlp")

        def added(y, name):
            y = make_norm(c, name, Part.BRANCH)(y) if c.branch_norms else y
            return Dropout(c.dropout, deterministic=self.deterministic)(y)

        normed = attention_norm(x) if c.pre_norm else x
        if "normed" in own:
            normed = Site(Part.NORM, name="attention_in")(jnp.where(own["normed"], normed, x))
        branch = added(attention(normed, rows, x, prepared(c, own, rows.mask.position)), "attention_branch_norm")
        x = Site(Part.RESIDUAL, name="attention_residual")(x + branch)
        x = x if c.pre_norm else attention_norm(x)
        branch = added(mlp(mlp_norm(x) if c.pre_norm else x), "mlp_branch_norm")
        x = Site(Part.RESIDUAL, name="mlp_residual")(x + branch)
        x = x if c.pre_norm else mlp_norm(x)
        return x, None


def layers(config: TransformerConfig, *, deterministic: bool, windows: Any = None) -> Callable[..., Any]:
    """Makes `num_layers` blocks, stacked (see `stacked`), which are told the config's `per_layer`. Call them with (x,
    rows); they return (x, None). `windows` `[L]` are the layers' own (see `qtx.masks.Mask`); None: all have that of the
    rows."""
    own = config.per_layer if windows is None else {**config.per_layer, "window": windows}
    return stacked(Block, config, deterministic, own or None)


def stacked(
    block: type[nn.Module], config: TransformerConfig, deterministic: bool, per_layer: Any = None
) -> Callable[..., Any]:
    """Stacks `num_layers` blocks of a class under one `nn.scan` named `layers`: their parameters, captured
    intermediates, calibrated ranges and integers have a leading layer axis `[L, ...]`; parameters do not, if the config
    says that all layers share them.

    Args:
      block: the class, with attributes `config` and `deterministic`; called with (x, what all layers are told, what the
        layer alone is told, if there is anything), a block returns (x, None).
      config: the model's config, which says how many blocks there are, and what is rematerialized.
      deterministic: whether this is no training step.
      per_layer: what each layer alone is told: a tree of arrays `[L, ...]`, of which it gets its own rows `[...]`, such
        as its window, the base of its rotary positions, or whether it has a norm. None: nothing.

    Returns:
      a function: (x, what all layers are told) -> (x, None).

    Raises:
      QtxError: if an array of `per_layer` does not have a row for each layer.
    """
    for shape in map(np.shape, jax.tree.leaves(per_layer)):
        if shape[:1] != (config.num_layers,):
            raise QtxError(f"per_layer has an array {list(shape)}: expected {config.num_layers} rows, one a layer")
    # Unrolled in training, where a scan would copy every saved activation into one stacked buffer; not if these are
    # rematerialized: without a loop XLA would find both computations equal, and keep the activations after all.
    unrolled = not deterministic and config.remat == NONE and config.num_layers <= UNROLLED_LAYERS
    shared = config.shared_layers
    of_layers = ("intermediates", "ranges", "calibration", "integer", CACHE, *(() if shared else ("params",)))
    scanned: Any = nn.scan(
        rematerialized(block, config.remat),
        variable_axes=dict.fromkeys(of_layers, 0),
        variable_broadcast="params" if shared else False,
        split_rngs={"params": not shared, "dropout": True},
        in_axes=nn.broadcast if per_layer is None else (nn.broadcast, 0),
        length=config.num_layers,
        unroll=config.num_layers if unrolled else 1,
        metadata_params={nn.PARTITION_NAME: "layers"},
    )(config, deterministic, name="layers")
    return scanned if per_layer is None else lambda x, told: scanned(x, told, per_layer)
