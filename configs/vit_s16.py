"""ViT-S/16 on ImageNet, shape and optimizer as in the paper (Bondarenko et al. 2023, appendix C): 300 epochs.

Needs ImageNet as `train/<class>/*` and `val/<class>/*` in the folder `config.data.path`. The images are kept decoded
in memory (150 kB each: 193 GB for all of ImageNet); a subset of the classes needs its share. Of the paper's
augmentation (RandAugment, Mixup, CutMix, label smoothing, colour jitter) there are only random crops and flips here:
expect a lower accuracy.

    qtx train --config=configs/vit_s16.py:gated_linear,gate_pi=0.5 --workdir=runs/vit_s16 \
        --config.data.path=data/imagenet

Cost: about 102 hours on one A100 (the paper's table 11); not measured here.
Expected: not measured here. The paper's table 2 with its augmentation, accuracy in floating point -> W8A8: softmax
80.98 -> 79.62, clipped softmax 80.89 -> 79.77, gated 81.01 -> 79.82, all with a LayerNorm on the patches as here.
"""

from ml_collections import ConfigDict

from qtx.experiment import default

STEPS_PER_EPOCH = 2502  # 1,281,167 images in batches of 512


def get_config(variant: str = "softmax") -> ConfigDict:
    config = default("vit", variant)  # ViT-S/16's shape is the family's default
    config.name = "vit_s16"

    # The paper's cures have this LayerNorm and its published baseline does not. Here every variant does.
    config.model.patch_norm = True

    config.data.source = "image_folder"
    config.data.path = "data/imagenet"
    config.data.image_size = 224
    config.data.random_crop = 28
    config.data.flip = True

    config.training.steps = 300 * STEPS_PER_EPOCH
    config.training.batch_size = 512
    config.training.learning_rate = 1e-3
    config.training.schedule = "cosine"
    config.training.initial_learning_rate = 1e-6
    config.training.final_learning_rate = 1e-5
    config.training.warmup_steps = 20 * STEPS_PER_EPOCH
    config.training.weight_decay = 0.03
    config.training.log_every = 100
    config.training.eval_every = STEPS_PER_EPOCH
    config.training.checkpoint_every = STEPS_PER_EPOCH

    config.compare.variants = ("softmax", "clipped_softmax,alpha=None,gamma=-1e-4", "gated_linear,gate_pi=0.5")
    config.compare.seeds = (0, 1)
    return config
