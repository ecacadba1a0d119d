"""A decoder goes on with a text by the tokens that `transformers` generates with its checkpoint."""

from __future__ import annotations

import os

import flax.linen as nn
import jax
import pytest

from qtx.analysis.capture import FloatingPoint
from qtx.families import build
from qtx.interop import load, save
from qtx.models import OptConfig
from qtx.pipeline.generate import continued

try:
    import torch
    import transformers
except ImportError as error:
    if os.environ.get("QTX_REQUIRE_TRANSFORMERS"):
        raise
    pytest.skip(f"needs torch and transformers (pip install qtx[hf]): {error}", allow_module_level=True)

SHAPE = {"num_layers": 3, "width": 32, "num_heads": 4, "mlp_width": 48, "vocab_size": 53, "max_length": 30}
CONFIGS = {
    "OPT": OptConfig(**SHAPE, init_std=0.5),
    "OPT-350m": OptConfig(**SHAPE, init_std=0.5, pre_norm=False, embedding_width=20),
    "GPT-2": OptConfig(**SHAPE, init_std=0.5, activation="gelu_new", layer_norm_epsilon=1e-6),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_greedy_tokens_are_those_of_transformers(tmp_path, name):
    module = build(CONFIGS[name])
    params = nn.unbox(jax.jit(module.init)(jax.random.key(0), module.config.example())["params"])
    save(tmp_path, module.config, params)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert type(theirs).__name__.startswith(name[:3])
    prompt = torch.tensor([[5, 11, 40, 7]])
    options = {"max_new_tokens": 20, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    expected = theirs.generate(prompt, attention_mask=torch.ones_like(prompt), **options)[0, 4:].tolist()
    config, params = load(tmp_path)
    assert continued(FloatingPoint(build(config), params), prompt[0].tolist(), 20) == expected
    # And with an end, the first of whose tokens both stop at.
    options |= {"eos_token_id": expected[7]}
    ended = theirs.generate(prompt, attention_mask=torch.ones_like(prompt), **options)[0, 4:].tolist()
    assert continued(FloatingPoint(build(config), params), prompt[0].tolist(), 20, {expected[7]}) == ended
