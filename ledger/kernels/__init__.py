"""Numba kernels: arrays and integers in, integers out; no Python objects, clocks, disk or exceptions.

One module for each structure in memory: keys and their hash, index, records, batches. `jit` says how all of them are
compiled and kept, `intrinsics` adds the operations that numba has no word for. A negative result is a status of
`ledger.layout`; Python makes an error of it.
"""
