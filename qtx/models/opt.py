"""OPT (Zhang et al. 2022): pre-LN decoder, ReLU, learned positions offset by 2, tied head."""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from qtx.layers import Site, embedding, flat_dot_general, layer_norm
from qtx.models.block import TransformerConfig, layers

POSITION_OFFSET = 2


@dataclasses.dataclass(frozen=True)
class OptConfig(TransformerConfig):
    """OPT-125m by default, with the paper's 512 positions.

    Attributes:
      vocab_size: rows of the word table; None: from the data's tokenizer.
      max_length: longest sequence; the position table has two rows more.
    """

    init_std: float = 0.006
    layer_norm_epsilon: float = 1e-5
    vocab_size: int | None = None
    max_length: int = 512


class OptEmbeddings(nn.Module):
    """Site: sum (words + positions) `[B, T, width]`."""

    config: OptConfig
    deterministic: bool

    def setup(self):
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        assert c.vocab_size is not None, "vocab_size is filled in by qtx.models.build"
        self.words = embedding(c.vocab_size, c.width, "vocab", c.init_std, dtype)
        self.positions = embedding(c.max_length + POSITION_OFFSET, c.width, "positions", c.init_std, dtype)
        self.sum = Site()

    def __call__(self, tokens: jax.Array, mask: jax.Array) -> jax.Array:
        # Padding takes the row before the first position, as in the published model.
        positions = jnp.cumsum(mask, axis=1) * mask - 1 + POSITION_OFFSET
        return self.sum(self.words(tokens) + self.positions(positions))


class TiedHead(nn.Module):
    """The word table as decoder; float32 logits `[..., vocab]` at site logits."""

    @nn.compact
    def __call__(self, x: jax.Array, table: jax.Array) -> jax.Array:
        return Site(name="logits")(flat_dot_general(x, table.T.astype(x.dtype), None).astype(jnp.float32))


class Opt(nn.Module):
    """OPTForCausalLM, the pre-LN kind (125m, 1.3b and up)."""

    config: OptConfig

    @nn.compact
    def __call__(self, batch: dict[str, jax.Array], *, train: bool = False, step: jax.Array | None = None) -> jax.Array:
        """Next-token logits.

        Args:
          batch: `tokens` `[B, T]`; optionally `mask` `[B, T]` (False = padding).
          train: dropout on (needs the "dropout" rng).
          step: training step, for normalizers that anneal.

        Returns:
          `[B, T, vocab]` float32.
        """
        c, tokens = self.config, batch["tokens"]
        length = tokens.shape[1]
        visible = batch.get("mask", jnp.ones(tokens.shape, bool))
        embeddings = OptEmbeddings(c, not train, name="embeddings")
        x = nn.Dropout(c.dropout, deterministic=not train)(embeddings(tokens, visible.astype(jnp.int32)))
        mask = jnp.tril(jnp.ones((length, length), bool)) & visible[:, None, None, :]
        x, _ = layers(c, pre_norm=True, activation="relu", deterministic=not train)(x, mask, step)
        x = layer_norm(c.layer_norm_epsilon, jnp.dtype(c.dtype), "final_norm")(x)
        return TiedHead(name="head")(x, embeddings.words.embedding)
