"""Anatomy: what a model is made of, read off traces of it once, and asked by all that act upon its parts."""

from qtx.anatomy.description import Anatomy, Parameter, Role, SiteInfo, Stack
from qtx.anatomy.flow import Operands, Origin
from qtx.anatomy.read import read

__all__ = ["Anatomy", "Operands", "Origin", "Parameter", "Role", "SiteInfo", "Stack", "read"]
