"""Gates: one openness in (0, 1) per head and token, predicted from the attention layer's input. A new one is a file
here and a line in `GATES`.

A gate is a frozen dataclass of its options (see `Gate`) with

    shapes(num_heads, head_dim) -> {parameter name: shape}      "bias" is the output bias that pi sets
    __call__(parameters, x [B, T, H, D]) -> logits [B, T, H]
"""

from qtx.attention.gates.all_heads_linear import AllHeadsLinearGate
from qtx.attention.gates.base import Gate
from qtx.attention.gates.linear import LinearGate
from qtx.attention.gates.mlp import MlpGate

GATES: dict[str, type[Gate]] = {
    "linear": LinearGate,
    "mlp": MlpGate,
    "all_heads_linear": AllHeadsLinearGate,
}

__all__ = ["GATES", "AllHeadsLinearGate", "Gate", "LinearGate", "MlpGate"]
