"""Counting in a compiled program's text: what one device multiplies, and what it exchanges with others.

XLA's own `cost_analysis` counts the body of a loop once. Here it counts as often as it runs, which matters for models
whose layers are scanned.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import re
from typing import NamedTuple

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")

COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* {$")
# Name, type and opcode of `ROOT %add.1 = (f32[8]{0}, s32[]) opcode(operands), attributes`.
INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([a-z][\w\-]*)\((.*)$")
ARRAY = re.compile(r"([a-z]+(\d*)[a-z0-9]*)\[([\d,]*)\]")
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


@dataclasses.dataclass(frozen=True)
class Work:
    """What one device does in one run of a program.

    Attributes:
      flops: of its matrix products.
      collectives: by kind, those that occur.
    """

    flops: int
    collectives: dict[str, Traffic]


class Instruction(NamedTuple):
    """One line: its result's type, what it does, and the rest of the line."""

    type: str
    opcode: str
    rest: str


def count_work(text: str) -> Work:
    """Counts in the text of an SPMD program for the CPU, as `jax.stages.Compiled.as_text` gives it.

    A loop whose number of iterations XLA does not know counts once.
    """
    computations, entry = _parse(text)
    flops, totals = 0, dict.fromkeys(COLLECTIVES, Traffic(0, 0))
    for name, runs in _runs(computations, entry).items():
        instructions = computations[name]
        for instruction in instructions.values():
            if instruction.opcode == "dot":
                flops += runs * _dot_flops(instruction, instructions)
            elif instruction.opcode in totals:
                before, size = totals[instruction.opcode]
                totals[instruction.opcode] = Traffic(before + runs, size + runs * _size(instruction.type))
    return Work(flops, {kind: traffic for kind, traffic in totals.items() if traffic.runs})


def _parse(text: str) -> tuple[dict[str, dict[str, Instruction]], str]:
    """Computation name -> instruction name -> instruction, and the name of the entry computation."""
    computations: dict[str, dict[str, Instruction]] = {}
    entry = current = ""
    for line in text.splitlines():
        if header := COMPUTATION.match(line):
            current = header[2]
            computations[current] = {}
            entry = current if header[1] else entry
        elif match := INSTRUCTION.match(line):
            computations[current][match[1]] = Instruction(*match.groups()[1:])
    return computations, entry


def _runs(computations: dict[str, dict[str, Instruction]], entry: str) -> dict[str, int]:
    """How often each computation runs."""
    runs: dict[str, int] = collections.Counter({entry: 1})
    # The text defines a computation before it is called, so the callers of one have all been seen before it.
    for name in reversed(computations):
        for instruction in computations[name].values():
            trips = TRIPS.search(instruction.rest) if instruction.opcode == "while" else None
            called = CALLED.findall(instruction.rest)
            for branches in BRANCHES.findall(instruction.rest):
                called += [branch.strip().lstrip("%") for branch in branches.split(",")]
            for callee in called:
                runs[callee] += runs[name] * (int(trips[1]) if trips else 1)
    return runs


def _shapes(type_text: str) -> list[tuple[int, tuple[int, ...]]]:
    """(bytes per element, shape) of each array in a type."""
    arrays = ARRAY.findall(type_text)
    # `pred` has no number; a byte each.
    return [(max(int(bits or 8) // 8, 1), tuple(map(int, dims.split(","))) if dims else ()) for _, bits, dims in arrays]


def _size(type_text: str) -> int:
    return sum(width * math.prod(shape) for width, shape in _shapes(type_text))


def _dot_flops(dot: Instruction, instructions: dict[str, Instruction]) -> int:
    """A multiplication and an addition for every element of the result and of the contracted dimensions."""
    left = dot.rest.partition(",")[0].lstrip("%")
    [(_, result)], [(_, operand)] = _shapes(dot.type), _shapes(instructions[left].type)
    contracted = re.search(r"lhs_contracting_dims={([\d,]*)}", dot.rest)
    sizes = [operand[int(i)] for i in contracted[1].split(",") if i] if contracted else []
    return 2 * math.prod(result) * math.prod(sizes)
