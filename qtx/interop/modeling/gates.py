"""Gates in PyTorch: the lines of code that make their parameters, and those that compute `logits`.

Parameters have the names that `qtx.families.attention_weights` gives them, after `own`: an official gate's are `alpha`,
another's `gate_predictor`, a dictionary by name for a per-head gate, which also gives its own lines.
"""

from __future__ import annotations

from qtx.attention import AttentionSpec
from qtx.attention.gates import DenseGate, Gate, LinearGate, MlpGate, PerHeadGate
from qtx.families.attention_weights import OFFICIAL


def gated_heads(gate: Gate, spec: AttentionSpec) -> int:
    """Returns how many heads a gate is on: those of the values, or of the context."""
    return spec.kv_heads if gate.place == "values" else spec.num_heads


def parameters(gate: Gate, own: str, spec: AttentionSpec, width: int) -> str:
    """Returns the lines that make a gate's parameters, on hidden states of a width."""
    heads = gated_heads(gate, spec)
    head_dim = spec.head_dim or width // spec.num_heads
    if type(gate) is LinearGate:
        return f"{own}.alpha = nn.ModuleList(nn.Linear({width // heads}, 1) for _ in range({heads}))"
    if type(gate) is MlpGate:
        mlp = f"nn.Sequential(nn.Linear({width // heads}, {gate.hidden}), nn.ReLU(), nn.Linear({gate.hidden}, 1))"
        return f"{own}.alpha = nn.ModuleList(\n    {mlp} for _ in range({heads})\n)"
    if isinstance(gate, DenseGate):
        features = heads * gate.logits_per_head(head_dim)
        return f"{_dense(gate, own)} = nn.Linear({width}, {features}, bias={gate.initial_bias is not None})"
    assert isinstance(gate, PerHeadGate)
    made = {name: parameter.shape for name, parameter in gate.parameters(heads, width // heads).items()}
    lines = "".join(f'\n    "{name}": torch.zeros({shape}),' for name, shape in made.items())
    return f"{own}.gate_predictor = nn.ParameterDict({{{lines}\n}})"


def logits(gate: Gate, own: str, spec: AttentionSpec) -> str:
    """Returns the lines that compute `logits` of `x`, `[B, T, width]`."""
    split = f"unflatten(-1, ({gated_heads(gate, spec)}, -1))"
    if isinstance(gate, DenseGate):
        return f"logits = {_dense(gate, own)}(x).{split}"
    assert isinstance(gate, PerHeadGate)
    return f"x = x.{split}\n{gate.pytorch(own)}"


def _dense(gate: DenseGate, own: str) -> str:
    return f"{own}.alpha" if type(gate) in OFFICIAL else f"{own}.gate_predictor"
