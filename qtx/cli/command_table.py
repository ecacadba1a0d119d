"""The commands and their flags: what each takes, and what its help says."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Command:
    """One command: what its help says, and what it takes. The function of its name in `qtx.cli.commands` runs it."""

    summary: str
    description: str
    example: str
    config: str  # --config is "required", "optional" (default: what the run recorded) or "none"
    resume: str = "the same command starts over"  # what the user does after an interruption
    flags: tuple[str, ...] = ()  # names in `FLAGS`
    choice: str | None = None  # the one of `flags` that must be given
    workdir: bool = True  # whether the command works in a folder, --workdir
    one_scheme: bool = False  # whether the command uses one scheme of the config's
    checkpoint: bool = False  # whether the first argument is a checkpoint to make a run of
    heals: bool = False  # whether the checkpoint is imported under the options of healing
    own_folder: bool = False  # whether that argument may also be a run's folder, and --workdir has a default


@dataclasses.dataclass(frozen=True)
class Flag:
    """A flag of some commands. With `override`, the flag is short for overriding values of the config; a `switch` takes
    no value."""

    usage: str
    help: str
    override: tuple[str, ...] = ()
    switch: bool = False


FLAGS = {
    "method": Flag(
        "--method=METHOD",
        "static, per_token, smoothquant, hadamard, gptq, or several: 'smoothquant,alpha=0.6 + gptq'",
        ("quantization.method={}",),
    ),
    "scheme": Flag(
        "--scheme=SCHEME", "one scheme, e.g. w8a8, instead of the config's", ("quantization.schemes=('{}',)",)
    ),
    "ranges": Flag("--ranges=FILE", "ranges of an earlier calibration by the same method, instead of a new one"),
    "format": Flag(
        "--format=FORMAT", "int8 (runs in integers), onnx (for ONNX Runtime) or huggingface (floating point)"
    ),
    "devices": Flag("--devices=N", "devices to plan for (default: as many as config.mesh names)"),
    "distributed": Flag("--distributed", "one of many processes, on a cluster: see docs/scale.md", switch=True),
    "profile": Flag("--profile", "trace a few steps, for TensorBoard and Perfetto, to WORKDIR/profile", switch=True),
    "checkpoint": Flag("--checkpoint=WHICH", "newest (default), best (on the held-out data), or its step"),
    "out": Flag("--out=FOLDER", "where the healed model goes, and in FOLDER/run what a later call goes on with"),
    "data": Flag(
        "--data=TEXTS",
        "a file, folder or glob of texts, or tfds:NAME, instead of the prose that comes with Python",
        ("data.source=text_corpus", "data.corpora=('{}',)"),
    ),
    "bits": Flag("--bits=SCHEME", "what it is to survive (default: w8a8)"),
    "target": Flag(
        "--target=NUMBER",
        "what integers are to leave: heal, a fidelity (default: 0.98); quantize, the metric or 99%",
    ),
    "exempt": Flag("--exempt=BITS", "the bits of the tensors that --target finds: float (default) or 16"),
    "steps": Flag("--steps=N", "so many updates, whatever is reached, instead of stages until the target"),
    "hours": Flag("--hours=HOURS", "how long it may take (default: 2)"),
    "attention": Flag("--attention=VARIANT", "another attention, e.g. gated_linear (default: the model's own)"),
    "no-prefix": Flag("--no-prefix", "let nothing stand before a decoder's texts", switch=True),
    "force": Flag("--force", "heal a model, too, that reaches the target as it came", switch=True),
    "thorough": Flag("--thorough", "measure every tensor on all examples (minutes to an hour)", switch=True),
    "prompt": Flag("--prompt=TEXT", "the text that the model is to go on with"),
    "tokens": Flag("--tokens=N", "the most tokens to generate (default: 20)"),
    "chip": Flag("--chip=NAME", "what they are, e.g. h100-sxm or tpu-v5e"),
}


COMMANDS = {
    "plan": Command(
        summary="what training will need: memory, FLOPs, collectives; whether it fits a chip",
        description="Compiles the training step for a mesh that this machine need not have, and tells what one device\n"
        "holds and does in a step. Needs no data and no accelerator: what only the data tell is assumed, and said.",
        example="qtx plan --config=configs/opt_125m.py --devices=8 --chip=l4 --config.model.remat=full",
        config="required",
        flags=("devices", "chip"),
        workdir=False,
    ),
    "prepare": Command(
        summary="make a corpus ready on disk: tokenized and packed, or its images gathered",
        description="Writes what training reads of config.data's corpora as TFDS datasets in config.data.data_dir,\n"
        "and tells how much there is. Training does so itself at first use; prepare does it earlier, e.g. on a\n"
        "machine without an accelerator. What is there already is not made again.",
        example="qtx prepare --config=configs/wikitext2_bert.py --config.data.source=text_corpus",
        config="required",
        resume="the same command goes on after the last finished shard",
        workdir=False,
    ),
    "import": Command(
        summary="make a run of a model that you have: a Hugging Face checkpoint",
        description="CHECKPOINT is a folder with config.json, *.safetensors and the tokenizer; builtin:minilm-2l; or\n"
        "a model of the Hugging Face Hub, organization/name or organization/name@revision. WORKDIR becomes a run\n"
        "at step 0 with the checkpoint's files and tokenizer in it, on built-in data or what --config.data... names,\n"
        "so that evaluate, quantize, sensitivity and export work on it, and train starts from it (config.start).",
        example="qtx import models/all-minilm-l6-v2 --workdir=runs/minilm",
        config="none",
        checkpoint=True,
    ),
    "analyze": Command(
        summary="diagnose a model: its outliers, its idle heads, what W8A8 costs and what would save it",
        description="CHECKPOINT is a folder as for import, which becomes a run in WORKDIR (default: runs/NAME), or\n"
        "the folder of a run. Tells which tensors hold outliers, in which dimensions and at which tokens; which\n"
        "heads do nothing and where they park their attention; what fewer bits cost; what other ways would save;\n"
        "which tensors cost most. Measured on a few held-out examples of built-in data, or of what --config.data...\n"
        "names: by its task, or by how close its outputs stay to those in floating point. Writes diagnosis.json, and\n"
        "the page report.html, with figures.",
        example="qtx analyze models/all-minilm-l6-v2",
        config="none",
        flags=("thorough",),
        checkpoint=True,
        own_folder=True,
    ),
    "generate": Command(
        summary="let a decoder go on with a text, in floating point or quantized",
        description="CHECKPOINT is a folder as for import, which becomes a run in WORKDIR (default: runs/NAME), or\n"
        "the folder of a run. Takes the likeliest token at every step, until one ends the text. With --scheme, the\n"
        "model is quantized in the ranges that `qtx quantize` has saved in the run's folder.",
        example='qtx generate runs/gated --prompt="Once upon a time" --tokens=40',
        config="none",
        flags=("prompt", "tokens", "scheme"),
        choice="prompt",
        checkpoint=True,
        own_folder=True,
        one_scheme=True,
    ),
    "heal": Command(
        summary="make a model quantizable that integers ruin, and export it in its original's format",
        description="CHECKPOINT is as for import, or the folder of a run. Measures what W8A8 leaves of it (every\n"
        "tensor in one static range), and trains it to stay what it is, without labels, with a limit on its weights\n"
        "and with half of every batch quantized, in stages, until W8A8 leaves the target, a stage adds little, or the\n"
        "time is up. FOLDER gets the healed checkpoint, a drop-in replacement, with a model card, and the page\n"
        "healing.html. A model that reaches the target as it came is left alone. Classifiers and the like are held to\n"
        "their own outputs: give texts of their kind.",
        example="qtx heal builtin:minilm-2l --out=healed/minilm-2l",
        config="none",
        resume="the same command goes on where it was",
        flags=("out", "data", "bits", "target", "steps", "hours", "attention", "no-prefix", "force"),
        choice="out",
        workdir=False,
        checkpoint=True,
        heals=True,
    ),
    "train": Command(
        summary="pre-train one model, or resume its training",
        description="Trains the config's model on its data. The folder gets the resolved config, metrics (JSON lines\n"
        "and TensorBoard), checkpoints, and the tokenizer. Run again, the same command goes on from the last\n"
        "checkpoint that is whole and ends with the same numbers as a run that was never interrupted. SIGTERM saves\n"
        "a checkpoint first, and exits with 0.",
        example="qtx train --config=configs/demo.py:gated_linear --workdir=runs/gated --config.training.steps=500",
        config="required",
        resume="the same command resumes from the last checkpoint",
        flags=("distributed", "profile"),
    ),
    "evaluate": Command(
        summary="measure a trained model: loss, metric, outliers",
        description="Evaluates the folder's last checkpoint on held-out data in floating point: perplexity or\n"
        "accuracy, infinity norm, kurtosis, 6-sigma outliers, attention-sink mass. Adds to results.json. The folder\n"
        "of an exported int8 model is run in integers. The data are the run's own, or what --config.data... names.",
        example="qtx evaluate --workdir=runs/gated",
        config="optional",
        flags=("checkpoint",),
    ),
    "quantize": Command(
        summary="quantize a trained model and measure what it costs",
        description="Calibrates static activation ranges on training data, quantizes to every scheme of the config\n"
        "(weight and activation bits, e.g. w8a8) and evaluates each on held-out data, beside floating point.\n"
        "Saves the ranges as ranges/<scheme>.safetensors. With --target, finds the cheapest tensors to leave at more\n"
        "bits, so that the first scheme reaches it; the run keeps them, as config.quantization.exempt, for export.",
        example="qtx quantize --workdir=runs/minilm-2l --scheme=w8a8 --target=0.99",
        config="optional",
        flags=("method", "scheme", "target", "exempt", "ranges", "checkpoint"),
    ),
    "sensitivity": Command(
        summary="rank the tensors of a trained model by what quantizing them costs",
        description="Calibrates the first scheme of the config (after quantization-aware training: takes the one that\n"
        "the run was trained under), then measures the model with each weight and activation of each layer\n"
        "quantized alone, and with all quantized but it, with the tensor's signal-to-quantization-noise\n"
        "ratio, on config.quantization.sensitivity_batches held-out batches.\n"
        "Writes sensitivity.json and sensitivity.png; `qtx report` of a comparison shows them.",
        example="qtx sensitivity --workdir=runs/gated --scheme=w4a4",
        one_scheme=True,
        config="optional",
        flags=("method", "scheme", "checkpoint"),
    ),
    "export": Command(
        summary="take a trained model away: in integers, as ONNX graphs, or as a Hugging Face checkpoint",
        description="int8: calibrates the first scheme of the config (after quantization-aware training: takes the\n"
        "one that the run was trained under) and writes a model whose matrix products run int8 x int8 -> int32,\n"
        "to WORKDIR/export/int8; `qtx evaluate --workdir=WORKDIR/export/int8` runs it.\n"
        "onnx: writes onnx/model.onnx, in floating point, and onnx/model_quantized.onnx, on the same integers, with\n"
        "tokenizer and config beside them, to WORKDIR/export/onnx, laid out as on the Hugging Face Hub;\n"
        "onnx/model.encodings has the ranges for AIMET and QNN, by the names of tensors in model.onnx.\n"
        "huggingface: writes config.json and model.safetensors in floating point to WORKDIR/export/huggingface.",
        example="qtx export --format=int8 --workdir=runs/gated --scheme=w8a8",
        one_scheme=True,
        config="optional",
        flags=("format", "method", "scheme", "checkpoint"),
        choice="format",
    ),
    "compare": Command(
        summary="train, quantize and compare attention variants over seeds",
        description="Does all of the above for every variant x seed of config.compare, each in its own folder below\n"
        "WORKDIR/runs; finished runs are not run again. Writes results.jsonl, table.md (mean and standard\n"
        "deviation over seeds) and report.html. A variant may carry options: 'clipped_softmax,alpha=4'.",
        example='qtx compare --config=configs/demo.py --workdir=runs/demo --config.compare.seeds="(0, 1)"',
        config="required",
        resume="the same command goes on with what is not finished",
    ),
    "report": Command(
        summary="write a comparison's table and HTML report again",
        description="Rebuilds table.md and report.html from the results in a comparison's folder, finished or not.",
        example="qtx report --workdir=runs/demo",
        config="none",
    ),
}
