"""BERT (Devlin et al. 2019): post-LN encoder, token types, and one of several heads, or none."""

from __future__ import annotations

import dataclasses
from typing import Annotated, ClassVar, Self

import flax.linen as nn
import jax
import jax.numpy as jnp

from qtx.attention import Rows
from qtx.foundation.limits import at_least, one_of
from qtx.layers import Dropout, dense, embedding, layer_norm
from qtx.masks import Mask
from qtx.models.activations import ACTIVATIONS
from qtx.models.block import TransformerConfig, layers, make_norm
from qtx.models.embedding import EmbeddingHead, modules_of
from qtx.models.pooling import POOLINGS, check_pooling, without_prompt
from qtx.models.relative_bias import RelativeBias
from qtx.models.vocabulary import LOGITS, VocabularyProduct
from qtx.parts import Part
from qtx.sites import Site

OF_TEXTS = ("classification", "regression", "multi_label")
"""The heads of whole texts: they have the same parameters, but their outputs mean different things."""
OF_TOKENS = ("token_classification", "span")
"""The heads of every token: classes of tokens, and the logits of the first and of the last token of an answer."""
HEADS = ("mlm", *OF_TEXTS, *OF_TOKENS, "none")


@dataclasses.dataclass(frozen=True)
class BertConfig(TransformerConfig):
    """The options of BERT, by default BERT-base.

    Attributes:
      activation: the activation of the feed-forward networks and the masked-language head, a name in `ACTIVATIONS`.
      pooler_activation: the activation of the dense layer below the outputs of a head of whole texts, such a name too.
      vocab_size: the rows of the embedding table; None: from the data's tokenizer.
      max_length: the longest sequence, and the rows of the position embeddings where positions are learned.
      type_vocab_size: the number of token types; 0: the model has none (DistilBERT).
      relative_buckets: the rows of the table of biases that scores have by the distance of query and key (MPNet: 32);
        0: there is none.
      embedding_width: the width of the embedding tables. If it is not the model's width, their normalized sum is
        projected to that (ELECTRA), and the masked-language head works in theirs; None: the model's width.
      shared_layers: whether all layers have the same parameters (ALBERT).
      head: `"mlm"`, the masked-language head with a tied decoder; a head of whole texts: `"classification"`, one class
        of several, `"regression"`, a number or several, or `"multi_label"`, classes of which a text may have several;
        a head of every token: `"token_classification"`, or `"span"`, which finds an answer in a text; or `"none"`, the
        encoder alone.
      num_classes: the outputs of a head of whole texts, or of token classification; None: from the data.
      pooling, normalize: how hidden states become the embedding of a text, in a model without a head; see
        `qtx.models.pooling`. Without `modules` they change how the model is measured, not what it computes.
      modules: what the model, if it has no head, makes of the pooled vector before the last normalization: a text as
        `qtx.models.embedding` has it; empty: nothing.
      include_prompt: whether the tokens of a prompt before a text are pooled.
    """

    pre_norm: ClassVar[bool] = False
    causal: ClassVar[bool] = False
    learned_positions: ClassVar[bool] = True
    """Whether positions are embedded, by a table; other models turn queries and keys, see `per_layer`."""
    transform_bias: ClassVar[bool] = True
    """Whether the first dense layer of a head has a bias."""
    transforms_all: ClassVar[bool] = False
    """Whether every head begins as the masked-language head does: dense, activation, norm."""
    text_pooling: ClassVar[str] = "cls"
    """Which hidden state a head of whole texts reads: that of the first position, `"cls"`, padding or not, or another
    name in `qtx.models.pooling.POOLINGS`."""

    activation: Annotated[str, one_of(ACTIVATIONS)] = "gelu"  # type: ignore[misc]
    pooler_activation: Annotated[str, one_of(ACTIVATIONS)] = "tanh"
    vocab_size: Annotated[int | None, at_least(1)] = None
    max_length: Annotated[int, at_least(1)] = 512
    type_vocab_size: Annotated[int, at_least(0)] = 2
    relative_buckets: Annotated[int, at_least(0)] = 0
    embedding_width: Annotated[int | None, at_least(1, "or None for width")] = None
    shared_layers: bool = False  # type: ignore[misc]
    head: Annotated[str, one_of(HEADS)] = "mlm"
    num_classes: int | None = None
    pooling: str = "mean"
    normalize: bool = False
    modules: str = ""
    include_prompt: bool = True

    def __post_init__(self):
        super().__post_init__()
        check_pooling(self.pooling)
        modules_of(self.modules)

    def resolved(self) -> Self:
        # None instead of the width: were both recorded as numbers, changing only the width would add a projection.
        return dataclasses.replace(super().resolved(), embedding_width=self.embedding_width if self.projected else None)

    @property
    def projected(self) -> bool:
        """Says whether there is a projection between the embedding tables and the layers."""
        return self.embedding_width not in (None, self.width)

    @property
    def from_data(self):
        counted = self.head in (*OF_TEXTS, "token_classification")
        return tuple(name for name in super().from_data if name != "num_classes" or counted)


class BertEmbeddings(nn.Module):
    """The embeddings. Sites: token_type_sum (words + token types) and sum (with positions), where the model has these,
    and norm; all `[B, T, embedding_width]`; project_in `[B, T, width]`, if the embeddings are not as wide."""

    config: BertConfig
    deterministic: bool

    def setup(self):
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        width = c.embedding_width or c.width
        assert c.vocab_size is not None, "vocab_size is filled in by qtx.families.build"
        self.words = embedding(c.vocab_size, width, "vocab", c.init_std, dtype)
        if c.learned_positions:
            self.positions = embedding(c.max_length, width, "positions", c.init_std, dtype)
            self.sum = Site(Part.EMBEDDED)
        if c.type_vocab_size:
            self.token_types = embedding(c.type_vocab_size, width, "positions", c.init_std, dtype)
            self.token_type_sum = Site(Part.EMBEDDED)
        self.norm = layer_norm(c.layer_norm_epsilon, dtype, use_bias=c.norm_bias)
        self.drop = Dropout(c.dropout, deterministic=self.deterministic)
        if c.projected:
            self.project_in = dense(c.width, (None, "embed"), c.init_std, dtype, part=Part.EMBEDDED)

    def __call__(self, tokens: jax.Array, token_types: jax.Array) -> jax.Array:
        x = self.words(tokens)
        if self.config.type_vocab_size:
            x = self.token_type_sum(x + self.token_types(token_types))
        if self.config.learned_positions:
            x = self.sum(x + self.positions(jnp.arange(tokens.shape[1])[None]))
        x = self.drop(self.norm(x))
        return self.project_in(x) if self.config.projected else x


def transformed(config: BertConfig, x: jax.Array, width: int) -> jax.Array:
    """Returns what the masked-language head makes of hidden states first: dense, activation, norm, `[..., width]`."""
    dtype = jnp.dtype(config.dtype)
    axes, bias = ("embed", None), config.transform_bias
    x = dense(width, axes, config.init_std, dtype, "transform", bias, part=Part.HEAD)(x)
    return make_norm(config, "norm", Part.HEAD)(ACTIVATIONS[config.activation](x))


class MlmHead(nn.Module):
    """The masked-language head: `transformed`, tied decoder and bias; float32 logits `[..., vocab]`."""

    config: BertConfig

    @nn.compact
    def __call__(self, x: jax.Array, table: jax.Array) -> jax.Array:
        x = transformed(self.config, x, table.shape[1])
        bias = self.param("bias", nn.initializers.zeros_init(), (table.shape[0],))
        return Site(Part.HEAD, name=LOGITS)(VocabularyProduct(name="product")(x, table, bias))


class ClassificationHead(nn.Module):
    """The pooler (dense and activation) or `transformed` of a text's pooled hidden state, by default that of the first
    token, dropout, and a dense layer; float32 `[B, num_classes]`."""

    config: BertConfig
    deterministic: bool

    @nn.compact
    def __call__(self, x: jax.Array, real: jax.Array) -> jax.Array:
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        assert c.num_classes is not None, "num_classes is filled in by qtx.families.build"
        axes, drop = ("embed", None), Dropout(c.dropout, deterministic=self.deterministic)
        x = x[:, 0] if c.text_pooling == "cls" else POOLINGS[c.text_pooling](x, real)
        if c.transforms_all:
            pooled = drop(transformed(c, x, c.width))
        else:
            pooled = dense(c.width, axes, c.init_std, dtype, "pooler", part=Part.HEAD)(x)
            pooled = drop(Site(Part.HEAD, name="pooled")(ACTIVATIONS[c.pooler_activation](pooled)))
        return dense(c.num_classes, axes, c.init_std, dtype, "logits", part=Part.HEAD)(pooled).astype(jnp.float32)


class TokenHead(nn.Module):
    """Perhaps `transformed`, then dropout and a dense layer on every token, float32 `[B, T, num_classes]`; for the head
    `"span"`, `[B, T, 2]`."""

    config: BertConfig
    deterministic: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        outputs = 2 if c.head == "span" else c.num_classes
        assert outputs is not None, "num_classes is filled in by qtx.families.build"
        x = transformed(c, x, c.width) if c.transforms_all else x
        x = Dropout(c.dropout, deterministic=self.deterministic)(x)
        return dense(outputs, ("embed", None), c.init_std, dtype, "logits", part=Part.HEAD)(x).astype(jnp.float32)


class Bert(nn.Module):
    """BERT: BertModel, or a BertFor... of transformers, by the config's head."""

    config: BertConfig

    @nn.compact
    def __call__(self, batch: dict[str, jax.Array], *, train: bool = False, step: jax.Array | None = None) -> jax.Array:
        """Computes the head's logits.

        Args:
          batch: `tokens` `[B, T]`; optionally `mask` `[B, T]` (False = padding), `token_types` `[B, T]`, `segments`
            `[B, T]` (a token sees only those of its own number), and `positions` `[B, P]`: the positions to predict, so
            that the vocabulary-sized head runs only there.
          train: whether dropout is on (needs the "dropout" rng).
          step: the training step, for normalizers that anneal.

        Returns:
          float32 `[B, P, vocab]` from the masked-language head with `positions`, otherwise `[B, T, vocab]`;
          `[B, num_classes]` from a head of whole texts, `[B, T, num_classes]` from token classification, `[B, T, 2]`
          from `"span"`; without a head the last hidden states `[B, T, width]`, or, with `modules`, the embedding
          `[B, D]` that they make.
        """
        c, tokens = self.config, batch["tokens"]
        embeddings = BertEmbeddings(c, not train, name="embeddings")
        x = embeddings(tokens, batch.get("token_types", jnp.zeros_like(tokens)))
        length, bias = tokens.shape[1], None
        if c.relative_buckets:
            bias = RelativeBias(c.relative_buckets, c.num_heads, c.init_std, name="relative_bias")(length)
        rows = Rows(Mask.of_batch(batch, length, causal=c.causal), step, bias=bias)
        x, _ = layers(c, deterministic=not train)(x, rows)
        x = make_norm(c, "final_norm")(x) if c.pre_norm else x
        real = c.real_positions(batch, length)
        real = jnp.ones(tokens.shape, bool) if real is None else real
        if c.head == "none" and c.modules:
            options = c.pooling, modules_of(c.modules), c.normalize, c.init_std, jnp.dtype(c.dtype)
            return EmbeddingHead(*options, name="head")(x.astype(jnp.float32), without_prompt(real, batch, c))
        if c.head == "none":
            return x.astype(jnp.float32)
        if c.head in OF_TEXTS:
            return ClassificationHead(c, not train, name="head")(x, real)
        if c.head in OF_TOKENS:
            return TokenHead(c, not train, name="head")(x)
        if "positions" in batch:
            x = jnp.take_along_axis(x, batch["positions"][..., None], axis=1)
        return MlmHead(c, name="head")(x, embeddings.words.embedding)
