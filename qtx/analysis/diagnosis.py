"""A diagnosis: what stands between one model and its integers, as findings that a page and a few lines can show."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from qtx.analysis.head_map import SHOWN_TOKENS, HeadMap
from qtx.analysis.observation import Observation
from qtx.analysis.sensitivity import Sweep
from qtx.foundation.storage import sealed_json, write_whole

FILE = "diagnosis.json"
OUTLIER_RATIO = 6.0
"""A dimension is an outlier when its largest magnitude is more than so many times the root mean square of the median
dimension: a measure that a few large dimensions do not move, even of a narrow model or at every token."""
NAMED = 8
"""Dimensions, tokens and positions that a finding names at most."""
IDLE = 0.3
"""Share of its attention from which on a head that gives it to an empty value is said to do nothing."""
QUIET = 0.2
"""What a head says to a token, as a share of what its layer's heads say on average, up to which it does nothing."""

TokenText = Callable[[int], str]
"""A token's identity to its text."""


@dataclasses.dataclass(frozen=True)
class Outliers:
    """The largest values of one tensor.

    Attributes:
      path: of the site.
      layer: from 0; None outside the layers.
      norm: the infinity norm, averaged over examples as in the paper.
      sigmas: the largest distance from an example's mean in its standard deviations, averaged over examples.
      typical: the root mean square of the median dimension, of those that are not always 0.
      token_share: of the tokens, those with a value of more than `OUTLIER_RATIO` times that.
      dimensions, tokens, positions: where such values are, with the largest magnitude; the largest first. None: the
        tensor has no outliers. Images have no tokens.
    """

    path: str
    layer: int | None
    norm: float
    sigmas: float
    typical: float
    token_share: float
    dimensions: dict[str, float]
    tokens: dict[str, float]
    positions: dict[str, float]

    @property
    def name(self) -> str:
        """`layers/mlp/out[2]`."""
        return self.path if self.layer is None else f"{self.path}[{self.layer}]"

    @property
    def carried(self) -> bool:
        """Whether it is a sum, which has the outliers of its terms."""
        return self.path.endswith(("_residual", "_sum", "/sum"))


@dataclasses.dataclass(frozen=True)
class HeadRole:
    """What an attention head does, averaged over examples.

    Attributes:
      layer, head: which, from 0.
      sink_mass: the attention that its favourite token gets from all.
      value_drain: the length of that token's value over the others' mean; 1 = not emptied.
      output: the length of what it says to a token, over the mean of its layer's heads.
      tokens, positions: the favourites, and in how many examples; the most frequent first.
    """

    layer: int
    head: int
    sink_mass: float
    value_drain: float
    output: float
    tokens: dict[str, int]
    positions: dict[str, int]

    @property
    def parked(self) -> float:
        """The share of its attention that adds nothing, for it goes to a token whose value is emptied."""
        return self.sink_mass * max(1 - self.value_drain, 0.0)

    @property
    def does_nothing(self) -> bool:
        """Whether it parks most of its attention, or adds next to nothing."""
        return self.parked >= IDLE or self.output <= QUIET


@dataclasses.dataclass(frozen=True)
class Measured:
    """A model's metric and loss on held-out data; of fidelity the loss is the relative squared error of the outputs."""

    metric: float
    loss: float


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """What was found of one model.

    Attributes:
      name, model, data: in words.
      examples, length: how many were measured on, and their tokens (or patches).
      metric, lower_is_better: what quantization costs.
      scheme: of `methods` and `sweep`, e.g. `"w8a8"`.
      outliers: of every tensor and layer, the largest norms first.
      heads: every one, those that park most first.
      ladder: `"fp"` and every scheme, as they were measured.
      methods: other ways to quantize to `scheme`, by the options that choose them.
      left_out: ways that do not fit the model, and why.
      sweep: the tensors that cost most under `scheme`; with `thorough`, all.
      thorough: whether all tensors were measured on all examples.
      reach: for figures: name of a tensor to the largest magnitude of each dimension `[D]`.
      maps: for figures: the attention of heads that do nothing.
    """

    name: str
    model: str
    data: str
    examples: int
    length: int
    metric: str
    lower_is_better: bool
    scheme: str
    outliers: tuple[Outliers, ...]
    heads: tuple[HeadRole, ...]
    ladder: dict[str, Measured]
    methods: dict[str, Measured]
    left_out: dict[str, str]
    sweep: Sweep
    thorough: bool
    reach: dict[str, np.ndarray] = dataclasses.field(repr=False)
    maps: tuple[HeadMap, ...] = dataclasses.field(repr=False)


def save_diagnosis(diagnosis: Diagnosis, workdir: Path) -> Path:
    """Writes diagnosis.json, whole or not at all: everything but what only figures show."""
    findings = dataclasses.asdict(dataclasses.replace(diagnosis, reach={}, maps=()))
    write_whole({workdir / FILE: sealed_json({k: v for k, v in findings.items() if k not in ("reach", "maps")})})
    return workdir / FILE


def find_outliers(observation: Observation, text: TokenText) -> tuple[Outliers, ...]:
    """The largest values of every tensor and layer, the largest norms first."""
    found = []
    for path, seen in observation.sites.items():
        for layer, (peak, reach, size) in enumerate(zip(seen["peak"], seen["reach"], seen["size"], strict=True)):
            typical = float(np.median(size[size > 0])) if size.any() else 0.0
            threshold = OUTLIER_RATIO * typical
            outlying = np.where(peak > threshold, peak, 0)
            tokens = {} if observation.tokens is None else _largest(_by_token(outlying, observation.tokens))
            found.append(
                Outliers(
                    path=path,
                    layer=layer if path in observation.stacked else None,
                    norm=float(peak.max(axis=1).mean()),
                    sigmas=float(seen["sigmas"][layer].mean()),
                    typical=typical,
                    token_share=float((outlying > 0).sum() / observation.real.sum()),
                    dimensions={str(d): value for d, value in _largest(np.where(reach > threshold, reach, 0)).items()},
                    tokens={text(token): value for token, value in tokens.items()},
                    positions={_place(observation, p): value for p, value in _largest(outlying.max(axis=0)).items()},
                )
            )
    return tuple(sorted(found, key=lambda one: -one.norm))


def find_heads(observation: Observation, text: TokenText) -> tuple[HeadRole, ...]:
    """What every head does, those that park most first."""
    heads, tokens = observation.heads, observation.tokens
    output = heads["output"].mean(axis=1)
    relative = output / np.maximum(output.mean(axis=1, keepdims=True), 1e-12)

    def role(layer: int, head: int) -> HeadRole:
        sinks = heads["sink"][layer, :, head]
        favourites = [] if tokens is None else [text(int(tokens[s, place])) for s, place in enumerate(sinks)]
        return HeadRole(
            layer=layer,
            head=head,
            sink_mass=float(heads["sink_mass"][layer, :, head].mean()),
            value_drain=float(heads["value_drain"][layer, :, head].mean()),
            output=float(relative[layer, head]),
            tokens=dict(Counter(favourites).most_common(NAMED)),
            positions=dict(Counter(_place(observation, int(sink)) for sink in sinks).most_common(NAMED)),
        )

    return tuple(sorted((role(*place) for place in np.ndindex(relative.shape)), key=lambda role: -role.parked))


def find_map(observation: Observation, role: HeadRole, text: TokenText) -> HeadMap:
    """The attention of a head on the example that is shown: of a text its first tokens."""
    shown, layer, head = observation.shown, role.layer, role.head
    length = int(observation.real[observation.example].sum())
    labels = [_place(observation, place) for place in range(length)]
    if observation.tokens is not None:
        length = min(length, SHOWN_TOKENS)
        labels = [text(int(token)) for token in observation.tokens[observation.example, :length]]
    return HeadMap(
        layer=layer,
        head=head,
        probs=shown["probs"][layer, head, :length, :length].astype(np.float32),
        value_norm=shown["value"][layer, :length, head],
        context_norm=shown["context"][layer, :length, head],
        openness=shown["openness"][layer, :length, head] if "openness" in shown else None,
        tokens=labels,
    )


def _place(observation: Observation, position: int) -> str:
    """A position in words: images begin with the class token, and so their patches count from 1."""
    return "class" if observation.tokens is None and position == 0 else str(position)


def _by_token(values: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """The largest of the values `[S, T]` at each token identity, `[V]`."""
    largest = np.zeros(tokens.max() + 1, values.dtype)
    np.maximum.at(largest, tokens, values)
    return largest


def _largest(values: np.ndarray) -> dict[int, float]:
    """Index to value of the largest positive ones, the largest first."""
    order = np.argsort(-values, kind="stable")[:NAMED]
    return {int(index): float(values[index]) for index in order if values[index] > 0}
