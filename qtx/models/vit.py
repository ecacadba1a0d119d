"""ViT (Dosovitskiy et al. 2021): patch embedding, class token, pre-LN encoder, and a classifier on the class token, or
none."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, ClassVar, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from qtx.attention import Rows
from qtx.foundation.errors import QtxError
from qtx.foundation.limits import one_of
from qtx.layers import Dropout, dense, layer_norm
from qtx.masks import Mask
from qtx.models.activations import ACTIVATIONS
from qtx.models.block import TransformerConfig, layers
from qtx.parts import Part
from qtx.sites import Site

HEADS = ("classification", "none")


@dataclasses.dataclass(frozen=True)
class VitConfig(TransformerConfig):
    """The options of ViT: by default ViT-S/16 with timm's LayerNorm epsilon, where Hugging Face's ViT has 1e-12.

    Attributes:
      activation: the activation of the feed-forward networks, a name in `ACTIVATIONS`.
      patch_size: the side of a square patch in pixels.
      patch_norm: whether a LayerNorm follows the patch embedding. The paper's ViT cures have it and its vanilla
        baseline does not; it alone cures most outliers, so compare variants with the same setting.
      head: `"classification"`, or `"none"`, the encoder alone.
      image_size, channels: the side in pixels and the channels of an image; None: from the data.
      num_classes: the classes of the head `"classification"`; None: from the data.

    Raises:
      QtxError: if the image is not a whole number of patches.
    """

    pre_norm: ClassVar[bool] = True
    causal: ClassVar[bool] = False
    reads: ClassVar[str] = "images"
    pooling: ClassVar[str] = "cls"
    """The hidden state that is an image's embedding, without a head: the class token's."""

    activation: Annotated[str, one_of(ACTIVATIONS)] = "gelu"  # type: ignore[misc]
    width: int = 384
    num_heads: int = 6
    mlp_width: int = 1536
    dropout: float = 0.0
    attention_dropout: float = 0.0
    layer_norm_epsilon: float = 1e-6
    patch_size: int = 16
    patch_norm: bool = False
    image_size: int | None = None
    channels: int | None = None
    head: Annotated[str, one_of(HEADS)] = "classification"
    num_classes: int | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.patch_size < 1 or (self.image_size is not None and self.image_size % self.patch_size):
            raise QtxError(
                f"patch_size {self.patch_size} does not divide image_size {self.image_size}: choose a divisor"
            )

    @property
    def from_data(self):
        return tuple(name for name in super().from_data if name != "num_classes" or self.head == "classification")

    def resolved(self) -> Self:
        if self.image_size is None:
            return super().resolved()
        return super().resolved().trained_at((self.image_size // self.patch_size) ** 2 + 1)

    def example(self) -> dict[str, Any]:
        # A view of one number, since a config may ask for any size.
        shape: Any = (1, self.image_size, self.image_size, self.channels)
        return {"images": np.broadcast_to(np.float32(0), shape)}


def patches(images: jax.Array, size: int) -> jax.Array:
    """Cuts images `[B, H, W, C]` into flattened patches `[B, (H / size) * (W / size), size * size * C]`, row by row."""
    batch, height, width, channels = images.shape
    grid = images.reshape(batch, height // size, size, width // size, size, channels)
    return grid.transpose(0, 1, 3, 2, 4, 5).reshape(batch, -1, size * size * channels)


class VitEmbeddings(nn.Module):
    """The embeddings. Sites: patches `[B, N, width]`, patch_norm (if on), sum (class token, patches, positions)
    `[B, N + 1, width]`."""

    config: VitConfig
    deterministic: bool

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        project = dense(c.width, (None, "embed"), c.init_std, dtype, "patches", part=Part.EMBEDDED)
        x = project(patches(images.astype(dtype), c.patch_size))
        if c.patch_norm:
            x = layer_norm(c.layer_norm_epsilon, dtype, "patch_norm", Part.EMBEDDED)(x)
        initial = nn.initializers.normal(c.init_std)
        class_token = self.param("class_token", initial, (c.width,))
        positions = self.param("positions", initial, (x.shape[1] + 1, c.width))
        class_tokens = jnp.broadcast_to(class_token.astype(dtype), (x.shape[0], 1, c.width))
        x = Site(Part.RESIDUAL, name="sum")(jnp.concatenate([class_tokens, x], axis=1) + positions.astype(dtype))
        return Dropout(c.dropout, deterministic=self.deterministic)(x)


class ClassifierHead(nn.Module):
    """A linear map of the class token, `[B, width]` -> float32 `[B, num_classes]`, in float32; site logits."""

    config: VitConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        c = self.config
        assert c.num_classes is not None, "num_classes is filled in by qtx.families.build"
        return dense(c.num_classes, ("embed", None), c.init_std, jnp.float32, "logits", part=Part.HEAD)(x)


class Vit(nn.Module):
    """ViT: ViTForImageClassification or ViTModel, by the config's head."""

    config: VitConfig

    @nn.compact
    def __call__(self, batch: dict[str, jax.Array], *, train: bool = False, step: jax.Array | None = None) -> jax.Array:
        """Computes class logits `[B, num_classes]` of `batch["images"]` `[B, H, W, C]`, without a head the last hidden
        states `[B, N + 1, width]`; float32; the other arguments are as in BERT."""
        c = self.config
        x = VitEmbeddings(c, not train, name="embeddings")(batch["images"])
        x, _ = layers(c, deterministic=not train)(x, Rows(Mask(x.shape[1], c.causal), step))
        x = layer_norm(c.layer_norm_epsilon, jnp.dtype(c.dtype), "final_norm")(x)
        if c.head == "none":
            return x.astype(jnp.float32)
        return ClassifierHead(c, name="head")(x[:, 0])
