"""The family ViT."""

from __future__ import annotations

from qtx.families.checkpoints import timm, vit
from qtx.families.family import Family, MeasuredSites
from qtx.families.opt import PRE_NORM
from qtx.models import Vit, VitConfig

# The authors published no ViT code; the paper measures ViT as OPT, by the layer outputs. The names are qtx's own.
MEASURED = MeasuredSites(
    infinity_norm="layers/mlp_residual",
    kurtosis={site: site if site == "final_norm" else f"{site}.{{layer}}" for site in PRE_NORM.kurtosis},
    maxima=PRE_NORM.maxima,
)

VIT = Family(
    title="ViT",
    module=Vit,
    config=VitConfig,
    objectives=("classification", "distill"),
    heads={"classification": "classification"},
    measured=lambda config: MEASURED,
    recipe="paper_vit",
    checkpoints=(vit.CHECKPOINT, timm.CHECKPOINT),
    # A quarter of the built-in images' side.
    small=lambda config, sizes: {"patch_size": 2},
)
