"""ViT-Ti/16 on ImageNet: the recipe of `vit_s16`, at a quarter of its parameters.

ImageNet by TFDS (`imagenet2012`, prepared by TFDS from the ILSVRC archives) in `config.data.data_dir`; or set
`config.data.corpus` to a folder with `train/<class>/*` and `val/<class>/*`.

    qtx train --config=configs/vit_ti16.py:gated_linear,gate_pi=0.5 --workdir=runs/vit_ti16

Of `vit_s16`'s recipe everything but the size, the LayerNorm on the patches included: `:softmax` is the matched control
(`--config.model.patch_norm=False` takes it off).

The augmentation is that of DeiT in timm: random resized crops, RandAugment (rand-m9-mstd0.5), Mixup, CutMix and label
smoothing. Colour jitter is of the recipe too, and is on; timm itself leaves it out when RandAugment is on
(`--config.data.color_jitter=0`).

Cost: not measured here.
Expected: not measured here; the paper has no ViT-Ti.
"""

from ml_collections import ConfigDict

from qtx.experiment import default

STEPS_PER_EPOCH = 2502  # 1,281,167 images in batches of 512


def get_config(variant: str = "softmax") -> ConfigDict:
    config = default("vit", variant)
    config.name = "vit_ti16"

    config.model.num_layers, config.model.width = 12, 192
    config.model.num_heads, config.model.mlp_width = 3, 768
    config.model.patch_size = 16
    config.model.patch_norm = True

    config.data.source = "image_corpus"
    config.data.corpus = "tfds:imagenet2012"
    config.data.image_size = 224
    config.data.random_resized_crop = True
    config.data.flip = True
    config.data.randaugment_layers = 2
    config.data.randaugment_magnitude = 9.0
    config.data.randaugment_std = 0.5
    config.data.color_jitter = 0.4
    config.data.mixup = 0.2
    config.data.cutmix = 0.2

    config.training.steps = 300 * STEPS_PER_EPOCH
    config.training.batch_size = 512
    config.training.learning_rate = 1e-3
    config.training.schedule = "cosine"
    config.training.initial_learning_rate = 1e-6
    config.training.final_learning_rate = 1e-5
    config.training.warmup_steps = 20 * STEPS_PER_EPOCH
    config.training.weight_decay = 0.03
    config.training.clip_norm = None  # the recipe has none
    config.training.label_smoothing = 0.1
    config.training.log_every = 100
    config.training.eval_every = STEPS_PER_EPOCH
    config.training.outliers_every = STEPS_PER_EPOCH
    config.training.checkpoint_every = STEPS_PER_EPOCH

    config.compare.variants = ("softmax", "clipped_softmax,alpha=None,gamma=-1e-4", "gated_linear,gate_pi=0.5")
    config.compare.seeds = (0, 1)
    return config
