"""This module reads what a sentence-transformers folder does with a model's last hidden states."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from qtx.foundation.errors import QtxError
from qtx.foundation.storage import Expected, read_json
from qtx.interop.carried import MODULES, module_list
from qtx.models.pooling import POOLINGS, SEPARATOR

EXPECTED = Expected("the options of a Pooling module", "save the model there with sentence-transformers")
TRANSFORMER, POOLING, NORMALIZE = "Transformer", "Pooling", "Normalize"
# Modules that act only in training.
OF_TRAINING = ("Dropout",)
# Flags of the versions before 6 to today's names; of the flags left out, the mean's alone is on.
FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


class Modules(NamedTuple):
    """`Modules` says how hidden states `[B, T, width]` become one vector `[B, width]`.

    Attributes:
      pooling: a name in `qtx.models.pooling.POOLINGS`, or several with `+` between.
      normalize: whether the vector is divided by its L2 norm.
      left_out: the kinds of modules that follow and change the vector further, which qtx does not compute.
    """

    pooling: str
    normalize: bool
    left_out: tuple[str, ...] = ()


def read_modules(folder: str | Path) -> Modules:
    """Reads the pooling and the normalization of a sentence-transformers folder, up to the first module that qtx does
    not compute.

    Raises:
      QtxError: if a file is missing or broken, the modules do not begin with a Transformer and its Pooling, or the
        pooling is one that sentence-transformers does not have.
    """
    folder = Path(folder)
    modules = module_list(folder)
    kinds = [kind.rpartition(".")[2] for kind, _ in modules]
    # A class of another library may have such a name, too.
    own = all(kind.startswith("sentence_transformers.") for kind, _ in modules[:2])
    if kinds[:2] != [TRANSFORMER, POOLING] or not own:
        raise QtxError(
            f"{folder / MODULES} has the modules {', '.join(kind for kind, _ in modules)}: expected those of "
            "sentence-transformers called Transformer and Pooling, and then any"
        )
    path = modules[1][1] / "config.json"
    further = [kind for kind in kinds[2:] if kind not in OF_TRAINING]
    normalize = further[:1] == [NORMALIZE]
    left_out = further[1:] if normalize else further
    return Modules(_pooling(read_json(path, EXPECTED), path), normalize, tuple(left_out))


def _pooling(values: dict[str, Any], path: Path) -> str:
    flagged = [mode for flag, mode in FLAGS.items() if values.get(flag, mode == "mean") is True]
    chosen = values.get("pooling_mode", flagged)
    chosen = [chosen] if isinstance(chosen, str) else chosen
    if not isinstance(chosen, list) or not chosen or not all(isinstance(x, str) and x in POOLINGS for x in chosen):
        raise QtxError(f"{path}: the pooling mode is {str(chosen)[:100]}; qtx has {', '.join(POOLINGS)}")
    return SEPARATOR.join(chosen)
