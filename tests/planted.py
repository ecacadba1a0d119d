"""The disease, planted by hand in small models of random weights: a first token that one head parks on, and for which
one feed-forward network has one enormous output."""

from __future__ import annotations

import jax
import numpy as np

LAYER, DIMENSION, HEAD = 1, 9, 2
"""Where it is; the head is in layer 0."""
HEADS = 4
HIDDEN = 7


def planted(params, first):
    """Parameters of a pre-LN model.

    The first token's embedding is nearly all in feature 0, so that after LayerNorm it holds there the root of the
    width, which no other token comes near.

    Args:
      params: of OPT or ViT, of at least two layers, unboxed.
      first: identity of the token; ViT has its own.
    """
    params = jax.tree.map(lambda x: np.array(x), params)
    embeddings, layers = params["embeddings"], params["layers"]
    token = embeddings["class_token"] if "class_token" in embeddings else embeddings["words"]["embedding"][first]
    token[0] = 30
    for norm in ("attention_norm", "mlp_norm"):
        layers[norm]["scale"][:], layers[norm]["bias"][:] = 1, 0
    width = len(token)
    size = width // HEADS
    of_head = slice(HEAD * size, (HEAD + 1) * size)
    query, key, value = (layers["attention"][name] for name in ("query", "key", "value"))
    for projection in (query, key):
        projection["kernel"][0, :, of_head] = 0
        projection["bias"][0, of_head] = 0
    query["bias"][0, of_head] = 2
    key["kernel"][0, 0, of_head] = 1
    value["kernel"][0, 0, of_head] = 0
    value["bias"][0, of_head] = 0
    inner, outer = layers["mlp"]["in"], layers["mlp"]["out"]
    inner["kernel"][LAYER, :, HIDDEN] = 0
    inner["kernel"][LAYER, 0, HIDDEN] = 10
    inner["bias"][LAYER, HIDDEN] = -9 * np.sqrt(width)
    outer["kernel"][LAYER, HIDDEN, DIMENSION] = 100
    return params
