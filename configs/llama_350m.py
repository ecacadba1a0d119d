"""A decoder after Llama as deep and wide as SmolLM2-360M, with the data and training of `llama_60m`.

    qtx train --config=configs/llama_350m.py:gated_linear,gate_pi=0.25 --workdir=runs/llama_350m \
        --config.data.tokenizer=data/opt --config.model.dtype=bfloat16

Cost: not measured.
Expected: not measured.
"""

from ml_collections import ConfigDict

from qtx.experiment import get_config_beside

get_base = get_config_beside(__file__, "llama_60m.py")


def get_config(variant: str = "softmax") -> ConfigDict:
    config = get_base(variant)
    config.name = "llama_350m"

    config.model.num_layers, config.model.width = 32, 960
    config.model.num_heads, config.model.num_kv_heads = 15, 5
    config.model.mlp_width = 2560

    config.training.steps = 100_000
    config.training.learning_rate = 6e-4

    config.compare.variants = ("softmax", "gated_linear,gate_pi=0.25")
    return config
