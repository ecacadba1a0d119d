"""BERT's masked-language-model corruption of one block, with a fixed number of predictions.

A fixed number of predicted positions gives static shapes, so that the vocabulary head runs at these positions only.
Source: Devlin et al. 2018, section 3.1 and appendix A.1 (15 % of the tokens; 80 % mask, 10 % random, 10 % kept).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from qtx.foundation.errors import QtxError

MASK_SHARE, RANDOM_SHARE = 0.8, 0.1


def num_predictions(mask_probability: float, sequence_length: int) -> int:
    """Returns the predictions per block, P = ceil(mask_probability * T), e.g. 20 for 0.15 and T = 128 as in BERT."""
    if not 0.0 < mask_probability < 1.0:
        raise QtxError(f"mask_probability is {mask_probability}: expected a number between 0 and 1, e.g. 0.15")
    # Rounded first, so that a product such as 0.07 * 100 = 7.000000000000001 is 7, not 8.
    return math.ceil(round(mask_probability * sequence_length, 9))


@dataclass(frozen=True)
class Masking:
    """`Masking` says what `mask_tokens` needs to know about a vocabulary.

    Attributes:
      predictions: P, the predicted positions per block.
      mask_id: id of the mask token.
      is_special: bool [V], True for ids that are neither predicted nor drawn as a random replacement.
    """

    predictions: int
    mask_id: int
    is_special: np.ndarray

    @cached_property
    def ordinary_ids(self) -> np.ndarray:
        """Returns the ids that are not special, int32."""
        return np.flatnonzero(~self.is_special).astype(np.int32)


def mask_tokens(tokens: np.ndarray, masking: Masking, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Chooses P positions of a block and corrupts them; a pure function of its arguments and the generator's state.

    Args:
      tokens: int32 [T], one block.
      masking: the vocabulary's facts and P.
      rng: the generator, drawn from in a fixed order.

    Returns:
      `tokens` int32 [T] corrupted; `positions` int32 [P], ascending; `labels` int32 [P], the original tokens there;
      `weights` float32 [P], 0 for the last entries (position 0) where a block has fewer than P ordinary tokens.
    """
    candidates = np.flatnonzero(~masking.is_special[tokens])
    count = min(masking.predictions, len(candidates))
    chosen = np.sort(rng.choice(candidates, size=count, replace=False, shuffle=False))
    positions = np.zeros(masking.predictions, np.int32)
    positions[:count] = chosen
    weights = np.zeros(masking.predictions, np.float32)
    weights[:count] = 1.0

    draw = rng.random(count)
    replacement = rng.choice(masking.ordinary_ids, size=count)
    replacement[draw < MASK_SHARE] = masking.mask_id
    kept = draw >= MASK_SHARE + RANDOM_SHARE
    replacement[kept] = tokens[chosen[kept]]
    corrupted = tokens.copy()
    corrupted[chosen] = replacement
    return {"tokens": corrupted, "positions": positions, "labels": tokens[positions], "weights": weights}
