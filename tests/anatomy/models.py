"""Small models of every architecture that the frozen facts are of, each plain and gated."""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import numpy as np

from qtx.attention import attention_variant
from qtx.families import build
from qtx.models import BertConfig, OptConfig, VitConfig
from tests.test_decoder_from_outside import SMALL as DECODER
from tests.test_decoder_from_outside import Decoder, DecoderConfig

SHAPE = dict(num_layers=3, width=16, num_heads=2, mlp_width=24)
ARCHITECTURES = {
    "BERT": lambda attention: build(BertConfig(**SHAPE, vocab_size=11, max_length=8, attention=attention)),
    "OPT, pre-LN": lambda attention: build(OptConfig(**SHAPE, vocab_size=11, max_length=8, attention=attention)),
    "OPT, post-LN": lambda attention: build(
        OptConfig(**SHAPE, vocab_size=11, max_length=8, attention=attention, pre_norm=False, embedding_width=12)
    ),
    "ViT": lambda attention: build(
        VitConfig(**SHAPE, image_size=4, channels=1, patch_size=2, patch_norm=True, num_classes=3, attention=attention)
    ),
    "decoder": lambda attention: Decoder(DecoderConfig(**DECODER | {"width": 16}, attention=attention)),
}
VARIANTS = {"plain": "softmax", "gated": "gated_linear", "gated by heads": "gated_mlp"}
NAMES = [f"{architecture}, {variant}" for architecture in ARCHITECTURES for variant in VARIANTS]


@functools.cache
def make(name: str):
    """The module of a name, its parameters, all different, and a batch."""
    architecture, variant = name.rsplit(", ", 1)
    module = ARCHITECTURES[architecture](attention_variant(VARIANTS[variant]))
    batch = module.config.example()
    params = nn.unbox(jax.eval_shape(module.init, jax.random.key(0), batch)["params"])
    rng = np.random.default_rng(0)
    return module, jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), params), batch
