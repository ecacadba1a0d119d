"""A real process, really killed, and run again with the same command."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from qtx.training import read_metrics

SCRIPT = textwrap.dedent("""
    import dataclasses, hashlib, sys
    from pathlib import Path
    import jax, numpy as np
    import qtx.data
    from qtx.attention import AttentionConfig
    from qtx.data.sources import BigramBackcopy
    from qtx.models import Opt, OptConfig
    from qtx.training import Claim, MeshConfig, RunFolder, Task, TrainingConfig, fit, make_mesh

    data = qtx.data.load(qtx.data.DataConfig(BigramBackcopy(sequence_length=16)), "clm")
    data = dataclasses.replace(data, held_out=[data.held_out[i] for i in range(16)])
    shape = dict(num_layers=1, width=16, num_heads=2, mlp_width=32, vocab_size=64, max_length=16)
    training = TrainingConfig(steps=80, batch_size=16, warmup_steps=5, log_every=2, eval_every=40, checkpoint_every=9)
    task, claim = Task(Opt(OptConfig(**shape)), data), Claim(RunFolder(Path(sys.argv[1])), {})
    result = fit(task, training, claim, make_mesh(MeshConfig(1)))
    bits = b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(result.params))
    print(result.metrics["loss"].hex(), hashlib.sha256(bits).hexdigest())
""")


def start(workdir: Path) -> subprocess.Popen:
    environment = os.environ | {
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "PYTHONWARNINGS": "ignore",
        # Half the time to compile; what it computes does not matter here, only that it is the same.
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
        "JAX_COMPILATION_CACHE_DIR": str(workdir.parent / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    command = [sys.executable, "-c", SCRIPT, str(workdir)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def outcome(process: subprocess.Popen, workdir: Path) -> tuple[str, list[tuple]]:
    """The final loss and a hash of the parameters, and the log without times."""
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    keys = ("step", "split", "loss", "accuracy", "grad_norm")
    return out.strip(), [tuple(line.get(key) for key in keys) for line in read_metrics(workdir)]


def kill_after(workdir: Path, lines: int, delay: float) -> None:
    """Starts a run and kills it `delay` seconds after its log has `lines` lines."""
    process, log = start(workdir), workdir / "metrics.jsonl"
    deadline = time.monotonic() + 300
    while (log.read_bytes().count(b"\n") if log.exists() else 0) < lines:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "the run ended before it was killed"


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """The run that nobody kills, beside the other; a function that waits for it."""
    workdir = tmp_path_factory.getbasetemp() / "unbroken"
    process = start(workdir)
    result = functools.cache(lambda: outcome(process, workdir))
    yield result
    result()


def check(workdir, unbroken, moments):
    """Kills the run again and again, each time when its log has so many lines and so many seconds have passed."""
    for lines, delay in moments:
        kill_after(workdir, lines, delay)
    assert outcome(start(workdir), workdir) == unbroken()
    steps = [line["step"] for line in read_metrics(workdir, "train")]
    assert steps == [*range(2, 81, 2)]


def moments(rng, count, lines):
    """Ever later ones, since a run goes on from where it was."""
    later = np.sort(rng.choice(np.arange(lines), count, replace=False))
    return [(int(line), float(rng.uniform(0, 0.15))) for line in later]


@pytest.mark.long
def test_a_run_killed_twelve_times(tmp_path_factory, unbroken):
    """At other moments every time, whose seed is told if it fails."""
    seed = time.time_ns() % 2**32
    print(f"moments of seed {seed}")
    check(tmp_path_factory.getbasetemp() / "twelve_times", unbroken, moments(np.random.default_rng(seed), 12, lines=36))
