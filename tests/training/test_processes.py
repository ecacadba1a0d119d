"""Two real processes under `jax.distributed` (Gloo on loopback), killed, and gone on with by another number of them."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest

from qtx.foundation.distributed import initialize
from qtx.foundation.errors import QtxError
from qtx.training import Claim, MeshConfig, RunFolder, fit, make_mesh, read_metrics
from qtx.training.loading import load_params

RUN = textwrap.dedent("""
    import dataclasses
    from qtx.data import DataConfig, load
    from qtx.data.sources import BigramBackcopy
    from qtx.models import Opt, OptConfig
    from qtx.training import MeshConfig, Task, TrainingConfig

    data = load(DataConfig(BigramBackcopy(sequence_length=16)), "clm")
    data = dataclasses.replace(data, held_out=[data.held_out[i] for i in range(20)])
    shape = dict(num_layers=1, width=16, num_heads=2, mlp_width=32, vocab_size=64, max_length=16, init_std=0.2)
    # Epsilon is large, since AdamW turns a gradient of 1e-9 (rounding: a key bias has none) into a whole step.
    intervals = dict(log_every=3, eval_every=50, outliers_every=50, checkpoint_every=5)
    training = TrainingConfig(steps=50, batch_size=16, warmup_steps=2, learning_rate=1e-2, epsilon=1e-3, **intervals)
    task = Task(Opt(OptConfig(**shape)), data)
""")
PROCESS = RUN + textwrap.dedent("""
    import os, sys
    from pathlib import Path
    from qtx.foundation.distributed import initialize
    from qtx.training import Claim, RunFolder, fit, make_mesh
    if "JAX_NUM_PROCESSES" in os.environ:
        initialize()
    mesh = make_mesh(MeshConfig(*map(int, sys.argv[2:])))
    fit(task, training, Claim(RunFolder(Path(sys.argv[1])), {}), mesh)
""")
Mesh = tuple[int, int, int]
TWO_DEVICES = "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0"


def definitions() -> dict:
    """`task` and `training` of the run."""
    names: dict = {}
    exec(RUN, names)
    return names


@contextlib.contextmanager
def running(workdir: Path, processes: int, mesh: Mesh) -> Iterator[list[subprocess.Popen]]:
    """The run, in processes of two devices each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "XLA_FLAGS": TWO_DEVICES,
        "JAX_COMPILATION_CACHE_DIR": str(jax.config.jax_compilation_cache_dir),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
    }
    if processes > 1:
        environment |= {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "JAX_NUM_PROCESSES": str(processes)}
    command = [sys.executable, "-c", PROCESS, str(workdir), *map(str, mesh)]
    with started(command, [environment | {"JAX_PROCESS_ID": str(index)} for index in range(processes)]) as run:
        yield run


@contextlib.contextmanager
def started(command: list[str], environments: list[dict[str, str]]) -> Iterator[list[subprocess.Popen]]:
    """A process for each environment; none outlives the context."""
    output = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    processes = [subprocess.Popen(command, env=environment, **output) for environment in environments]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def finish(workdir: Path, processes: int, mesh: Mesh) -> None:
    with running(workdir, processes, mesh) as run:
        wait(run)


def wait(processes: list[subprocess.Popen]) -> None:
    for process in processes:
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output.decode()


def kill_after_checkpoint(workdir: Path, processes: int, mesh: Mesh) -> None:
    with running(workdir, processes, mesh) as run:
        deadline = time.monotonic() + 300
        while not (workdir / "checkpoints" / "10").is_dir():
            assert all(process.poll() is None for process in run), run[0].communicate()[0].decode()
            assert time.monotonic() < deadline
            time.sleep(0.005)
        for process in run:
            process.send_signal(signal.SIGKILL)
        assert [process.wait() for process in run] == [-signal.SIGKILL] * processes


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """(final parameters, training losses) of one process on one device that nobody kills."""
    run, workdir = definitions(), tmp_path_factory.mktemp("unbroken")
    result = fit(run["task"], run["training"], Claim(RunFolder(workdir), {}), make_mesh(MeshConfig(1)))
    return jax.device_get(result.params), losses(workdir)


def losses(workdir: Path) -> list[tuple[int, float]]:
    return [(line["step"], line["loss"]) for line in read_metrics(workdir, "train")]


def check(workdir: Path, unbroken) -> None:
    run, (params, logged) = definitions(), unbroken
    assert [step for step, _ in losses(workdir)] == [*range(3, 50, 3), 50]
    np.testing.assert_allclose(losses(workdir), logged, rtol=1e-5)
    found = load_params(run["task"].module, run["task"].data, workdir, MeshConfig(1))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5), jax.device_get(found), params)


@pytest.mark.slow
def test_two_processes_are_killed_and_one_goes_on(tmp_path, unbroken):
    kill_after_checkpoint(tmp_path, 2, (1, 4, 1))
    finish(tmp_path, 1, (1, 1, 2))
    check(tmp_path, unbroken)


@pytest.mark.long
@pytest.mark.parametrize("mesh", [(1, 2, 2), (1, 1, 4)])
def test_one_process_is_killed_and_two_go_on(tmp_path, unbroken, mesh):
    """Also on meshes whose processes share out tensors, and so have the same examples."""
    kill_after_checkpoint(tmp_path, 1, (1, 2, 1))
    finish(tmp_path, 2, mesh)
    check(tmp_path, unbroken)


@pytest.mark.long
def test_the_command_finds_the_others_by_slurm(tmp_path):
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "qtx", "train", f"--config={root}/tests/nano_config.py"]
    slurm = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2"}
    environment = os.environ | slurm | {"PYTHONPATH": str(root), "XLA_FLAGS": TWO_DEVICES}
    indices = [{"SLURM_PROCID": str(index), "SLURM_LOCALID": str(index)} for index in range(2)]
    two = [*command, "--distributed", f"--workdir={tmp_path}/two", "--config.mesh.data=2", "--config.mesh.tensor=2"]
    with started(two, [environment | index for index in indices]) as run:
        wait(run)
    with started([*command, f"--workdir={tmp_path}/one"], [environment]) as run:
        wait(run)
    found, expected = (read_metrics(tmp_path / name, "eval")[-1]["loss"] for name in ("two", "one"))
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, "no address.*expected Slurm, Open MPI or a Cloud TPU, or JAX_COORDINATOR_ADDRESS=HOST:PORT"),
        ({"JAX_PROCESS_ID": "first"}, "JAX_PROCESS_ID is 'first': expected a number"),
    ],
)
def test_processes_that_cannot_join(monkeypatch, environment, message):
    def fail(**_):
        raise ValueError("no address.")

    monkeypatch.setattr(jax.distributed, "initialize", fail)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(QtxError, match=message):
        initialize()
