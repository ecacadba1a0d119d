"""Which tensors of each model family the paper measures, and capturing them from a module in one forward pass."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection, Mapping
from typing import Any

import flax.linen as nn
import jax

from qtx import sites
from qtx.foundation.batch import Batch
from qtx.models import MODELS, Opt
from qtx.quantization import Quantized, exact


@dataclasses.dataclass(frozen=True)
class MeasuredSites:
    """What the outlier metrics of a family are taken over.

    Attributes:
      infinity_norm: the site whose largest infinity norm over the layers is the paper's "max infinity norm".
      kurtosis: site to the official code's name of its tensor; the average over all of them is the paper's "average
        kurtosis".
      norms_only: as `kurtosis`, for further tensors of which the official code reports the infinity norm alone.
      maxima: the official code's summary name to the sites that the maximum of the infinity norms is over.
      causal: whether a query sees only what is before it.
    """

    infinity_norm: str
    kurtosis: Mapping[str, str]
    norms_only: Mapping[str, str]
    maxima: Mapping[str, tuple[str, ...]]
    causal: bool

    @property
    def tensors(self) -> dict[str, str]:
        """Every measured site to its official name."""
        return {**self.kurtosis, **self.norms_only}


_BERT_LAYER = "bert.encoder.layer.{layer}"
_OPT_LAYER = "model.decoder.layers.{layer}"
_OPT_TENSORS = {
    "final_norm": "model.decoder.final_layer_norm",
    "layers/mlp_residual": _OPT_LAYER,
    "layers/mlp/out": f"{_OPT_LAYER}.fc2",
    "layers/mlp_norm": f"{_OPT_LAYER}.final_layer_norm",
    "layers/attention/out": f"{_OPT_LAYER}.self_attn.out_proj",
    "layers/attention_norm": f"{_OPT_LAYER}.self_attn_layer_norm",
}
_PRE_NORM_MAXIMA = {
    "max_inf_norm": tuple(_OPT_TENSORS),
    "max_ffn_inf_norm": ("layers/mlp/out",),
    "max_layer_inf_norm": ("layers/mlp_residual",),
}

MEASURED_SITES = {
    "bert": MeasuredSites(
        infinity_norm="layers/mlp/out",
        kurtosis={
            "layers/mlp/out": f"{_BERT_LAYER}.output.dense",
            "layers/mlp_norm": f"{_BERT_LAYER}.output.LayerNorm",
        },
        norms_only={"layers/mlp_residual": f"{_BERT_LAYER}.output.LayerNorm.input"},
        maxima={
            "max_ffn_out_inf_norm": ("layers/mlp/out",),
            "max_LN_out_inf_norm": ("layers/mlp_norm",),
            "max_LN_inp_inf_norm": ("layers/mlp_residual",),
        },
        causal=False,
    ),
    "opt": MeasuredSites(
        infinity_norm="layers/mlp_residual", kurtosis=_OPT_TENSORS, norms_only={}, maxima=_PRE_NORM_MAXIMA, causal=True
    ),
    # The authors published no ViT code; the paper measures it as OPT, by the layer outputs. The names are qtx's own.
    "vit": MeasuredSites(
        infinity_norm="layers/mlp_residual",
        kurtosis={site: site if site == "final_norm" else f"{site}.{{layer}}" for site in _OPT_TENSORS},
        norms_only={},
        maxima=_PRE_NORM_MAXIMA,
        causal=False,
    ),
}
"""Model family, as in `qtx.models.MODELS`, to what is measured of it."""

POST_NORM_OPT = MeasuredSites(
    infinity_norm="layers/mlp_norm",
    kurtosis={
        "layers/mlp_norm": _OPT_LAYER,
        **{site: _OPT_TENSORS[site] for site in ("layers/mlp/out", "layers/attention/out", "layers/attention_norm")},
    },
    norms_only={"layers/mlp_residual": f"{_OPT_LAYER}.final_layer_norm.input"},
    maxima={"max_ffn_inf_norm": ("layers/mlp/out",), "max_layer_inf_norm": ("layers/mlp_norm",)},
    causal=True,
)
"""OPT-350m's kind: a layer's output is its last LayerNorm's, and there is no final one."""


def family_of(module: nn.Module) -> str:
    """The name in `qtx.models.MODELS` of a module's family."""
    return next(name for name, (cls, _) in MODELS.items() if type(module) is cls)


def measured_sites(module: nn.Module) -> MeasuredSites:
    """What is measured of a module."""
    if isinstance(module, Opt) and not module.config.pre_norm:
        return POST_NORM_OPT
    return MEASURED_SITES[family_of(module)]


@functools.partial(jax.tree_util.register_dataclass, data_fields=["params"], meta_fields=["module"])
@dataclasses.dataclass(frozen=True)
class FloatingPoint:
    """A module with its unboxed parameters: what `qtx.quantization.Quantized` is compared with, and so in float32 like
    it, that the difference is what the integers cost, and not bfloat16."""

    module: nn.Module
    params: Any

    def apply(self, batch: Batch, **kwargs: Any) -> Any:
        return exact.apply(self.module, {"params": self.params}, batch, **kwargs)


Model = FloatingPoint | Quantized
"""What can be analysed. Both are pytrees whose module is static: pass them to compiled functions as arguments."""


def capture(model: Model, batch: Batch, paths: Collection[str], step: Any = None) -> dict[str, jax.Array]:
    """Runs the model and returns what its sites held, each with a leading layer axis. To be called under `jax.jit`.

    A site that the model does not have (such as `layers/attention/gate` without a gate) is left out.

    Args:
      model: in floating point or quantized; sites of a quantized model hold rounded values.
      batch: see the module.
      paths: of the sites, e.g. `"layers/mlp/out"`.
      step: training step, for normalizers that anneal; None: fully trained.
    """
    return sites.capture(model.apply, paths, dict(batch), train=False, step=step)[1]
