"""A diagnosis says what stands between one model and its integers, in findings that a page or a few lines can show."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from qtx.analysis.head_map import HeadMap, head_map, patch_name
from qtx.analysis.observation import Observation
from qtx.analysis.sensitivity import Sweep
from qtx.foundation.storage import sealed_json, write_whole

FILE = "diagnosis.json"
OUTLIER_RATIO = 6.0
"""A dimension is an outlier when its largest magnitude is more than this many times the root mean square of the median
dimension. A few large dimensions do not move this measure, even in a narrow model or at every token."""
NAMED = 8
"""The most dimensions, tokens and positions that a finding names."""
IDLE = 0.3
"""A head does nothing if at least this share of its attention goes to an emptied value (see `HeadRole.parked`)."""
QUIET = 0.2
"""A head does nothing if the length of its output is at most this share of the mean of its layer's heads."""

REGISTER = "(no token)"
"""The name of a position that a model adds to those of a text."""

TokenText = Callable[[int], str]
"""A function from token id to text."""


@dataclasses.dataclass(frozen=True)
class Outliers:
    """The largest values of one tensor.

    Attributes:
      path: the site's path.
      layer: the layer, from 0; None outside the layers.
      norm: the infinity norm, averaged over examples as in the paper.
      sigmas: the largest distance from an example's mean in its standard deviations, averaged over examples.
      typical: the root mean square of the median dimension, among the dimensions that are not always 0.
      token_share: the share of tokens with a value of more than `OUTLIER_RATIO` times `typical`.
      dimensions, tokens, positions: the places of such values, with the largest magnitude; the largest first. Empty:
        the tensor has no outliers. Images have no tokens.
      carried: whether the tensor is a sum, which has the outliers of its terms.
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
    carried: bool

    @property
    def name(self) -> str:
        """Returns the tensor's name, e.g. `layers/mlp/out[2]`."""
        return self.path if self.layer is None else f"{self.path}[{self.layer}]"


@dataclasses.dataclass(frozen=True)
class HeadRole:
    """The role of one attention head, averaged over examples.

    Attributes:
      layer, head: which head, from 0; the layer is one of `Observation.layers`.
      attention: the name of the attention layer, e.g. `"layers/attention[2]"`.
      sink_mass: the attention that the head's favourite token gets, averaged over all tokens that attend.
      value_drain: the length of the favourite token's value over the mean of the others'; 1 = not emptied.
      output: the length of the head's output for a token, over the mean of its layer's heads.
      tokens, positions: the favourites, and in how many examples; the most frequent first.
    """

    layer: int
    head: int
    attention: str
    sink_mass: float
    value_drain: float
    output: float
    tokens: dict[str, int]
    positions: dict[str, int]

    @property
    def name(self) -> str:
        """Returns the head's name, e.g. `layers/attention[2], head 0`."""
        return f"{self.attention}, head {self.head}"

    @property
    def parked(self) -> float:
        """Returns the share of the head's attention that adds nothing: it goes to a token whose value is emptied."""
        return self.sink_mass * max(1 - self.value_drain, 0.0)

    @property
    def does_nothing(self) -> bool:
        """Says whether the head parks much of its attention (`IDLE`), or adds next to nothing (`QUIET`)."""
        return self.parked >= IDLE or self.output <= QUIET


@dataclasses.dataclass(frozen=True)
class Spiking:
    """A hidden unit that writes, or erases, a spike (`qtx.analysis.writers`), and what scaling it down would do.

    Attributes:
      name: the unit's name, e.g. `"layers/mlp/hidden[11], unit 1229"`.
      dimension: the dimension of the residual stream that it writes most into.
      write: the largest magnitude of what it adds there at one token.
      ratio: how many times the median unit of its layer writes.
      floating, quantized: the metric with the unit scaled to a tenth, in floating point and under the scheme.
    """

    name: str
    dimension: int
    write: float
    ratio: float
    floating: float
    quantized: float


@dataclasses.dataclass(frozen=True)
class Measured:
    """A model's metric and loss on held-out data; for fidelity, the loss is the outputs' relative squared error."""

    metric: float
    loss: float


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """The findings about one model.

    Attributes:
      name, model, data: what was diagnosed, in words.
      examples, length: how many examples were measured on, and how many tokens (or patches) each has.
      metric, lower_is_better: the metric of what quantization costs, and whether lower is better.
      scheme: the scheme of `methods` and `sweep`, e.g. `"w8a8"`.
      outliers: the largest values of every tensor and layer, the largest norms first.
      heads: the roles of all heads, those that park most first.
      ladder: the measurements of `"fp"` and of every scheme.
      methods: the measurements of the ways to quantize to `scheme`, by name, the config's own first.
      left_out: ways to quantize that do not fit the model, and why.
      writers: the hidden units that write most, if any writes a spike.
      sweep: the tensors that cost most under `scheme`; with `thorough`, all.
      thorough: whether all tensors were measured, and not only the costliest.
      reach: for figures: name of a tensor to the largest magnitude of each dimension `[D]`.
      maps: for figures: the attention of the heads that park most.
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
    writers: tuple[Spiking, ...]
    sweep: Sweep
    thorough: bool
    reach: dict[str, np.ndarray] = dataclasses.field(repr=False)
    maps: tuple[HeadMap, ...] = dataclasses.field(repr=False)


def save_diagnosis(diagnosis: Diagnosis, workdir: Path) -> Path:
    """Writes diagnosis.json, whole or not at all: all findings but those for figures alone."""
    findings = dataclasses.asdict(dataclasses.replace(diagnosis, reach={}, maps=()))
    write_whole({workdir / FILE: sealed_json({k: v for k, v in findings.items() if k not in ("reach", "maps")})})
    return workdir / FILE


def find_outliers(observation: Observation, text: TokenText) -> tuple[Outliers, ...]:
    """Finds the largest values of every tensor and layer, the largest norms first."""
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
                    carried=path in observation.sums,
                )
            )
    return tuple(sorted(found, key=lambda one: -one.norm))


def find_heads(observation: Observation, text: TokenText) -> tuple[HeadRole, ...]:
    """Finds the role of every head, those that park most first."""
    heads, tokens = observation.heads, observation.tokens
    output = heads["output"].mean(axis=1)
    relative = output / np.maximum(output.mean(axis=1, keepdims=True), 1e-12)

    def role(layer: int, head: int) -> HeadRole:
        sinks = heads["sink"][layer, :, head]
        favourites = []
        if tokens is not None:
            real = observation.real
            favourites = [text(int(tokens[s, p])) if real[s, p] else REGISTER for s, p in enumerate(sinks)]
        return HeadRole(
            layer=layer,
            head=head,
            attention=observation.layers[layer],
            sink_mass=float(heads["sink_mass"][layer, :, head].mean()),
            value_drain=float(heads["value_drain"][layer, :, head].mean()),
            output=float(relative[layer, head]),
            tokens=dict(Counter(favourites).most_common(NAMED)),
            positions=dict(Counter(_place(observation, int(sink)) for sink in sinks).most_common(NAMED)),
        )

    return tuple(sorted((role(*place) for place in np.ndindex(relative.shape)), key=lambda role: -role.parked))


def find_map(observation: Observation, role: HeadRole, text: TokenText) -> HeadMap:
    """Returns the attention of a head on the example that is shown; of a text only the first tokens."""
    of_layer = {name: x[role.layer] for name, x in observation.shown.items()}
    tokens = None if observation.tokens is None else observation.tokens[observation.example]
    return head_map(role.layer, role.head, of_layer, observation.real[observation.example], tokens, text)


def _place(observation: Observation, position: int) -> str:
    return patch_name(position) if observation.tokens is None else str(position)


def _by_token(values: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Computes the largest of the values `[S, T]` at each token id, `[V]`."""
    largest = np.zeros(tokens.max() + 1, values.dtype)
    np.maximum.at(largest, tokens, values)
    return largest


def _largest(values: np.ndarray) -> dict[int, float]:
    """Finds the largest positive values, at most `NAMED` of them: index to value, the largest first."""
    order = np.argsort(-values, kind="stable")[:NAMED]
    return {int(index): float(values[index]) for index in order if values[index] > 0}
