"""`qtx plan`: what a training step will need on devices that this machine does not have."""

from qtx.planning.plan import StepPlan, devices_of, plan_step, virtual_devices

__all__ = ["StepPlan", "devices_of", "plan_step", "virtual_devices"]
