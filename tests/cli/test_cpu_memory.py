"""The command line's way of keeping memory: what was freed is there again without the kernel."""

import subprocess
import sys

import pytest

ROUNDS = """
import ctypes, resource, sys
from qtx.cli.cpu_memory import keep_freed_memory

if sys.argv[1] == "kept":
    keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes, libc.memset.argtypes = [ctypes.c_void_p], [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    arrays = [libc.malloc(2**26) for _ in range(36)]
    for array in arrays:
        libc.memset(array, 1, 2**26)
    for array in arrays:
        libc.free(array)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow  # it holds 2.25 GiB: glibc's largest limit is 2
@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
def test_what_was_freed_is_used_again_without_the_kernel():
    def faults(kind: str) -> list[int]:
        ended = subprocess.run([sys.executable, "-c", ROUNDS, kind], check=True, capture_output=True, text=True)
        return [int(line) for line in ended.stdout.split()]

    first, again = faults("kept")
    assert first > 1000 and again < first / 20
    first, again = faults("given back")
    assert again > first / 2
