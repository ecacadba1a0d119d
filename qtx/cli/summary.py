"""The summary of a config that most commands print first: model, parameters, data, devices, training plan."""

from __future__ import annotations

from pathlib import Path

import jax
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from qtx.attention import attention_text
from qtx.families.in_words import model_in_words
from qtx.foundation.console import say
from qtx.pipeline.assemble import Assembled
from qtx.pipeline.embeddings import told_of_embeddings
from qtx.training import RunFolder


def print_summary(
    assembled: Assembled, workdir: Path, console: Console, backend: str = "", compare: bool = False
) -> None:
    """Prints the summary: a panel on a terminal, plain lines `model: ...` in a pipe.

    Args:
      assembled: the experiment.
      workdir: the experiment's folder.
      console: where to print.
      backend: the attention backend of the training. Empty: the command does not train, and the summary says where the
        model comes from, unless `compare`.
      compare: whether the variants and seeds of the experiment's comparison are run.
    """
    lines = summary(assembled, workdir, backend, compare)
    if not console.is_terminal:
        for name, text in lines.items():
            say(console, f"{name}: {text}")
        return
    table = Table.grid(padding=(0, 2))
    for name, text in lines.items():
        table.add_row(f"[bold]{name}[/bold]", Text(text))
    console.print(Panel(table, title=escape(f"qtx · {assembled.experiment.name}"), title_align="left", expand=False))


def summary(assembled: Assembled, workdir: Path, backend: str, compare: bool) -> dict[str, str]:
    """Returns the lines of the summary, name to text; see `print_summary`."""
    experiment, model, training = assembled.experiment, assembled.experiment.model, assembled.experiment.training
    devices = jax.devices()
    kind, platform = devices[0].device_kind, devices[0].platform
    variants, seeds = experiment.compare.variants, experiment.compare.seeds
    mesh = " x ".join(f"{axis} {size}" for axis, size in assembled.mesh.shape.items())
    used = assembled.mesh.devices.size
    return {
        "model": f"{model_in_words(model)}, {model.dtype}",
        **told_of_embeddings(model, RunFolder(workdir).imported),
        "attention": "; ".join(variants) if compare else attention_text(model.attention),
        **({"computed": f"{backend} attention"} if backend else {}),
        "parameters": f"{assembled.parameters:,}" + (" with softmax; gates add theirs" if compare else ""),
        "data": assembled.data.description,
        "devices": f"{used} of {len(devices)} {kind if kind == platform else f'{kind} ({platform})'}, mesh {mesh}",
        **(
            {
                "training": f"{experiment.objective}, {training.steps:,} steps of batch {training.batch_size}, "
                f"{training.optimizer} {training.learning_rate:g} {training.schedule}, "
                f"{training.warmup_steps:,} warm-up steps, "
                + (f"seeds {', '.join(map(str, seeds))}" if compare else f"seed {experiment.seed}")
            }
            if backend or compare
            else past(workdir)
        ),
        "folder": str(workdir),
    }


def past(workdir: Path) -> dict[str, str]:
    """Returns the line on where the model of the run in a folder comes from: what it was imported from, or what it was
    trained on and started from; no line if it was neither."""
    run = RunFolder(workdir)
    if run.imported.is_dir() and not run.checkpoints.is_dir():
        return {"imported": f"from {run.identity().get('source', run.imported)}"}
    if not run.checkpoints.is_dir():
        return {}
    there = run.read_config()
    started = f", from {there['start']}" if there.get("start") else ""
    return {"trained": f"{there['objective']} on {there['data']['source']}{started}, seed {there['seed']}"}
