"""Machines that try to break the engine: power cuts, kills, failing disks and damaged files; see `__main__`."""
