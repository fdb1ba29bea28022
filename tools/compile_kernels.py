"""Compile all kernels into the cache, or load them, and say how far it is."""

import ledger


def tell(what: str, done: int, of: int) -> None:
    """Print one line a step; a terminal gets no bar, since each step is one compiler run."""
    if done < of:
        print(f"kernels, step {done + 1} of {of}: {what}", flush=True)


if __name__ == "__main__":
    seconds = ledger.warm_up(tell)
    print(f"kernels ready after {seconds:.0f} s")
