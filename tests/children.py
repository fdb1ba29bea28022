"""Forked children that write and are killed; see `experiments.children`."""

from experiments.children import Child, run

__all__ = ["Child", "run"]
