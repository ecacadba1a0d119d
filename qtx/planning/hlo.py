"""Counting in a compiled program's text: what one device exchanges with others.

A collective in a loop counts as often as the loop runs, which matters for models whose layers are scanned.
"""

from __future__ import annotations

import collections
import math
import re
from typing import NamedTuple

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")

COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* {$")
# Type and opcode of `ROOT %add.1 = (f32[8]{0}, s32[]) opcode(operands), attributes`.
INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?[\w.\-]+ = (\(.*?\)|\S+) ([a-z][\w\-]*)\((.*)$")
ARRAY = re.compile(r"[a-z]+(\d*)[a-z0-9]*\[([\d,]*)\]")
CALLED = re.compile(r"(?:calls|to_apply|body|condition)=%?([\w.\-]+)")
BRANCHES = re.compile(r"branch_computations={([^}]*)}")
TRIPS = re.compile(r'"known_trip_count":{"n":"(\d+)"}')


class Traffic(NamedTuple):
    """Collectives of one kind in one run of a program.

    Attributes:
      runs: how many run.
      bytes: size of their results on one device.
    """

    runs: int
    bytes: int


class Instruction(NamedTuple):
    """One line: its result's type, what it does, and the rest of the line."""

    type: str
    opcode: str
    rest: str


def count_collectives(text: str) -> dict[str, Traffic]:
    """By kind, those that occur in the text of an SPMD program for the CPU, as `jax.stages.Compiled.as_text` gives it.

    A loop whose number of iterations XLA does not know counts once.
    """
    computations, entry = _parse(text)
    found: dict[str, Traffic] = {}
    for name, runs in _runs(computations, entry).items():
        for instruction in computations[name]:
            if instruction.opcode in COLLECTIVES:
                before, size = found.get(instruction.opcode, Traffic(0, 0))
                found[instruction.opcode] = Traffic(before + runs, size + runs * _size(instruction.type))
    return {kind: found[kind] for kind in COLLECTIVES if kind in found}


def _parse(text: str) -> tuple[dict[str, list[Instruction]], str]:
    """Computation name -> its instructions, and the name of the entry computation."""
    computations: dict[str, list[Instruction]] = {}
    entry = current = ""
    for line in text.splitlines():
        if header := COMPUTATION.match(line):
            current = header[2]
            computations[current] = []
            entry = current if header[1] else entry
        elif match := INSTRUCTION.match(line):
            computations[current].append(Instruction(*match.groups()))
    return computations, entry


def _runs(computations: dict[str, list[Instruction]], entry: str) -> dict[str, int]:
    """How often each computation runs."""
    runs: dict[str, int] = collections.Counter({entry: 1})
    # The text defines a computation before it is called, so the callers of one have all been seen before it.
    for name in reversed(computations):
        for instruction in computations[name]:
            trips = TRIPS.search(instruction.rest) if instruction.opcode == "while" else None
            called = CALLED.findall(instruction.rest)
            for branches in BRANCHES.findall(instruction.rest):
                called += [branch.strip().lstrip("%") for branch in branches.split(",")]
            for callee in called:
                runs[callee] += runs[name] * (int(trips[1]) if trips else 1)
    return runs


def _size(type_text: str) -> int:
    """Bytes of the arrays in a type; `pred`, which has no number of bits, takes a byte."""
    return sum(
        max(int(bits or 8) // 8, 1) * math.prod(map(int, dims.split(",") if dims else ()))
        for bits, dims in ARRAY.findall(type_text)
    )
