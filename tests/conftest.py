"""What every test folder shares: eight virtual devices, a cache of compiled programs, and the development data."""

from __future__ import annotations

import gc
import os
from fnmatch import fnmatchcase
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHARED = ROOT / ".." / "shared"
# Where pre-trained models are looked for.
MODELS = (ROOT / "models", SHARED / "models")
MOST_MAPS = 25_000

# Read by JAX when it first looks for devices: eight CPU devices, so that sharding is tested on any machine.
# Small models run for milliseconds and compile for seconds, so the compiler is told not to try hard.
FLAGS = (
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0 "
    "--xla_cpu_parallel_codegen_split_count=1"
)
if version("jaxlib").startswith("0.10."):  # later compilers always use them, and abort at a flag that they do not know
    FLAGS += " --xla_cpu_use_fusion_emitters=false"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FLAGS}".strip()

# Most of the suite's time is compilation: compiled programs are kept, one folder per test process so that none reads
# what another is writing.
COMPILED = ROOT / ".pytest_cache" / f"jax-{os.environ.get('PYTEST_XDIST_WORKER', 'main')}"
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(COMPILED)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"


def pytest_itemcollected(item):
    """Of a table's cases the default suite runs those that its `representative` patterns name, the slow suite the
    others; what is long is slow."""
    patterns = [pattern for marker in item.iter_markers("representative") for pattern in marker.args]
    left_out = patterns and not any(fnmatchcase(item.callspec.id, pattern) for pattern in patterns)
    if left_out or (item.get_closest_marker("long") and not patterns):
        item.add_marker(pytest.mark.slow)


def pytest_collection_finish():
    """What is imported and collected stays: Python need not seek garbage in it again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def room_for_programs():
    """A compiled program takes some memory maps, of which Linux gives a process 65,530; beyond them XLA aborts."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > MOST_MAPS:
        import jax

        jax.clear_caches()
        gc.unfreeze()  # a test may have frozen programs too
        gc.collect()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real text and images for development; tests of it skip where it is absent."""
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip(f"no development data at {folder}")
    return folder


@pytest.fixture(scope="session")
def whole_patient() -> Path:
    """The folder of the published model that `builtin:minilm-2l` is cut from; tests of it skip where it is absent."""
    return pretrained("all-minilm-l6-v2", "fetch sentence-transformers/all-MiniLM-L6-v2 from the Hugging Face Hub")


@pytest.fixture(scope="session")
def mpnet() -> Path:
    """The folder of a published MPNet of the size of BERT-base; tests of it skip where it is absent."""
    return pretrained("all-mpnet-base-v2", "python -m experiments.patients all-mpnet-base-v2")


def pretrained(name: str, how: str) -> Path:
    """The folder of a pre-trained model; what needs it skips where it is absent, saying how to get it."""
    found = next((folder / name for folder in MODELS if (folder / name).is_dir()), None)
    if found is None:
        pytest.skip(f"no {name} in {' or '.join(map(str, MODELS))}: {how}")
    return found


@pytest.fixture(scope="session")
def reference() -> Path:
    """The folder of what the paper's official implementation computes: models of one layer."""
    return Path(__file__).parent / "reference"


@pytest.fixture(scope="session")
def more_references() -> Path:
    """A folder of further models of that kind; tests of them skip where it is absent."""
    folder = SHARED / "reference"
    if not folder.is_dir():
        pytest.skip(f"no further reference models at {folder}")
    return folder


@pytest.fixture(scope="session")
def patient():
    """A published model with real outliers, see `tests.patient`."""
    from tests.patient import load_patient  # imports jax

    return load_patient()
