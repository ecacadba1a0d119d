"""OPT (Zhang et al. 2022): decoder, ReLU, learned positions offset by 2, tied head.

All published sizes are pre-LN with embeddings as wide as the model, except OPT-350m: it is post-LN, has no final
LayerNorm, and has narrower embeddings with a projection into the model and one out of it.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, ClassVar, Self

import flax.linen as nn
import jax
import jax.numpy as jnp

from qtx.attention import Rows
from qtx.foundation.limits import at_least, one_of
from qtx.layers import dense, embedding, layer_norm
from qtx.masks import Mask
from qtx.models.activations import ACTIVATIONS
from qtx.models.block import TransformerConfig, layers
from qtx.models.vocabulary import LOGITS, VocabularyProduct
from qtx.parts import Part
from qtx.sites import Site

POSITION_OFFSET = 2


@dataclasses.dataclass(frozen=True)
class OptConfig(TransformerConfig):
    """The options of OPT: by default OPT-125m, with the paper's 512 positions.

    Attributes:
      activation: the activation of the feed-forward networks, a name in `ACTIVATIONS`.
      vocab_size: the rows of the embedding table; None: from the data's tokenizer.
      max_length: the longest sequence; the position embeddings have two rows more.
      pre_norm: LayerNorms on the residual branches and a final one; otherwise they follow the residual sums (OPT-350m).
      embedding_width: the width of the embedding table. If it is not the model's width, embeddings are projected to
        that, and the output back (OPT-350m: 512); None: the model's width.
    """

    causal: ClassVar[bool] = True

    activation: Annotated[str, one_of(ACTIVATIONS)] = "relu"  # type: ignore[misc]
    init_std: float = 0.006
    layer_norm_epsilon: float = 1e-5
    vocab_size: Annotated[int | None, at_least(1)] = None
    max_length: Annotated[int, at_least(1)] = 512
    pre_norm: bool = True  # type: ignore[misc]
    embedding_width: Annotated[int | None, at_least(1, "or None for width")] = None

    def resolved(self) -> Self:
        # None instead of the width: were both recorded as numbers, changing only the width would add projections.
        return dataclasses.replace(super().resolved(), embedding_width=self.embedding_width if self.projected else None)

    @property
    def projected(self) -> bool:
        """Says whether there are projections between the embedding table and the model."""
        return self.embedding_width not in (None, self.width)


class OptEmbeddings(nn.Module):
    """The embeddings. Sites: project_in (if they are narrower), sum (words + positions); all `[B, T, width]`."""

    config: OptConfig
    deterministic: bool

    def setup(self):
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        assert c.vocab_size is not None, "vocab_size is filled in by qtx.families.build"
        self.words = embedding(c.vocab_size, c.embedding_width or c.width, "vocab", c.init_std, dtype)
        if c.projected:
            self.project_in = dense(c.width, (None, "embed"), c.init_std, dtype, use_bias=False, part=Part.EMBEDDED)
        self.positions = embedding(c.max_length + POSITION_OFFSET, c.width, "positions", c.init_std, dtype)
        self.sum = Site(Part.RESIDUAL)

    def __call__(self, tokens: jax.Array, mask: jax.Array, first: Any = 0) -> jax.Array:
        # Padding takes the row before the first position, as in the published model.
        positions = (first + jnp.cumsum(mask, axis=1)) * mask - 1 + POSITION_OFFSET
        words = self.words(tokens)
        if self.config.projected:
            words = self.project_in(words)
        return self.sum(words + self.positions(positions))


class TiedHead(nn.Module):
    """The head, whose decoder is the embedding table; float32 logits `[..., vocab]` at site logits."""

    @nn.compact
    def __call__(self, x: jax.Array, table: jax.Array) -> jax.Array:
        return Site(Part.HEAD, name=LOGITS)(VocabularyProduct(name="product")(x, table))


class Opt(nn.Module):
    """OPT with its language-modelling head: OPTForCausalLM."""

    config: OptConfig

    @nn.compact
    def __call__(self, batch: dict[str, jax.Array], *, train: bool = False, step: jax.Array | None = None) -> jax.Array:
        """Computes next-token logits.

        Args:
          batch: `tokens` `[B, T]`; optionally `mask` `[B, T]` (False = padding), `segments` `[B, T]` (a token sees only
            those of its own number) and `past`, how many positions come before (`qtx.attention.past`).
          train: whether dropout is on (needs the "dropout" rng).
          step: the training step, for normalizers that anneal.

        Returns:
          `[B, T, vocab]` float32.
        """
        c, tokens = self.config, batch["tokens"]
        visible = batch.get("mask", jnp.ones(tokens.shape, bool))
        embeddings = OptEmbeddings(c, not train, name="embeddings")
        # No dropout here: the published decoder has it on the branches of its layers alone.
        rows = Rows(Mask.of_batch(batch, tokens.shape[1], causal=c.causal), step)
        x = embeddings(tokens, visible.astype(jnp.int32), rows.mask.first)
        x, _ = layers(c, deterministic=not train)(x, rows)
        dtype = jnp.dtype(c.dtype)
        if c.pre_norm:
            x = layer_norm(c.layer_norm_epsilon, dtype, "final_norm")(x)
        if c.projected:
            features, axes = embeddings.words.features, ("embed", None)
            x = dense(features, axes, c.init_std, dtype, "project_out", use_bias=False, part=Part.PROJECTED)(x)
        return TiedHead(name="head")(x, embeddings.words.embedding)
