"""Named recipes. A new one is a file here and a line in `RECIPES`.

A recipe is a function (model config, weight quantizer, activation quantizer) -> `Recipe`.
"""

from qtx.quantization.recipes.paper import paper_bert, paper_opt, paper_vit

RECIPES = {
    "paper_bert": paper_bert,
    "paper_opt": paper_opt,
    "paper_vit": paper_vit,
}

__all__ = ["RECIPES"]
