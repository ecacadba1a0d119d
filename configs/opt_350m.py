"""OPT-350m with the paper's training (Bondarenko et al. 2023, table 3): causal language modelling, 100,000 steps.

Data as in `opt_125m`: TFDS's `wiki40b/en` in `config.data.data_dir`, books under `data/bookcorpus`, OPT's tokenizer.

    qtx train --config=configs/opt_350m.py:gated_linear,gate_pi=0.25 --workdir=runs/opt_350m \
        --config.data.tokenizer=data/opt

The model is the published facebook/opt-350m: post-LN, with embeddings of width 512. The paper gives only layers, heads
and widths, and its official code overrides those of OPT-125m's config, which makes a pre-LN model with the 125m's
embeddings of width 768, projected: `--config.model.pre_norm=True --config.model.embedding_width=768` for that one.
Neither of the paper's two models decays the LayerNorm scales: they are matched as they are.

Cost: not measured here, nor told by the paper.
Expected: the paper's table 3 (the pre-LN model), perplexity in floating point -> W8A8: softmax 13.19 -> 37.52, gated
13.01 -> 14.42; not measured here.
"""

from ml_collections import ConfigDict

from qtx.experiment import get_config_beside

get_base = get_config_beside(__file__, "opt_125m.py")


def get_config(variant: str = "softmax") -> ConfigDict:
    config = get_base(variant)
    config.name = "opt_350m"

    config.model.num_layers, config.model.width = 24, 1024
    config.model.num_heads, config.model.mlp_width = 16, 4096
    config.model.pre_norm = False
    config.model.embedding_width = 512

    config.training.steps = 100_000
    config.training.batch_size = 264
    config.training.decay_norm_scale = False

    config.compare.variants = ("softmax", "gated_linear,gate_pi=0.25")
    return config
