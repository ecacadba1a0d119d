"""This module asks another quantizer than qtx's about a healing, ONNX Runtime's, and keeps the answer beside the runs.

The judge (`qtx.judge`) works in a process of its own: whatever becomes of it, what was healed is there.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from qtx.families.in_words import embedding_in_words
from qtx.foundation.storage import Expected, read_sealed_json, sealed_json, write_whole
from qtx.interop.contents import digest_of_folder
from qtx.models import TransformerConfig
from qtx.models.bert import OF_TEXTS, OF_TOKENS
from qtx.pages.healing import Judged, Story
from qtx.pipeline.heal import load_experiment
from qtx.training import RunFolder

FILE = "judge.json"
EXPECTED = Expected("the verdicts on a healing", "delete it, to have them made anew")
JUDGED = (*OF_TEXTS, *OF_TOKENS)
MISTAKE = 2
"""The exit code of a judge that says in its last line what is wrong."""
BEGINNING = "judge: error: "


def judged(story: Story, healed: Path) -> Story:
    """Returns a story with what ONNX Runtime's quantizer makes of the original and of the healed checkpoint, measured
    now or earlier, or with the reason why that is not known.

    Args:
      story: the healing.
      healed: the folder of the healed checkpoint.
    """
    original = RunFolder(story.runs[0].folder)
    file = original.root.parent / FILE
    claim = {"original": digest_of_folder(original.imported), "healed": digest_of_folder(healed)}
    kept = read_sealed_json(file, EXPECTED) if file.exists() else {}
    if {name: kept.get(name) for name in claim} != claim:
        verdicts, problem = ask(load_experiment(original.root).model, original.imported, healed)
        if problem:
            return dataclasses.replace(story, unjudged=problem)
        pairs = zip(verdicts[: len(verdicts) // 2], verdicts[len(verdicts) // 2 :], strict=True)
        rows = [Judged(x["weights"], x["int8_to_first_fp"], y["int8_to_first_fp"], x["texts"]) for x, y in pairs]
        kept = {**claim, "judged": [dataclasses.asdict(row) for row in rows]}
        write_whole({file: sealed_json(kept)})
    return dataclasses.replace(story, judged=[Judged(**row) for row in kept["judged"]])


def ask(model: TransformerConfig, *folders: Path) -> tuple[list[dict[str, Any]], str]:
    """Returns the lines of `qtx.judge` about checkpoints of a model, the original first, or what kept it from them."""
    if not embedding_in_words(model) and getattr(model, "head", None) not in JUDGED or model.reads != "tokens":
        return [], "it is asked about sentence encoders, and about heads of classes and answers"
    command = [sys.executable, "-m", "qtx.judge", *map(str, folders)]
    # An accelerator's memory is this process's.
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=environment)
    if not done.returncode:
        return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")], ""
    last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
    if done.returncode == MISTAKE:
        return [], last.removeprefix(BEGINNING)
    return [], f"it ended with exit code {done.returncode} ({last})"
