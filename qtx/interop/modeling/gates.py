"""Gates in PyTorch: the lines of code that make their parameters, and those that compute `logits`.

Parameters have the names that `qtx.families.attention_weights` gives them, after `own`: an official gate's are `alpha`,
another's `gate_predictor`, a dictionary by name for a per-head gate, which also gives its own lines.
"""

from __future__ import annotations

from qtx.attention.gates import DenseGate, Gate, LinearGate, MlpGate, PerHeadGate
from qtx.families.attention_weights import OFFICIAL


def parameters(gate: Gate, own: str, heads: int, head_dim: int) -> str:
    """Returns the lines that make a gate's parameters."""
    if type(gate) is LinearGate:
        return f"{own}.alpha = nn.ModuleList(nn.Linear(HEAD_DIM, 1) for _ in range(HEADS))"
    if type(gate) is MlpGate:
        mlp = f"nn.Sequential(nn.Linear(HEAD_DIM, {gate.hidden}), nn.ReLU(), nn.Linear({gate.hidden}, 1))"
        return f"{own}.alpha = nn.ModuleList(\n    {mlp} for _ in range(HEADS)\n)"
    if isinstance(gate, DenseGate):
        features = "HEADS" if gate.logits_per_head(head_dim) == 1 else "HEADS * HEAD_DIM"
        return f"{_dense(gate, own)} = nn.Linear(HEADS * HEAD_DIM, {features}, bias={gate.initial_bias is not None})"
    assert isinstance(gate, PerHeadGate)
    made = {name: parameter.shape for name, parameter in gate.parameters(heads, head_dim).items()}
    lines = "".join(f'\n    "{name}": torch.zeros({shape}),' for name, shape in made.items())
    return f"{own}.gate_predictor = nn.ParameterDict({{{lines}\n}})"


def logits(gate: Gate, own: str) -> str:
    """Returns the lines that compute `logits` of `x`, `[B, T, width]`."""
    if isinstance(gate, DenseGate):
        return f"logits = {_dense(gate, own)}(x).unflatten(-1, (HEADS, -1))"
    assert isinstance(gate, PerHeadGate)
    return f"x = x.unflatten(-1, (HEADS, HEAD_DIM))\n{gate.pytorch(own)}"


def _dense(gate: DenseGate, own: str) -> str:
    return f"{own}.alpha" if type(gate) in OFFICIAL else f"{own}.gate_predictor"
