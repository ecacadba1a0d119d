"""The image augmentation of ViT's recipe (DeiT, timm): pure functions of an image and a generator, on Pillow.

The maintained libraries with RandAugment do not fit: torchvision and timm bring torch, keras-cv and the Vision
Transformer's own code TensorFlow, AlbumentationsX is AGPL, and albumentations and imgaug are no longer maintained.
Pillow has every operation that timm's RandAugment uses, and timm computes them with it: the pixels are the same
(`tests/data/test_data_augmentation.py` says how that was checked).

Every function draws from the generator that it is given and from nothing else, so an image's augmentation depends on
the seed and the image's place in the run alone.
"""

from qtx.data.augmentation.color import color_jitter
from qtx.data.augmentation.crop import random_crop, random_flip, random_resized_crop
from qtx.data.augmentation.mixing import Mixing
from qtx.data.augmentation.randaugment import OPERATIONS, RandAugment

__all__ = [
    "OPERATIONS",
    "Mixing",
    "RandAugment",
    "color_jitter",
    "random_crop",
    "random_flip",
    "random_resized_crop",
]
