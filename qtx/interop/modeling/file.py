"""The text of `modeling_qtx.py`."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from typing import Any

from qtx.attention import attention_text
from qtx.families.stock import Stock
from qtx.foundation.errors import QtxError
from qtx.interop.modeling import gates

FILE = '''\
"""The attention of this model, written by qtx for transformers 5.23 or later: {attention}

    {auto}.from_pretrained(folder, trust_remote_code=True)
"""

import torch
from torch import nn
from transformers.models.{model_type} import modeling_{model_type} as stock

HEADS, HEAD_DIM = {heads}, {head_dim}


def softmax(scores, visible):
    """Over the visible keys; 0 at the others, and where there is none."""
    return scores.masked_fill(~visible, torch.finfo(scores.dtype).min).softmax(-1) * visible


class Attention(stock.{stock_attention}):
    """Of T queries to S keys, of hidden states `[B, T, {width}]`."""

{methods}


class Qtx:
    """A stock model with that attention."""

    def __init__(self, config, *args, **kwargs):
        config._attn_implementation = "eager"  # with whose masks Attention computes
        super().__init__(config, *args, **kwargs)
        config.attn_implementation = "{refused}"  # for when it is saved
{exchange}

    @classmethod
    def _can_set_attn_implementation(cls):
        return False


{classes}
'''

# Attributes that stock attention layers, and `Attention` above, have already.
TAKEN = (
    *("alpha", "attention_dropout", "config", "dropout", "gate", "gate_predictor", "head_dim", "is_causal"),
    *("layer_idx", "normalize", "num_heads", "out_proj", "o_proj", "scaling", "training"),
)

PREFIX = ("prefix_key", "prefix_value")
"""What stands before every text, `[K, P, D]`; every query sees it, whatever its mask and its cache."""
ARGUMENTS = {
    None: "attention_mask=None",
    "rotary": "position_embeddings=None, attention_mask=None",
    "bias": "attention_mask=None, position_bias=None",
}
"""How stock layers are told of positions -> the arguments of their attention after the first."""

NORMALIZE = '''
def normalize(self, scores, visible):
    """Probabilities `[B, HEADS, T, S]` of scores; `visible` broadcasts to them."""
'''

GATE = '''
def gate(self, x):
    """Factors on the heads, `[B, T, HEADS, 1 or HEAD_DIM]`, by hidden states x."""
'''


def rendered(config: Any, stock: Stock, model_type: str, beginning: str, refused: str) -> str:
    """Renders the file for a model.

    Args:
      config: the model's config.
      stock: the stock classes that the file is made from.
      model_type: the `model_type` in config.json.
      beginning: the beginning of the stock classes' names.
      refused: the `attn_implementation` in config.json, which the stock classes do not know.
    """
    classes = stock.of_auto(beginning)
    return FILE.format(
        attention=attention_text(config.attention),
        auto=next(iter(classes)),
        model_type=model_type.replace("-", "_"),
        heads=config.num_heads,
        width=config.width,
        head_dim=_head_dim(config),
        stock_attention=beginning + stock.attention,
        methods=_lines(1, _methods(config, stock)),
        refused=refused,
        exchange=_lines(2, _exchange(config, stock)),
        classes="\n\n\n".join(f"class {name}(Qtx, stock.{name}):\n    pass" for name in classes.values()),
    )


def _methods(config: Any, stock: Stock) -> Iterator[str]:
    normalizer, gate = config.attention.normalizer, config.attention.gate
    learned = list(_learned(config, stock))
    if learned:
        yield "def __init__(self, *args, **kwargs):"
        yield "    super().__init__(*args, **kwargs)"
        yield _lines(1, learned) + "\n"
    yield from _forward(config, stock)
    yield NORMALIZE + _lines(1, [normalizer.pytorch(stock.own)])
    if gate is not None:
        factor = "" if gate.scale == 1 else f"{gate.scale} * "
        openness = f"return {factor}torch.sigmoid(logits.float()).to(x.dtype)"
        yield GATE + _lines(1, [gates.logits(gate, stock.own, config.attention_spec), openness])


def _learned(config: Any, stock: Stock) -> Iterator[str]:
    normalizer, gate, heads = config.attention.normalizer, config.attention.gate, config.num_heads
    parameters = normalizer.parameters(heads)
    if stock.own != "self" and (parameters or gate is not None):
        yield f"{stock.own} = nn.Module()  # as the weights are named"
    if config.prefix:
        shape = (config.attention_spec.kv_heads, config.prefix, _head_dim(config))
        for name in PREFIX:
            yield f"self.{name} = nn.Parameter(torch.zeros{shape})"
    for name, parameter in parameters.items():
        if name in (*TAKEN, *stock.projections, stock.out):
            raise QtxError(
                f"the normalizer's parameter {name!r} has the name of something else in a PyTorch attention layer, "
                f"which it would replace: give it another in its class, e.g. {f'{name}_of_heads'!r}"
            )
        yield f"{stock.own}.{name} = nn.Parameter(torch.zeros({parameter.shape}))"
    if gate is not None:
        yield gates.parameters(gate, stock.own, config.attention_spec, config.width)


def _forward(config: Any, stock: Stock) -> Iterator[str]:
    gate, spec = config.attention.gate, config.attention_spec
    scale = "HEAD_DIM" if spec.score_dim is None else spec.score_dim
    place = None if gate is None else gate.place
    residual = _reads_residual(config)
    factors = f"self.gate({'residual' if residual else 'hidden_states'})"
    cached = stock.cached or stock.positions is None
    arguments = f"hidden_states, {ARGUMENTS[stock.positions]}{', past_key_values=None' * cached}"
    arguments += ", residual=None" * residual
    yield f"def forward(self, {arguments}, **kwargs):"
    if len(stock.projections) == 1:
        packed = f"self.{stock.projections[0]}(hidden_states)"
        yield f"    query, key, value = {packed}.unflatten(-1, (3, HEADS, HEAD_DIM)).unbind(-3)"
    else:
        yield f"    projections = {', '.join(f'self.{name}' for name in stock.projections)}"
        yield "    query, key, value = (layer(hidden_states).unflatten(-1, (-1, HEAD_DIM)) for layer in projections)"
    if stock.norms:
        yield "    query, key = self.{}(query), self.{}(key)".format(*stock.norms)
    if place == "values":
        yield f"    value = value * {factors}"
    yield "    query, key, value = (y.transpose(1, 2) for y in (query, key, value))"
    if stock.positions == "rotary":
        yield "    query, key = stock.apply_rotary_pos_emb(query, key, *position_embeddings)"
    if stock.cached:
        yield "    if past_key_values is not None:"
        yield "        key, value = past_key_values.update(key, value, self.layer_idx)"
    if config.prefix:
        key, value = PREFIX
        yield f"    of_prefix = (x.expand(len(key), -1, -1, -1) for x in (self.{key}, self.{value}))"
        yield "    key, value = (torch.cat(both, 2) for both in zip(of_prefix, (key, value)))"
        yield "    if attention_mask is not None:"
        yield f"        attention_mask = nn.functional.pad(attention_mask, ({config.prefix}, 0))"
    if spec.kv_heads != config.num_heads:
        yield "    key, value = (y.repeat_interleave(HEADS // y.shape[1], dim=1) for y in (key, value))"
    bias = " + position_bias" * (stock.positions == "bias")
    yield f"    scores = (query @ key.transpose(2, 3)).float() * {scale}**-0.5{bias}"
    yield "    visible = torch.ones_like(scores, dtype=torch.bool) if attention_mask is None else attention_mask == 0"
    yield "    probs = self.normalize(scores, visible)"
    yield f"    probs = nn.functional.dropout(probs, {stock.dropout}, self.training).to(value.dtype)"
    yield "    context = (probs @ value).transpose(1, 2)"
    if place == "context":
        yield f"    context = context * {factors}"
    context = "context.flatten(2)"
    out = stock.then.format(context if stock.out is None else f"self.{stock.out}({context})")
    yield f"    return {out}, probs"


def _exchange(config: Any, stock: Stock) -> Iterator[str]:
    yield f"for index, layer in enumerate(self.base_model.{stock.layers}):"
    yield f"    layer.{stock.place} = Attention({stock.made})"
    if _reads_residual(config):
        yield "    layer.register_forward_pre_hook("
        yield '        lambda layer, args, kwargs: (args, kwargs | {"residual": args[0]}), with_kwargs=True'
        yield "    )"
    yield from stock.more(config)


def _head_dim(config: Any) -> int:
    return config.attention_spec.head_dim or config.width // config.num_heads


def _reads_residual(config: Any) -> bool:
    """Says whether the gate reads something else than the projections do."""
    gate = config.attention.gate
    return gate is not None and gate.input == "residual" and config.pre_norm


def _lines(levels: int, lines: Iterable[str]) -> str:
    return textwrap.indent("\n".join(lines).strip("\n"), "    " * levels)
