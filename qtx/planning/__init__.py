"""What a training step will need on devices that this machine does not have: `qtx plan`."""

from qtx.planning.plan import Plan, devices_of, make_plan, virtual_devices

__all__ = ["Plan", "devices_of", "make_plan", "virtual_devices"]
