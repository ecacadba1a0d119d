"""Decoders after Llama (Touvron et al. 2023): RMSNorm, rotary positions, gated feed-forward networks; Mistral, Qwen,
Gemma, SmolLM and others are configs of it."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, ClassVar, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from qtx.attention import Rows
from qtx.foundation.errors import QtxError
from qtx.foundation.limits import at_least, one_of, positive, within
from qtx.layers import dense, dense_product, embedding
from qtx.masks import EVERYWHERE, Mask
from qtx.models.activations import ACTIVATIONS
from qtx.models.block import TransformerConfig, layers, make_norm
from qtx.models.opt import TiedHead
from qtx.models.pooling import check_pooling
from qtx.models.rope_scaling import scaling_of
from qtx.models.rotary import frequencies
from qtx.models.vocabulary import LOGITS
from qtx.parts import Part
from qtx.sites import Site


@dataclasses.dataclass(frozen=True)
class LlamaConfig(TransformerConfig):
    """The options of a decoder after Llama, by default SmolLM2-135M.

    Attributes:
      activation: the activation of the feed-forward networks, a name in `ACTIVATIONS`.
      vocab_size: the rows of the embedding table; None: from the data's tokenizer.
      max_length: the longest sequence.
      num_kv_heads: the number of key and value heads, a divisor of num_heads; None: num_heads.
      head_dim: the size of a head; None: width / num_heads.
      attention_bias, attention_out_bias: whether the projections to queries, keys and values have biases (Qwen 2), and
        whether the output projection has.
      mlp_bias, mlp_out_bias: whether the first layers of the feed-forward networks have biases, and the last.
      qk_norm: whether every head's queries and keys are normalized before they are turned (Qwen 3, Gemma 3).
      branch_norms: whether the branches' outputs are normalized too (Gemma 2).
      norm_offset: what the scale of a norm is beside, 1 in Gemma and Qwen3-Next, whose scales start at 0.
      embedding_scale: a factor on the embeddings, in Gemma the root of the width; None: 1.
      score_dim: the scores are divided by the root of this number; None: of the size of a head.
      score_cap, logit_cap: c, where scores, or logits, x become c tanh(x / c) (Gemma 2); None: they are not bounded.
      rotary_base: theta.
      rotary_scaling: the scaling of rotary positions, a text such as `"llama3,factor=8,low=1,high=4,original=8192"`
        (`qtx.models.rope_scaling.SCALINGS`); empty: none.
      rotary_share: the share of a head's dimensions, the first ones, that are turned.
      unrotated_layers: the layers without positions (SmolLM 3).
      window: a token sees only those fewer than so many positions before it; None: all before it.
      global_layers: the layers that see all, whatever the window.
      local_base: theta in the other layers, without scaling (Gemma 3); None: as everywhere.
      prefix: how many learned keys and values, in floating point, stand before every text.
      tied: whether the head is the embedding table.
      head: `"clm"`, the next token's logits, or `"none"`, the hidden states, of which embeddings are made.
      pooling, normalize: how hidden states become the embedding of a text, in a model without a head; see
        `qtx.models.pooling`.
      include_prompt: whether the tokens of a prompt before a text are pooled.
    """

    pre_norm: ClassVar[bool] = True
    norm: ClassVar[str] = "RMSNorm"
    causal: ClassVar[bool] = True
    gated: ClassVar[bool] = True

    activation: Annotated[str, one_of(ACTIVATIONS)] = "silu"  # type: ignore[misc]
    num_layers: int = 30
    width: int = 576
    num_heads: int = 9
    mlp_width: int = 1536
    dropout: float = 0.0
    attention_dropout: float = 0.0
    layer_norm_epsilon: float = 1e-5
    vocab_size: Annotated[int | None, at_least(1)] = None
    max_length: Annotated[int, at_least(1)] = 2048
    num_kv_heads: Annotated[int | None, at_least(1, "or None for num_heads")] = 3
    head_dim: Annotated[int | None, at_least(1, "or None for width / num_heads")] = None
    attention_bias: bool = False  # type: ignore[misc]
    attention_out_bias: bool = False  # type: ignore[misc]
    mlp_bias: bool = False  # type: ignore[misc]
    mlp_out_bias: bool = False  # type: ignore[misc]
    qk_norm: bool = False  # type: ignore[misc]
    branch_norms: bool = False  # type: ignore[misc]
    norm_offset: float = 0.0  # type: ignore[misc]
    embedding_scale: Annotated[float | None, positive("or None for 1")] = None
    score_dim: Annotated[int | None, at_least(1, "or None for the size of a head")] = None
    score_cap: Annotated[float | None, positive("or None")] = None
    logit_cap: Annotated[float | None, positive("or None")] = None
    rotary_base: Annotated[float, positive()] = 100_000.0
    rotary_scaling: str = ""
    rotary_share: Annotated[float, within("(0, 1]", "a share in (0, 1]")] = 1.0
    unrotated_layers: tuple[int, ...] = ()
    window: Annotated[int | None, at_least(1, "or None")] = None
    global_layers: tuple[int, ...] = ()
    local_base: Annotated[float | None, positive("or None")] = None
    prefix: Annotated[int, at_least(0)] = 0  # type: ignore[misc]
    tied: bool = True
    head: Annotated[str, one_of(("clm", "none"))] = "clm"
    pooling: str = "lasttoken"
    normalize: bool = False
    include_prompt: bool = True

    def __post_init__(self):
        super().__post_init__()
        check_pooling(self.pooling)
        scaling_of(self.rotary_scaling)
        if self.num_heads % self.kv_heads:
            raise QtxError(f"num_kv_heads is {self.kv_heads}: expected a divisor of num_heads {self.num_heads}")
        if self.rotated % 2:
            raise QtxError(
                f"{self.rotated} of {self.head_size} dimensions of a head are turned, in pairs: expected an even number"
            )

    def resolved(self) -> Self:
        own: dict[str, Any] = {
            # None instead of what the shape says: were both recorded, changing one alone would change more.
            "num_kv_heads": None if self.kv_heads == self.num_heads else self.num_kv_heads,
            "head_dim": None if self.head_size * self.num_heads == self.width else self.head_dim,
            "score_dim": None if self.score_dim == self.head_size else self.score_dim,
        }
        return dataclasses.replace(super().resolved(), **own)

    @property
    def kv_heads(self) -> int:
        """Returns the number of key and value heads."""
        return self.num_kv_heads or self.num_heads

    @property
    def head_size(self) -> int:
        """Returns the size of a head."""
        return self.head_dim or self.width // self.num_heads

    @property
    def rotated(self) -> int:
        """Returns how many dimensions of a head are turned."""
        return int(self.head_size * self.rotary_share)

    @property
    def attention_spec(self):
        own: dict[str, Any] = {
            "num_kv_heads": self.num_kv_heads,
            "head_dim": self.head_size,
            "score_dim": self.score_dim,
            "score_cap": self.score_cap,
        }
        return dataclasses.replace(super().attention_spec, **own)

    @property
    def per_layer(self) -> dict[str, Any]:
        number, scaling = np.arange(self.num_layers), scaling_of(self.rotary_scaling)
        everywhere = np.isin(number, self.global_layers) | (self.window is None)
        turned = ~np.isin(number, self.unrotated_layers)
        angles = frequencies(self.rotated, self.rotary_base)
        far = angles if scaling is None else scaling.scaled(angles.astype(np.float64), self.rotary_base)
        near = far if self.local_base is None else frequencies(self.rotated, self.local_base)
        own = {"frequencies": np.where(turned[:, None], np.where(everywhere[:, None], far, near), 0).astype(np.float32)}
        if scaling is not None and scaling.size != 1:
            scaled = turned & (everywhere | (self.local_base is None))
            own["rotary_size"] = np.where(scaled, scaling.size, 1).astype(np.float32)
        if not everywhere.all():
            own["window"] = np.where(everywhere, EVERYWHERE, self.window or EVERYWHERE).astype(np.int32)
        return own


class LlamaEmbeddings(nn.Module):
    """The embeddings; site out `[B, T, width]`."""

    config: LlamaConfig

    def setup(self):
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        assert c.vocab_size is not None, "vocab_size is filled in by qtx.families.build"
        self.words = embedding(c.vocab_size, c.width, "vocab", c.init_std, dtype)
        self.out = Site(Part.RESIDUAL)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        words, scale = self.words(tokens), self.config.embedding_scale
        return self.out(words if scale is None else words * jnp.asarray(scale, words.dtype))


class LlamaHead(nn.Module):
    """A head that is no table alone: a dense layer, site product, where it is not tied, and the bound of the logits;
    float32 `[..., vocab]` at site logits."""

    config: LlamaConfig

    @nn.compact
    def __call__(self, x: jax.Array, table: jax.Array) -> jax.Array:
        c = self.config
        if c.tied:
            logits = dense_product(x, table.T.astype(x.dtype), preferred_element_type=jnp.float32)
        else:
            axes, dtype, rows = ("embed", "vocab"), jnp.dtype(c.dtype), table.shape[0]
            logits = dense(rows, axes, c.init_std, dtype, "product", False, part=Part.HEAD)(x).astype(jnp.float32)
        logits = logits if c.logit_cap is None else c.logit_cap * jnp.tanh(logits / c.logit_cap)
        return Site(Part.HEAD, name=LOGITS)(logits)


class Llama(nn.Module):
    """A decoder after Llama: LlamaForCausalLM, or LlamaModel, by the config's head."""

    config: LlamaConfig

    @nn.compact
    def __call__(self, batch: dict[str, jax.Array], *, train: bool = False, step: jax.Array | None = None) -> jax.Array:
        """Computes next-token logits, or hidden states.

        Args:
          batch: `tokens` `[B, T]`; optionally `mask` `[B, T]` (False = padding) and `segments` `[B, T]` (a token sees
            only those of its own number).
          train: whether dropout is on (needs the "dropout" rng).
          step: the training step, for normalizers that anneal.

        Returns:
          float32 `[B, T, vocab]`; without a head the last hidden states `[B, T, width]`.
        """
        c, tokens = self.config, batch["tokens"]
        embeddings = LlamaEmbeddings(c, name="embeddings")
        rows = Rows(Mask.of_batch(batch, tokens.shape[1], causal=c.causal, prefix=c.prefix), step)
        x, _ = layers(c, deterministic=not train)(embeddings(tokens), rows)
        x = make_norm(c, "final_norm")(x)
        if c.head == "none":
            return x.astype(jnp.float32)
        plain = c.tied and c.logit_cap is None
        head = TiedHead(name="head") if plain else LlamaHead(c, name="head")
        return head(x, embeddings.words.embedding)
