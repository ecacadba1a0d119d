"""Small models with random weights, one per family, and batches for them."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qtx.attention import VARIANTS
from qtx.families import FAMILIES, build

SHAPE = dict(num_layers=2, width=32, num_heads=4, mlp_width=64)
OWN = {
    "bert": dict(vocab_size=50, max_length=16),
    "opt": dict(vocab_size=50, max_length=16),
    "modern_bert": dict(vocab_size=50, max_length=16, local_distance=4),
    "rotary_bert": dict(vocab_size=50, max_length=16),
    "llama": dict(vocab_size=50, max_length=16, num_kv_heads=2),
    "vit": dict(image_size=8, channels=1, num_classes=3, patch_size=2),
}


def make_batch(family, seed=0, size=4):
    generator = np.random.default_rng(seed)
    if family == "vit":
        return {
            "images": generator.normal(size=(size, 8, 8, 1)).astype(np.float32),
            "weights": np.ones(size, np.float32),
        }
    mask = np.arange(16) < generator.integers(10, 17, size=(size, 1))
    return {
        "tokens": generator.integers(0, 50, size=(size, 16), dtype=np.int32),
        "mask": mask,
        "weights": mask.astype(np.float32),
    }


@pytest.fixture(scope="session")
def make_model():
    """(family, variant) to (module, parameters); made once, without compiling the module's own initialization."""
    models = {}

    def make(family, variant="softmax"):
        if (family, variant) not in models:
            module = build(FAMILIES[family].config(**SHAPE, **OWN[family], attention=VARIANTS[variant].trained_at(8)))
            shapes = nn.unbox(jax.eval_shape(module.init, jax.random.key(0), make_batch(family))["params"])
            generator = np.random.default_rng(0)

            def random(path, leaf):
                return jnp.asarray(generator.normal(path[-1].key == "scale", 0.15, leaf.shape), leaf.dtype)

            models[family, variant] = module, jax.tree_util.tree_map_with_path(random, shapes)
        return models[family, variant]

    return make
