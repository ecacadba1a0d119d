"""Counting in a compiled program's text: what one device exchanges with others, and the FLOPs of its matrix products.

An instruction in a loop counts as often as the loop runs, which matters for models whose layers are scanned. A loop
whose number of iterations XLA does not know counts once.
"""

from __future__ import annotations

import collections
import math
import re
from typing import NamedTuple

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")

COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* {$")
# Name, type and opcode of `ROOT %add.1 = (f32[8]{0}, s32[]) opcode(operands), attributes`.
INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([a-z][\w\-]*)\((.*)$")
ARRAY = re.compile(r"[a-z]+(\d*)[a-z0-9]*\[([\d,]*)\]")
CALLED = re.compile(r"(?:calls|to_apply|body|condition)=%?([\w.\-]+)")
BRANCHES = re.compile(r"branch_computations={([^}]*)}")
FIRST_OPERAND = re.compile(r"%?([\w.\-]+)[,)]")
CONTRACTED = re.compile(r"lhs_contracting_dims={([\d,]*)}")
TRIPS = re.compile(r'"known_trip_count":{"n":"(\d+)"}')


class Traffic(NamedTuple):
    """Collectives of one kind in one run of a program.

    Attributes:
      runs: how often they run.
      bytes: size of all their results on one device.
    """

    runs: int
    bytes: int


class Instruction(NamedTuple):
    """One line of a program: its result's name and type, what it does, and the rest of the line."""

    name: str
    type: str
    opcode: str
    rest: str


def count_collectives(text: str) -> dict[str, Traffic]:
    """Counts the collectives in an SPMD program for the CPU, by kind, from its `jax.stages.Compiled.as_text`."""
    computations, entry = _parse(text)
    found: dict[str, Traffic] = {}
    for name, runs in _runs(computations, entry).items():
        for instruction in computations[name]:
            if instruction.opcode in COLLECTIVES:
                before, size = found.get(instruction.opcode, Traffic(0, 0))
                found[instruction.opcode] = Traffic(before + runs, size + runs * _size(instruction.type))
    return {kind: found[kind] for kind in COLLECTIVES if kind in found}


def count_product_flops(text: str) -> int:
    """Counts the FLOPs of the matrix products that one device computes, two a multiplication, from the same text."""
    computations, entry = _parse(text)
    flops = 0
    for name, runs in _runs(computations, entry).items():
        types = {instruction.name: instruction.type for instruction in computations[name]}
        for instruction in computations[name]:
            if instruction.opcode == "dot":
                flops += runs * _dot_flops(instruction, types)
    return flops


def _dot_flops(dot: Instruction, types: dict[str, str]) -> int:
    operand, contracted = FIRST_OPERAND.match(dot.rest), CONTRACTED.search(dot.rest)
    assert operand and contracted, dot
    [left], [result] = _shapes(types[operand[1]]), _shapes(dot.type)
    return 2 * math.prod(result) * math.prod(left[int(axis)] for axis in contracted[1].split(","))


def _parse(text: str) -> tuple[dict[str, list[Instruction]], str]:
    """Returns the instructions of each computation by its name, and the name of the entry computation."""
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
    """Counts how often each computation runs."""
    runs: dict[str, int] = collections.Counter({entry: 1})
    # The text defines a computation before its callers do: in reverse, all callers of a computation come before it.
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
    """Computes the bytes of the arrays in a type; `pred`, which has no number of bits, takes a byte."""
    bits = [int(bits or 8) for bits, _ in ARRAY.findall(type_text)]
    return sum(max(b // 8, 1) * math.prod(shape) for b, shape in zip(bits, _shapes(type_text), strict=True))


def _shapes(type_text: str) -> list[list[int]]:
    return [[int(size) for size in sizes.split(",") if size] for _, sizes in ARRAY.findall(type_text)]
