"""Parts of a tensor, as model families pack them: what NumPy's slices say."""

from __future__ import annotations

import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from qtx.families.weights import SAME, Layout, Weight, export_weights, import_weights, packed_weights
from qtx.foundation.errors import QtxError

IN, HEADS, SIZE = 5, 2, 3
Q, KV = HEADS * SIZE, SIZE
# [H, (q | gate), size] rows, as Qwen3-Next has them, <-> the queries of all heads and then their gates.
BY_HEAD = Layout(
    lambda x: x.reshape(HEADS, 2, SIZE, IN).transpose(3, 1, 0, 2).reshape(IN, -1),
    lambda x: x.reshape(IN, 2, HEADS, SIZE).transpose(2, 1, 3, 0).reshape(-1, IN),
)
FUSED = {"weight": (3 * Q, IN), "bias": (3 * Q,)}
STORED = {
    "thirds": {
        "0.qkv.weight": (3 * Q, IN),
        "0.qkv.bias": (3 * Q,),
        "1.qkv.weight": (3 * Q, IN),
        "1.qkv.bias": (3 * Q,),
    },
    "fewer keys than queries": {"qkv.weight": (Q + 2 * KV, IN), "qkv.bias": (Q + 2 * KV,)},
    "columns": {"c_attn.weight": (IN, 3 * Q)},
    "by head": {"q_proj.weight": (2 * Q, IN)},
    "from the third row on": {"positions": (6, IN)},
}
TABLES = {
    "thirds": packed_weights("{layer}.qkv", {"q": Q, "k": Q, "v": Q}),
    "fewer keys than queries": packed_weights("qkv", {"q": Q, "k": KV, "v": KV}),
    "columns": [Weight("c_attn.weight", name, SAME, i * Q) for i, name in enumerate("qkv")],
    "by head": [Weight("q_proj.weight", "q", BY_HEAD), Weight("q_proj.weight", "gate", BY_HEAD, Q)],
    "from the third row on": [Weight("positions", "table", begin=2, axis=0)],
}


def expected(name, x):
    """The parameters, by NumPy's slices alone."""
    match name:
        case "thirds":
            kernel, bias = (np.stack([x[f"{i}.qkv.{kind}"] for i in range(2)]) for kind in ("weight", "bias"))
            rows = {"q": slice(0, 6), "k": slice(6, 12), "v": slice(12, 18)}
            kernels = {f"{name}/kernel": kernel[:, part].transpose(0, 2, 1) for name, part in rows.items()}
            return kernels | {f"{name}/bias": bias[:, part] for name, part in rows.items()}
        case "fewer keys than queries":
            rows = {"q": slice(0, 6), "k": slice(6, 9), "v": slice(9, 12)}
            kernels = {f"{name}/kernel": x["qkv.weight"][part].T for name, part in rows.items()}
            return kernels | {f"{name}/bias": x["qkv.bias"][part] for name, part in rows.items()}
        case "columns":
            return {"q": x["c_attn.weight"][:, :6], "k": x["c_attn.weight"][:, 6:12], "v": x["c_attn.weight"][:, 12:]}
        case "by head":
            rows = x["q_proj.weight"]
            return {
                "q": np.concatenate([rows[0:3], rows[6:9]]).T,
                "gate": np.concatenate([rows[3:6], rows[9:12]]).T,
            }
        case "from the third row on":
            return {"table": x["positions"][2:]}


@pytest.mark.parametrize("name", STORED)
def test_parts_are_those_of_numpys_slices_and_go_back_to_their_places(name):
    rng = np.random.default_rng(0)
    stored = {key: rng.normal(size=shape).astype(np.float32) for key, shape in STORED[name].items()}
    wanted = expected(name, stored)
    sizes = {"layer": 2}
    params = import_weights(TABLES[name], stored, unflatten_dict(wanted, sep="/"), sizes, "a file")
    found = flatten_dict(params, sep="/")
    assert found.keys() == wanted.keys()
    for path in wanted:
        np.testing.assert_array_equal(found[path], wanted[path])
    for original in (stored, None):
        again = export_weights(TABLES[name], params, sizes, original)
        assert again.keys() == stored.keys()
        for key, x in stored.items():
            rest = 2 if name == "from the third row on" and original is None else 0
            np.testing.assert_array_equal(again[key][rest:], x[rest:])
            assert not again[key][:rest].any()


def test_an_original_of_another_shape_is_refused():
    params = {"table": np.ones((4, IN), np.float32)}
    with pytest.raises(QtxError, match="positions has another shape in the original"):
        export_weights(TABLES["from the third row on"], params, {}, {"positions": np.ones((7, IN), np.float32)})
