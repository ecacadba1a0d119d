"""Gates predict an openness in (0, 1), per head and token, or per head, dimension and token, from what the attention
reads. A new one is a file here and a line in `GATES`; it is a `PerHeadGate` or a `DenseGate`."""

from qtx.attention.gates.all_heads_linear import AllHeadsLinearGate
from qtx.attention.gates.base import DenseGate, Gate, PerHeadGate
from qtx.attention.gates.elementwise import ElementwiseGate
from qtx.attention.gates.headwise import HeadwiseGate
from qtx.attention.gates.linear import LinearGate
from qtx.attention.gates.mlp import MlpGate

GATES: dict[str, type[Gate]] = {
    "linear": LinearGate,
    "mlp": MlpGate,
    "all_heads_linear": AllHeadsLinearGate,
    "headwise": HeadwiseGate,
    "elementwise": ElementwiseGate,
}

__all__ = [
    "GATES",
    "AllHeadsLinearGate",
    "DenseGate",
    "ElementwiseGate",
    "Gate",
    "HeadwiseGate",
    "LinearGate",
    "MlpGate",
    "PerHeadGate",
]
