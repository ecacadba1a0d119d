"""The options of a training run."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Self

import optax

from qtx.foundation.errors import QtxError
from qtx.foundation.limits import Checked, at_least, one_of, positive, within
from qtx.training.distillation import LAYERS
from qtx.training.optimizer import OPTIMIZERS, HyperParameters, Parameters, clip_weights, decay_mask
from qtx.training.penalties import complete_text, make_penalties
from qtx.training.schedules import SCHEDULES, learning_rate_schedule

# Metric of the held-out data -> its sign in a checkpoint's score, where higher is better.
BEST_METRICS = {"loss": -1, "perplexity": -1} | dict.fromkeys(
    (
        *("accuracy", "f1", "precision", "recall", "exact_match", "correlation", "rank_correlation"),
        *("fidelity", "centred_fidelity"),
    ),
    1,
)


@dataclasses.dataclass(frozen=True)
class TrainingConfig(Checked):
    """`TrainingConfig` says how a model is trained, whatever the model.

    Attributes:
      steps: number of optimizer updates.
      batch_size: examples per update, over all devices.
      accumulation_steps: microbatches per batch, computed one after the other; the update is that of the whole batch.
      optimizer: a name in `OPTIMIZERS`.
      learning_rate: the peak, reached after the warm-up.
      schedule: a name in `SCHEDULES`: what follows the warm-up.
      warmup_steps: updates over which the learning rate grows linearly from `initial_learning_rate`.
      initial_learning_rate, final_learning_rate: values (not fractions of the peak) at both ends of the run.
      beta1, beta2, epsilon: decay of the first and of the second moment, and what is added to the square root of the
        second, as far as the optimizer has them.
      weight_decay: decoupled; applied to kernels and embeddings, never to biases.
      decay_norm_scale: whether LayerNorm scales decay too. The paper's OPT cures do so and its OPT baseline does not:
        compare like with like.
      clip_norm: largest global norm of a gradient; None: no clipping.
      clip_weights: largest magnitude of a kernel's or an embedding's weight, in root mean squares of its layer's
        tensor; larger weights shrink by up to 5 % an update (`qtx.training.optimizer.clip_weights`); None: no limit.
      distill_layers: layers whose outputs are compared with a teacher's, if the objective has one: "all" or "last".
      label_smoothing: share of the target that is spread over all classes, during training only.
      penalties: penalties on activations, in the loss during training only: names in `PENALTIES` with options, e.g.
        `"hinge,sites=layers/mlp/out,tau=10,weight=.1"`.
      max_bad_steps: an update whose loss or gradient is not finite is skipped; this many in a row end the run.
      eval_batches: the number of held-out batches that an evaluation takes, the first ones; None: all. `qtx evaluate`,
        `quantize` and `compare` measure on as many.
      log_every, eval_every, outliers_every, checkpoint_every: intervals in steps; the last step always does all four.
        Every `outliers_every` steps infinity norms and kurtoses per layer are logged, and the attention's health.
      keep_checkpoints: how many of the newest checkpoints are kept.
      keep_best: how many of the best are kept besides; one is saved at every evaluation that is the best so far.
      best_metric: the metric of the held-out data that decides which checkpoints are best, a name in `BEST_METRICS`.

    Raises:
      QtxError: for a value outside of its limit, or values that do not go together.
    """

    steps: Annotated[int, at_least(1)] = 1000
    batch_size: Annotated[int, at_least(1)] = 32
    accumulation_steps: Annotated[int, at_least(1)] = 1
    optimizer: Annotated[str, one_of(OPTIMIZERS)] = "adamw"
    learning_rate: Annotated[float, positive()] = 1e-3
    schedule: Annotated[str, one_of(SCHEDULES, "learning-rate schedule")] = "linear"
    warmup_steps: Annotated[int, at_least(0)] = 100
    initial_learning_rate: Annotated[float, at_least(0)] = 0.0
    final_learning_rate: Annotated[float, at_least(0)] = 0.0
    beta1: Annotated[float, within("[0, 1)")] = 0.9
    beta2: Annotated[float, within("[0, 1)")] = 0.999
    epsilon: Annotated[float, positive()] = 1e-8
    weight_decay: Annotated[float, at_least(0)] = 0.01
    decay_norm_scale: bool = False
    clip_norm: Annotated[float | None, within("(0, inf]", "a positive number, or None for no clipping")] = 1.0
    clip_weights: Annotated[float | None, within("(1, inf)", "more than 1, or None for no limit")] = None
    distill_layers: Annotated[str, one_of(LAYERS)] = "all"
    label_smoothing: Annotated[float, within("[0, 1)")] = 0.0
    penalties: tuple[str, ...] = ()
    max_bad_steps: Annotated[int, at_least(1)] = 1
    eval_batches: Annotated[int | None, at_least(1, "or None for all")] = None
    log_every: Annotated[int, at_least(1)] = 50
    eval_every: Annotated[int, at_least(1)] = 500
    outliers_every: Annotated[int, at_least(1)] = 500
    checkpoint_every: Annotated[int, at_least(1)] = 500
    keep_checkpoints: Annotated[int, at_least(1)] = 2
    keep_best: Annotated[int, at_least(0)] = 1
    best_metric: Annotated[str, one_of(BEST_METRICS)] = "loss"

    def __post_init__(self):
        super().__post_init__()
        for name in ("initial_learning_rate", "final_learning_rate"):
            if getattr(self, name) > self.learning_rate:
                raise QtxError(f"{name} {getattr(self, name)} exceeds the peak, learning_rate {self.learning_rate}")
        make_penalties(self.penalties)
        if self.warmup_steps >= self.steps:
            raise QtxError(
                f"warmup_steps is {self.warmup_steps}: expected fewer than steps {self.steps}; lower it, or raise steps"
            )
        if self.batch_size % self.accumulation_steps:
            raise QtxError(
                f"batch_size {self.batch_size} is not divisible by accumulation_steps {self.accumulation_steps}: "
                f"set batch_size to {-(-self.batch_size // self.accumulation_steps) * self.accumulation_steps}"
            )

    def resolved(self) -> Self:
        """Returns these options with every option of every penalty written out."""
        penalties = tuple(map(complete_text, make_penalties(self.penalties).values()))
        return dataclasses.replace(self, penalties=penalties)

    def make_schedule(self) -> optax.Schedule:
        """Returns the schedule: number of updates done so far -> learning rate of the next update."""
        return learning_rate_schedule(
            self.schedule,
            initial=self.initial_learning_rate,
            peak=self.learning_rate,
            final=self.final_learning_rate,
            warmup_steps=self.warmup_steps,
            steps=self.steps,
        )

    def make_optimizer(self, parameters: Parameters) -> optax.GradientTransformation:
        """Returns the optimizer: clipping by the global norm, `optimizer` on the schedule, then the weights' limit.

        Args:
          parameters: what is known of each parameter that is trained, by path.
        """
        steps = [] if self.clip_norm is None else [optax.clip_by_global_norm(self.clip_norm)]
        hyper_parameters = HyperParameters(
            learning_rate=self.make_schedule(),
            beta1=self.beta1,
            beta2=self.beta2,
            epsilon=self.epsilon,
            weight_decay=self.weight_decay,
            mask=decay_mask(parameters, self.decay_norm_scale),
            parameters=parameters,
        )
        steps.append(OPTIMIZERS[self.optimizer](hyper_parameters))
        if self.clip_weights is not None:
            steps.append(clip_weights(self.clip_weights, decay_mask(parameters, decay_norm_scale=False), parameters))
        return optax.chain(*steps) if len(steps) > 1 else steps[0]
