"""OPT-1.3B with the paper's training (Bondarenko et al. 2023, table 3): causal language modelling, 100,000 steps.

Data as in `opt_125m`: TFDS's `wiki40b/en` in `config.data.data_dir`, books under `data/bookcorpus`, OPT's tokenizer.
The gate sees all heads (`gated_all_heads`) and begins half open: the official code ignores its initial openness.

    qtx train --config=configs/opt_1b3.py:gated_all_heads,gate_pi=0.5 --workdir=runs/opt_1b3 \
        --config.data.tokenizer=data/opt --config.mesh.fsdp=8

The model is the published facebook/opt-1.3b. The official code overrides OPT-125m's config, whose embeddings of width
768 stay, projected: `--config.model.embedding_width=768` for that one. Neither of the paper's two models decays the
LayerNorm scales: they are matched as they are.

Cost: not measured here, nor told by the paper.
Expected: the paper's table 3, perplexity in floating point -> W8A8: softmax 12.13 -> 989.6, gated (all heads) 12.21 ->
29.95; not measured here.
"""

from ml_collections import ConfigDict

from qtx.experiment import get_config_beside

get_base = get_config_beside(__file__, "opt_125m.py")


def get_config(variant: str = "softmax") -> ConfigDict:
    config = get_base(variant)
    config.name = "opt_1b3"

    config.model.num_layers, config.model.width = 24, 2048
    config.model.num_heads, config.model.mlp_width = 32, 8192

    config.training.steps = 100_000
    config.training.batch_size = 252
    config.training.decay_norm_scale = False

    config.compare.variants = ("softmax", "gated_all_heads,gate_pi=0.5")
    return config
