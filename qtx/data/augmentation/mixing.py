"""Mixup (Zhang et al. 2018) and CutMix (Yun et al. 2019) on pairs of examples."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

Example = dict[str, np.ndarray]


@dataclass(frozen=True)
class Mixing:
    """Mixup or CutMix of pairs of examples, each with probability 0.5 if both are on, as in timm's `pair` mode.

    The other example's label weighs 1 - lambda, lambda ~ Beta(alpha, alpha). Both examples of a pair are mixed with the
    same lambda and rectangle, each with the other as it was before mixing.

    Attributes:
      mixup: alpha of Mixup; 0: no Mixup.
      cutmix: alpha of CutMix; 0: no CutMix.
    """

    mixup: float = 0.0
    cutmix: float = 0.0

    def __call__(self, examples: list[Example], rng: np.random.Generator) -> list[Example]:
        """Mixes a pair of examples.

        Args:
          examples: two examples, with `images` float32 `[H, W, C]` and `labels` int32 [].
          rng: decides between Mixup and CutMix, and draws lambda and the rectangle.

        Returns:
          the examples, each with `mixed_labels` int32 [], the other's label, and `mixed_share` float32 [], that label's
          weight in the target: exactly the share of the other's pixels.
        """
        first, other = examples
        with_cutmix = self.cutmix > 0 and (self.mixup == 0 or rng.random() < 0.5)
        alpha = self.cutmix if with_cutmix else self.mixup
        share = 1 - rng.beta(alpha, alpha)
        # The part of every pixel that comes from the other image, `[H, W, 1]`.
        of_other = np.zeros((*first["images"].shape[:2], 1), np.float32)
        if with_cutmix:
            of_other[_rectangle(of_other.shape, share, rng)] = 1
            share = of_other.mean(dtype=np.float64)
        else:
            of_other[:] = share

        return [
            {
                **mine,
                "images": (1 - of_other) * mine["images"] + of_other * theirs["images"],
                "mixed_labels": theirs["labels"],
                "mixed_share": np.asarray(share, np.float32),
            }
            for mine, theirs in ((first, other), (other, first))
        ]


def _rectangle(shape: tuple[int, ...], share: float, rng: np.random.Generator) -> tuple[slice, slice]:
    """Draws rows and columns of a rectangle of the image's shape and about `share` of its area, around a uniform
    centre; the part beyond the border is cut off."""
    side = math.sqrt(share)
    bounds = []
    for length in shape[:2]:
        centre, cut = int(rng.integers(length)), int(length * side)
        bounds.append(slice(max(0, centre - cut // 2), min(length, centre + (cut + 1) // 2)))
    return bounds[0], bounds[1]
