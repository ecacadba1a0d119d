"""This module reads what a sentence-transformers folder does with a model's last hidden states."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from qtx.families.weights import Weight, dense_weights, import_weights
from qtx.foundation.errors import QtxError
from qtx.foundation.storage import Expected, StoredTensor, read_json, read_safetensors
from qtx.interop.carried import MODULES, module_list
from qtx.interop.weight_files import WEIGHTS
from qtx.models.embedding import ACTIVATIONS, Dense, EmbeddingHead, Module, Normalize, modules_of, modules_text
from qtx.models.pooling import POOLINGS, SEPARATOR

EXPECTED = Expected("the options of a module", "save the model there with sentence-transformers")
DENSE_WEIGHTS = Expected("the weights of a Dense module", "save the model there with sentence-transformers")
TRANSFORMER, POOLING, NORMALIZE, DENSE = "Transformer", "Pooling", "Normalize", "Dense"
LIBRARY, CONFIG = "sentence_transformers.", "config.json"
EMBEDDING = "sentence_embedding"
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
    """`Modules` says how hidden states `[B, T, width]` become one vector `[B, D]`.

    Attributes:
      pooling: a name in `qtx.models.pooling.POOLINGS`, or several with `+` between.
      normalize: whether the vector is divided by its L2 norm.
      left_out: the kinds of modules that follow and change the vector further, which qtx does not compute; the first
        may say why.
      modules: what is between the pooling and the last normalization, as `qtx.models.embedding` has it.
      include_prompt: whether the tokens of a prompt are pooled.
      dense: the folders of the dense layers in `modules`.
    """

    pooling: str
    normalize: bool
    left_out: tuple[str, ...] = ()
    modules: str = ""
    include_prompt: bool = True
    dense: tuple[Path, ...] = ()

    def options(self) -> dict[str, Any]:
        """Returns the options of a model's config that say the same."""
        return {name: getattr(self, name) for name in ("pooling", "normalize", "modules", "include_prompt")}


def read_modules(folder: str | Path) -> Modules:
    """Reads the pooling and what follows of a sentence-transformers folder, up to the first module that qtx does not
    compute.

    Raises:
      QtxError: if a file is missing or broken, the modules do not begin with a Transformer and its Pooling, or the
        pooling is one that sentence-transformers does not have.
    """
    folder = Path(folder)
    modules = module_list(folder)
    kinds = [kind.rpartition(".")[2] for kind, _ in modules]
    # A class of another library may have such a name, too.
    own = [kind.startswith(LIBRARY) for kind, _ in modules]
    if kinds[:2] != [TRANSFORMER, POOLING] or not all(own[:2]):
        raise QtxError(
            f"{folder / MODULES} has the modules {', '.join(kind for kind, _ in modules)}: expected those of "
            "sentence-transformers called Transformer and Pooling, and then any"
        )
    path = modules[1][1] / CONFIG
    values = read_json(path, EXPECTED)
    found: list[Module] = []
    dense: list[Path] = []
    left_out: list[str] = []
    for kind, of_library, (_, place) in list(zip(kinds, own, modules, strict=True))[2:]:
        if of_library and kind in OF_TRAINING:
            continue
        module, why = READERS[kind](place) if of_library and kind in READERS and not left_out else (None, "")
        if module is None:
            left_out.append(f"{kind} ({why})" if why else kind)
            continue
        found.append(module)
        dense += [place] if isinstance(module, Dense) else []
    normalize = bool(found) and isinstance(found[-1], Normalize)
    text = modules_text(tuple(found[:-1] if normalize else found))
    include_prompt = values.get("include_prompt", True) is not False
    return Modules(_pooling(values, path), normalize, tuple(left_out), text, include_prompt, tuple(dense))


def _pooling(values: dict[str, Any], path: Path) -> str:
    flagged = [mode for flag, mode in FLAGS.items() if values.get(flag, mode == "mean") is True]
    chosen = values.get("pooling_mode", flagged)
    chosen = [chosen] if isinstance(chosen, str) else chosen
    if not isinstance(chosen, list) or not chosen or not all(isinstance(x, str) and x in POOLINGS for x in chosen):
        raise QtxError(f"{path}: the pooling mode is {str(chosen)[:100]}; qtx has {', '.join(POOLINGS)}")
    return SEPARATOR.join(chosen)


def _normalize(folder: Path) -> tuple[Normalize | None, str]:
    values = read_json(folder / CONFIG, EXPECTED) if (folder / CONFIG).is_file() else {}
    elsewhere = _elsewhere(values)
    return (None, elsewhere) if elsewhere else (Normalize(), "")


def _dense(folder: Path) -> tuple[Dense | None, str]:
    """Returns a Dense module, or why qtx does not compute it."""
    values = read_json(folder / CONFIG, EXPECTED)
    name = str(values.get("activation_function", "torch.nn.Tanh"))
    library, activation = name.startswith("torch.nn."), name.rpartition(".")[2]
    if not library or activation not in ACTIVATIONS:
        return None, f"with {name[:100]}"
    if values.get("use_residual"):
        return None, "with a residual"
    if elsewhere := _elsewhere(values):
        return None, elsewhere
    if not (folder / WEIGHTS).exists():
        return None, f"without {WEIGHTS}"
    outputs, bias = values.get("out_features"), values.get("bias", True)
    if not isinstance(outputs, int) or isinstance(outputs, bool) or not isinstance(bias, bool):
        raise EXPECTED.refusal(folder / CONFIG, f"out_features is {outputs!r:.100}, bias is {bias!r:.100}")
    return Dense(outputs, activation, bias), ""


def _elsewhere(values: Mapping[str, Any]) -> str:
    """Says which other vector than the embedding a module reads or writes; empty: none."""
    named = [values.get(key) for key in ("module_input_name", "module_output_name")]
    return next((f"of {name!s:.100}" for name in named if name not in (None, EMBEDDING)), "")


READERS: dict[str, Callable[[Path], tuple[Module | None, str]]] = {NORMALIZE: _normalize, DENSE: _dense}


def embeddings(hidden: np.ndarray, counted: np.ndarray, modules: Modules, folder: Path) -> np.ndarray:
    """Returns what modules make of hidden states `[N, T, width]`, of whichever model: float32 `[N, D]`.

    Args:
      hidden: the states.
      counted: which of the tokens are pooled, `[N, T]`.
      modules: the modules.
      folder: the sentence-transformers folder that has the weights of their dense layers.

    Raises:
      QtxError: if the folder lacks these weights, or has others.
    """
    head = EmbeddingHead(modules.pooling, modules_of(modules.modules), modules.normalize)
    rows, params = dense_rows(modules.modules), {}
    if rows:
        shapes = nn.unbox(jax.eval_shape(head.init, jax.random.key(0), hidden[:1], counted[:1])["params"])
        tensors = {name: tensor for file in dense_files(folder).values() for name, tensor in file.items()}
        params = import_weights(rows, tensors, {"head": shapes}, {}, str(folder))["head"]
    with jax.default_matmul_precision("highest"):
        return np.asarray(head.apply({"params": params}, hidden, counted))


def dense_rows(modules: str) -> list[Weight]:
    """Returns the rows of the table of weights for the dense layers in a config's `modules`; the names begin with the
    number of the layer: `Dense.0.linear.weight`."""
    layers = [module for module in modules_of(modules) if isinstance(module, Dense)]
    return [
        row
        for number, layer in enumerate(layers)
        for row in dense_weights(f"{DENSE}.{number}.linear", f"head/dense_{number}", bias=layer.bias)
    ]


def dense_files(folder: Path) -> dict[str, dict[str, StoredTensor]]:
    """Opens the weights of the dense layers that qtx computes of a folder: a file's path in the folder to its tensors,
    by the names of `dense_rows`.

    Raises:
      QtxError: if a file is missing or broken.
    """
    files = {}
    for number, place in enumerate(read_modules(folder).dense):
        tensors = read_safetensors(place / WEIGHTS, DENSE_WEIGHTS)
        own = {f"{DENSE}.{number}.{name}": tensor for name, tensor in tensors.items()}
        files[str((place / WEIGHTS).relative_to(folder))] = own
    return files
