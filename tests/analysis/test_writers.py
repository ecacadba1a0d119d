"""A planted writer of spikes is found, by its activation and its column together."""

from __future__ import annotations

import jax
import numpy as np

from qtx.analysis.writers import spike_writers
from qtx.anatomy import read
from qtx.families import build
from qtx.models import LlamaConfig

CONFIG = LlamaConfig(
    num_layers=3, width=12, num_heads=2, num_kv_heads=1, mlp_width=16, vocab_size=17, max_length=8, init_std=0.3
)


def test_a_planted_writer_is_the_first_and_says_where_it_writes():
    module = build(CONFIG)
    batch = {"tokens": np.arange(14, dtype=np.int32).reshape(2, 7), "mask": np.ones((2, 7), bool)}
    params = module.init(jax.random.key(0), batch)["params"]
    params = jax.tree.map(lambda x: getattr(x, "value", x), params, is_leaf=lambda x: hasattr(x, "value"))
    mlp = params["layers"]["mlp"]
    mlp["out"]["kernel"] = mlp["out"]["kernel"].at[1, 5, 9].set(40.0)
    # A column that is as large, behind a unit that is never on, writes nothing.
    mlp["out"]["kernel"] = mlp["out"]["kernel"].at[2, 3, 9].set(40.0)
    mlp["in"]["kernel"] = mlp["in"]["kernel"].at[2, :, 3].set(0.0)
    first, *others = spike_writers(module, params, [batch, batch], read(module, batch))
    assert (first.site, first.layer, first.unit, first.dimension) == ("layers/mlp/hidden", 1, 5, 9)
    assert len(others) == 3 * 16 - 1 and first.ratio > 10 * others[0].ratio
    assert all((one.layer, one.unit) != (2, 3) or one.write == 0 for one in others)
