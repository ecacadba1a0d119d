"""What reading a large checkpoint takes, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

LAYERS, WIDTH, MLP, VOCABULARY, LENGTH = 12, 640, 2560, 20_000, 512
CONFIG = {
    "model_type": "opt",
    "architectures": ["OPTForCausalLM"],
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 10,
    "ffn_dim": MLP,
    "max_position_embeddings": LENGTH,
}
# Of the process alone: the kernel counts what its parent had to `ru_maxrss`.
PROGRAM = """
import re, sys
from pathlib import Path
import jax
import numpy as np
from qtx.interop import load

def kilobytes(name):
    return int(re.search(rf"{name}:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1])

jax.block_until_ready(jax.numpy.zeros(3))
before = kilobytes("VmRSS")
_, params = load(sys.argv[1])
leaves = jax.tree.leaves(params)
assert all(leaf.dtype == np.float32 and leaf.flags.c_contiguous for leaf in leaves)
print(kilobytes("VmHWM") - before, sum(leaf.nbytes for leaf in leaves))
"""


def shapes():
    dense = {"self_attn.q_proj": (WIDTH, WIDTH), "self_attn.k_proj": (WIDTH, WIDTH), "self_attn.v_proj": (WIDTH, WIDTH)}
    dense |= {"self_attn.out_proj": (WIDTH, WIDTH), "fc1": (MLP, WIDTH), "fc2": (WIDTH, MLP)}
    for i in range(LAYERS):
        layer = f"model.decoder.layers.{i}"
        for name, shape in dense.items():
            yield f"{layer}.{name}.weight", shape
            yield f"{layer}.{name}.bias", shape[:1]
        for name in ("self_attn_layer_norm", "final_layer_norm"):
            yield f"{layer}.{name}.weight", (WIDTH,)
            yield f"{layer}.{name}.bias", (WIDTH,)
    for name in ("weight", "bias"):
        yield f"model.decoder.final_layer_norm.{name}", (WIDTH,)
    yield "model.decoder.embed_positions.weight", (LENGTH + 2, WIDTH)
    for name in ("model.decoder.embed_tokens.weight", "lm_head.weight"):  # a copy
        yield name, (VOCABULARY, WIDTH)


def write(folder, dtype):
    """Four shards of weights that are all alike, so that they are made quickly."""
    (folder / "config.json").write_text(json.dumps(CONFIG))
    named = list(shapes())
    places = {name: f"model-{i * 4 // len(named) + 1:05}-of-00004.safetensors" for i, (name, _) in enumerate(named)}
    for file in set(places.values()):
        save_file({name: np.ones(shape, dtype) for name, shape in named if places[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's account of memory")
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_the_peak_is_at_most_one_and_a_half_times_the_models_size(tmp_path, dtype):
    write(tmp_path, dtype)
    arguments = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    grown, size = (int(text) for text in done.stdout.split())
    assert size > 280e6
    assert 1024 * grown < 1.5 * size
