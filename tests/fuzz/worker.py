"""One target under atheris: ``python -m tests.fuzz.worker TARGET``, and what libFuzzer takes."""

import pkgutil
import random
import sys

import atheris

import ledger.kernels

# numba compiles kernels from their bytecode, which is not to be changed
KERNELS = [f"ledger.kernels.{module.name}" for module in pkgutil.iter_modules(ledger.kernels.__path__)]
with atheris.instrument_imports(include=["ledger"], exclude=KERNELS):
    from tests.fuzz.targets import TARGETS


def main() -> None:
    target = TARGETS[sys.argv.pop(1)]

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        return target.mutate(data, random.Random(seed), lambda raw: atheris.Mutate(raw, max_size))[:max_size]

    def run(data: bytes) -> None:
        target.run(data)

    atheris.Setup(sys.argv, run, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
