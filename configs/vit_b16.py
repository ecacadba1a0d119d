"""ViT-B/16 on ImageNet: the recipe of `vit_s16`, at four times its parameters.

ImageNet by TFDS (`imagenet2012`, prepared by TFDS from the ILSVRC archives) in `config.data.data_dir`; or set
`config.data.corpus` to a folder with `train/<class>/*` and `val/<class>/*`.

    qtx train --config=configs/vit_b16.py:gated_linear,gate_pi=0.5 --workdir=runs/vit_b16

Of `vit_s16`'s recipe everything but the size, the LayerNorm on the patches included: `:softmax` is the matched control
(`--config.model.patch_norm=False` takes it off).

The augmentation is that of DeiT in timm: random resized crops, RandAugment (rand-m9-mstd0.5), Mixup, CutMix and label
smoothing. Colour jitter is of the recipe too, and is on; timm itself leaves it out when RandAugment is on
(`--config.data.color_jitter=0`).

Cost: not measured here.
Expected: not measured here; the paper has no ViT-B.
"""

from ml_collections import ConfigDict

from qtx.experiment import get_config_beside

get_base = get_config_beside(__file__, "vit_s16.py")


def get_config(variant: str = "softmax") -> ConfigDict:
    config = get_base(variant)
    config.name = "vit_b16"

    config.model.width = 768
    config.model.num_heads, config.model.mlp_width = 12, 3072
    return config
