"""A plan as people read it: tables of memory and work, and whether it fits a chip."""

from __future__ import annotations

from qtx.foundation.errors import lookup
from qtx.foundation.hardware import CHIPS, GIB, Chip
from qtx.models.remat import NONE
from qtx.planning.plan import StepPlan

# The runtime, the kernels' workspace and fragmentation take the rest.
USABLE = 0.9

NOTES = (
    "Parameters, optimizer state and batch are exact. Activations and collectives are those of XLA's CPU compiler: it "
    "computes bfloat16 in float32, so activations in bfloat16 take about half on a GPU or TPU, and it has no "
    "reduce-scatter, so gradients of fsdp parameters show as all-reduce.",
    "Matrix products of the step are those of the compiled program of one device, with what rematerialization computes "
    "again; times the devices they are more than the model's too where several devices do the same work.",
    "Collectives in a loop over layers or microbatches count once per iteration; bytes are of their results.",
)


def tables(plan: StepPlan) -> dict[str, tuple[list[str], list[list[str]]]]:
    """Returns the header and the rows of each table, by its title: what a device holds, in GiB; the floating-point
    operations of a step, the model's and those that are computed; and, if it exchanges any, the collectives by kind."""
    names = ("parameters", "optimizer", "gradients", "activations", "batch", "total")
    memory = [[name, f"{getattr(plan, name) / GIB:.3f}"] for name in names]
    work = [
        ["model, all devices", f"{plan.model_flops:.3e}"],
        ["model, per device", f"{plan.model_flops / plan.devices:.3e}"],
        ["step, per device", f"{plan.device_flops:.3e}"],
        ["step / model", f"{plan.device_flops * plan.devices / plan.model_flops:.2f}"],
    ]
    found = {"one device holds": (["", "GiB"], memory), "matrix products of one step": (["", "FLOPs"], work)}
    if plan.collectives:
        exchanged = [[kind, str(one.runs), f"{one.bytes / GIB:.3f}"] for kind, one in plan.collectives.items()]
        found["collectives of one step"] = (["one device exchanges", "per step", "GiB"], exchanged)
    return found


def fits(plan: StepPlan, chip: Chip) -> bool:
    """Says whether a device of this kind has the memory for the plan."""
    return plan.total <= USABLE * chip.memory


def verdict(plan: StepPlan, name: str) -> list[str]:
    """Says whether a plan fits the named chip, with the shortest time that a step could take and, if not, remedies."""
    chip, dtype = lookup(CHIPS, "chip", name), plan.experiment.model.dtype
    answer = "fits" if fits(plan, chip) else "does not fit"
    seconds = plan.model_flops / plan.devices / chip.peak_flops(dtype)
    lines = [
        f"{answer} {name}: {plan.total / GIB:.2f} of {USABLE * chip.memory / GIB:.1f} GiB ({USABLE:.0%} of its memory)",
        f"a step takes at least {seconds * 1000:.3g} ms there, at its peak in {dtype}",
    ]
    return lines if fits(plan, chip) else [*lines, f"to make it fit: {'; '.join(remedies(plan))}"]


def fitting_chips(plan: StepPlan) -> str:
    """Names the chips that a plan fits."""
    names = [name for name, chip in CHIPS.items() if fits(plan, chip)]
    return f"fits: {', '.join(names) or 'no known chip'}; --chip=NAME says more of one"


def remedies(plan: StepPlan) -> list[str]:
    """Lists what lowers the memory of a plan, the most effective first."""
    model, training = plan.experiment.model, plan.experiment.training
    state = f"raise config.mesh.fsdp (now {plan.mesh['fsdp']}) or config.mesh.tensor (now {plan.mesh['tensor']})"
    activations = []
    if model.remat == NONE:
        activations.append("set config.model.remat=dots, or full")
    elif model.remat != "full":
        activations.append("set config.model.remat=full")
    if model.dtype == "float32":
        activations.append("set config.model.dtype=bfloat16")
    examples = training.batch_size // training.accumulation_steps // (plan.mesh["data"] * plan.mesh["fsdp"])
    if examples > 1:
        activations.append(
            f"raise config.training.accumulation_steps (now {training.accumulation_steps}, {examples} examples per "
            "device at a time), or lower config.training.batch_size"
        )
    of_state = plan.parameters + plan.optimizer + plan.gradients
    return [state, *activations] if of_state > plan.activations else [*activations, state]


def describe(plan: StepPlan) -> list[str]:
    """Describes what was planned, one text a line."""
    model, training = plan.experiment.model, plan.experiment.training
    mesh = " x ".join(f"{axis} {size}" for axis, size in plan.mesh.items())
    lines = [
        f"model: {plan.experiment.family}, {plan.count:,} parameters, {model.dtype}, remat {model.remat}",
        f"batch: {training.batch_size} per step, in {training.accumulation_steps} part(s)",
        f"devices: {plan.devices}, mesh {mesh}",
    ]
    if plan.assumed:
        lines.append(
            f"assumed, since neither config nor files tell: {', '.join(plan.assumed)}; set config.model.* else"
        )
    return lines
