"""This module defines the model that the names of `import qtx` are about, and that model quantized."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qtx.analysis import measure_outliers
from qtx.analysis.capture import FloatingPoint
from qtx.api.folders import Texts, Workdir, of_texts
from qtx.data.config import EXAMPLE_OPTIONS
from qtx.experiment import read
from qtx.families.in_words import model_in_words
from qtx.foundation.errors import QtxError, lookup, unknown
from qtx.foundation.numbers import number
from qtx.foundation.paths import at_home
from qtx.pages.healing import Story, judge_note, sentence
from qtx.pages.mixed import mixed_sentence
from qtx.pages.shown import ShownDiagnosis
from qtx.pipeline.analyze import diagnose as diagnose_run
from qtx.pipeline.config_files import override
from qtx.pipeline.embeddings import told_of_embeddings
from qtx.pipeline.encode import encode as encode_texts
from qtx.pipeline.formats import FORMATS
from qtx.pipeline.generate import TOKENS
from qtx.pipeline.generate import generate as generate_text
from qtx.pipeline.heal import Aim
from qtx.pipeline.heal import heal as heal_checkpoint
from qtx.pipeline.healed import export_healed
from qtx.pipeline.importing import Found
from qtx.pipeline.measure import metrics_of, token_text
from qtx.pipeline.mixed import read_goal, to_target
from qtx.pipeline.patient import as_checkpoint, config_on_data_of, patient_config
from qtx.pipeline.quantize import one_scheme, under
from qtx.pipeline.run import TrainedRun, load_run
from qtx.quantization import QuantizationConfig, Quantized
from qtx.training import RunFolder


@dataclasses.dataclass(frozen=True, repr=False)
class Model:
    """A model in floating point, as a run in a folder: from `load`, `train` or `heal`.

    Attributes:
      run: the run, with the parameters and the data that the model is measured on.
      source: the checkpoint that the run was made of; None: another run.
      options: the options of its config that were given.
      story: what a healing did to it; None: it was not healed.
      kept: the folders that the model needs, of which temporary ones go when it does.
    """

    run: TrainedRun
    source: Found | None = None
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    story: Story | None = None
    kept: tuple[Workdir, ...] = ()

    def __repr__(self) -> str:
        experiment, assembled = self.run.assembled.experiment, self.run.assembled
        lines = {
            experiment.name: f"{model_in_words(experiment.model)}, {assembled.parameters:,} parameters",
            **told_of_embeddings(experiment.model, RunFolder(self.run.workdir).imported),
            "data": assembled.data.description,
            "folder": self.run.workdir,
        }
        if self.story is not None:
            lines["healed"] = f"{sentence(self.story)} {self.story.ended}"
        return "\n".join(f"{name}: {text}" for name, text in lines.items())

    def diagnose(self, examples: int | None = None, thorough: bool = False) -> ShownDiagnosis:
        """Diagnoses the model: its outliers, its idle heads, what quantization costs, where, and what would save it.

        Args:
          examples: how many held-out examples to measure on; None: as suits the model's size.
          thorough: whether to measure every tensor, and not only the costliest.

        Returns:
          the findings, which show themselves as a page in a notebook, and as text in a terminal.

        >>> found = model.diagnose(examples=4)
        >>> largest = next(one for one in found.outliers if not one.carried)
        >>> largest.name, next(iter(largest.tokens))
        ('layers/mlp/out[0]', '[CLS]')
        """
        return ShownDiagnosis(**vars(diagnose_run(self.run, examples, thorough)))

    def quantize(
        self, bits: str = "w8a8", target: float | str | None = None, exempt_bits: int | None = None, **options: Any
    ) -> QuantizedModel:
        """Returns the model quantized, in ranges that are calibrated on training data.

        Args:
          bits: bits of weights and activations, e.g. "w8a8".
          target: the metric that the model is to have, or a share of the one in floating point, "99%": the cheapest
            tensors are left at `exempt_bits`, those of `run.assembled.experiment.quantization.exempt`; None: those of
            the option `exempt`, or else those that the run has recorded, are.
          exempt_bits: the bits of the tensors that a target finds: 16; None: they are in floating point.
          options: options of `qtx.quantization.QuantizationConfig`, such as `method` and `weight_estimator`.

        Raises:
          QtxError: if an option is refused, there are too few data, or the target cannot be reached.

        >>> quantized = model.quantize("w8a8", method="smoothquant,alpha=0.6")
        >>> 0.9 < quantized.metrics["fidelity"] < 1
        True
        """
        options = _known(QuantizationConfig, {"schemes": (bits,), **options})
        run = self.run.with_quantization(**options)
        if exempt_bits not in (None, 16):
            raise QtxError(f"exempt_bits={exempt_bits}: expected 16, or None for floating point")
        if target is None and exempt_bits is not None:
            raise QtxError("exempt_bits is about the tensors that a target finds: give target too")
        if target is not None:
            run, found = to_target(run, bits, read_goal(str(target)), exempt_bits or 0)
            print(mixed_sentence(found))
        return QuantizedModel(run, bits, under(run, bits), self.kept)

    def heal(self, texts: Texts | None = None, workdir: str | Path | None = None, **aim: Any) -> Model:
        """Returns a model that stays what this one is, and survives integers: trained on texts, without labels.

        Args:
          texts: what to heal it on; None: the data that it was loaded with.
          workdir: the folder of the healing, where the same call goes on with it; None: a temporary one.
          aim: options of `qtx.pipeline.heal.Aim`, such as `hours`, `steps`, `bits` and `target`.

        Raises:
          QtxError: if the folder holds another healing, an option is refused, or training fails.

        >>> healed = model.heal(steps=30)
        measuring the original in W8A8
        stage 1: 30 updates, weights within ... rms
        >>> before, after = healed.story.runs
        >>> before.quantized < 0.97 < after.quantized
        True
        """
        place, wanted = Workdir(workdir), Aim(**_known(Aim, aim))
        source = self.source or as_checkpoint(self.run, place.path)
        config = config_on_data_of(self.run, source, texts is not None)
        of_examples = {f"data.{name}" for name in (*EXAMPLE_OPTIONS, "min_length")}
        options = {
            key: value
            for key, value in self.options.items()
            if texts is None or key in of_examples or not key.startswith("data.")
        }
        override(patient_config(config), {**options, **of_texts(texts, place.path)})
        given = ", ".join(f"{name}={value!r}" for name, value in aim.items())
        command = f"qtx.load({source.source!r}).heal({given})"
        story = heal_checkpoint(read(config), source, place.path, wanted, command, tell=print)
        run = load_run(story.runs[story.chosen].folder)
        return Model(run, None, options, story, (*self.kept, place))

    def encode(self, texts: Sequence[str], prompt: str | None = None) -> np.ndarray:
        """Returns the embeddings of texts, float32 `[N, D]`; see `qtx.pipeline.encode.encode`.

        >>> model.encode(["A sentence.", "Another one, which is longer."]).shape
        (2, 384)
        """
        return encode_texts(self.run, FloatingPoint(self.run.assembled.module, self.run.floating_point), texts, prompt)

    def generate(self, prompt: str, tokens: int = TOKENS) -> str:
        """Returns how a causal model goes on with a text, in floating point; see `qtx.pipeline.generate.generate`."""
        model = FloatingPoint(self.run.assembled.module, self.run.floating_point)
        return generate_text(self.run, model, prompt, tokens)

    def evaluate(self) -> dict[str, float]:
        """Returns loss, metrics and outliers of the model on its held-out data, in floating point.

        >>> found = model.evaluate()
        >>> round(found["fidelity"], 3), found["max_inf_norm"] > 100
        (1.0, True)
        """
        assembled, params = self.run.assembled, self.run.floating_point
        outliers = measure_outliers(
            assembled.module, params, assembled.evaluation(), token_text=token_text(assembled.data)
        )
        return {**metrics_of(assembled, FloatingPoint(assembled.module, params)), **outliers.metrics}

    def export(self, folder: str | Path, format: str = "huggingface", scheme: str | None = None) -> Path:
        """Writes the model to a folder, which is returned, and prints what is to be known of it.

        Args:
          folder: where to write.
          format: "huggingface", a checkpoint in floating point like the one that the model was loaded from, "onnx",
            graphs in floating point and in integers, or "int8", a model in integers, for `evaluate`.
          scheme: the bits of the integers; None: w8a8, or those that the run was trained under.

        Raises:
          QtxError: if the model cannot be written in that format.

        >>> sorted(file.name for file in model.export(folder).glob("*.safetensors"))
        names, types and tokenizer are those of ...
        ['model.safetensors']
        """
        out, write = at_home(str(folder)), lookup(FORMATS, "format", format)
        if self.story and self.story.chosen and format == "huggingface":
            story, notes = export_healed(self.story, out)
            notes += filter(None, [judge_note(story)])
        else:
            notes = write(self.run, out, scheme or one_scheme(self.run.assembled.experiment, False))
        print(*notes, sep="\n")
        return out


@dataclasses.dataclass(frozen=True, repr=False)
class QuantizedModel:
    """A model under a scheme.

    Attributes:
      run: the model's run, under the options of its quantization.
      scheme: bits of weights and activations, e.g. "w8a8".
      quantized: weights and ranges.
      kept: see `Model`.
    """

    run: TrainedRun
    scheme: str
    quantized: Quantized
    kept: tuple[Workdir, ...] = ()

    def __repr__(self) -> str:
        return f"{self.scheme}: {', '.join(f'{name} {number(value)}' for name, value in self.metrics.items())}"

    @functools.cached_property
    def metrics(self) -> dict[str, float]:
        """Returns loss and metrics on held-out data."""
        return metrics_of(self.run.assembled, self.quantized)

    def encode(self, texts: Sequence[str], prompt: str | None = None) -> np.ndarray:
        """Returns the embeddings of texts under the scheme, float32 `[N, D]`; see `Model.encode`."""
        return encode_texts(self.run, self.quantized, texts, prompt)

    def generate(self, prompt: str, tokens: int = TOKENS) -> str:
        """Returns how the model goes on with a text under the scheme; see `Model.generate`."""
        return generate_text(self.run, self.quantized, prompt, tokens)

    def export(self, folder: str | Path) -> Path:
        """Writes the model in integers to a folder; see `Model.export`."""
        return Model(self.run, kept=self.kept).export(folder, "int8", self.scheme)


def _known(options: Callable[..., Any], given: dict[str, Any]) -> dict[str, Any]:
    """Returns named options, of which none is unknown to a dataclass of options."""
    known = [field.name for field in dataclasses.fields(options)]  # type: ignore[arg-type]
    for name in given:
        if name not in known:
            raise unknown("option", name, known)
    return given
