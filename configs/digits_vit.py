"""A tiny ViT on scikit-learn's 1,797 handwritten digits (8 x 8 pixels): the smallest image experiment.

    qtx compare --config=configs/digits_vit.py --workdir=runs/digits_vit

Cost: not measured here.
Expected: not measured here.
"""

from ml_collections import ConfigDict

from qtx.experiment import default


def get_config(variant: str = "softmax") -> ConfigDict:
    config = default("vit", variant)
    config.name = "digits_vit"

    config.model.num_layers = 4
    config.model.width = 64
    config.model.num_heads = 4
    config.model.mlp_width = 256
    config.model.patch_size = 2  # 16 patches and the class token
    config.model.init_std = 0.125  # 1 / sqrt(width)

    config.data.source = "digits"
    config.data.random_crop = 1

    config.training.steps = 1000
    config.training.batch_size = 64
    config.training.learning_rate = 1e-3
    config.training.schedule = "cosine"
    config.training.weight_decay = 0.03
    config.training.eval_every = 250
    config.training.checkpoint_every = 500

    config.quantization.schemes = ("w8a8", "w6a8", "w6a6", "w4a8")
    # At this size alpha = 4 starts with 59 % of the attention rows dead, alpha = 2 with 3 %.
    config.compare.variants = ("softmax", "clipped_softmax,alpha=2", "gated_linear", "none")
    return config
