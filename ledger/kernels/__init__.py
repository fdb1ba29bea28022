"""Numba kernels: arrays and integers in, integers out."""
