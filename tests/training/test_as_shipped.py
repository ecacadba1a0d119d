"""Resumption as users have it: one device and the compiler's own level of optimization, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


SCRIPT = """
import sys
import jax
import numpy as np
from qtx.data import load
from qtx.experiment import default, read
from qtx.training import read_metrics
from qtx.pipeline.assemble import assemble
from qtx.pipeline.train import train
from tests.training.interruption import InterruptedData, Interruption

config = default("bert", "clipped_softmax,gate=linear,alpha=2,gamma_warmup_steps=6")
config.model.update(num_layers=2, width=16, num_heads=2, mlp_width=32, max_length=16, init_std=0.2, dropout=0.1)
config.data.update(sequence_length=16, vocab_size=512)
config.training.update(steps=12, batch_size=16, warmup_steps=2, log_every=3, eval_every=6, checkpoint_every=4)
config.training.outliers_every, config.training.eval_batches = 12, 2
config.qat.noise = "w8a8"
experiment = read(config)
data = load(experiment.data, experiment.objective)
unbroken = train(assemble(experiment, data), sys.argv[1] + "/unbroken")
for stop in (3, 7, 10):
    try:
        train(assemble(experiment, InterruptedData(data, stop)), sys.argv[1] + "/broken")
    except Interruption:
        continue
    raise AssertionError("the run was not interrupted")
broken = train(assemble(experiment, data), sys.argv[1] + "/broken")
assert len(jax.devices()) == 1
jax.tree.map(np.testing.assert_array_equal, jax.device_get(broken.params), jax.device_get(unbroken.params))
lines = [
    [{name: value for name, value in line.items() if not name.endswith(("_per_second", "utilization"))}
     for line in read_metrics(sys.argv[1] + name)]
    for name in ("/unbroken", "/broken")
]
assert lines[0] == lines[1] and lines[0][-1]["step"] == 12
print("bit for bit")
"""


@pytest.mark.long
def test_an_interrupted_run_ends_with_the_same_bits(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment |= {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == "bit for bit"
