"""Claims about bytes: checksums, hashes and compression.

Run as ``python -m experiments.trials.claims.digests SETTINGS`` it hashes in a process without SHA instructions.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import blake3
import numpy as np

from experiments.errors import NotApplicableError
from experiments.trial import Operation, Outcome, Trial
from experiments.trials import common
from experiments.trials.claims import compare
from experiments.trials.turns import take_turns, whole
from ledger.kernels.hashing import hash_rows
from ledger.kernels.intrinsics import (
    HAS_CRC_INSTRUCTION,
    checksum_words,
    crc32c_begin,
    crc32c_end,
    crc32c_u64_portable,
    crc32c_words,
)
from ledger.kernels.jit import kernel

NO_SHA: Final = {"OPENSSL_ia32cap": ":~0x20000000"}
"""Tells OpenSSL to leave the SHA extensions of the processor alone (bit 29 of the second word)."""


# ---------------------------------------------------------------- checksums
def crc(trial: Trial) -> Outcome:
    """Compute CRC-32C of pieces of a buffer by the instruction and by eight tables."""
    if not HAS_CRC_INSTRUCTION:
        raise NotApplicableError("this processor has no CRC-32C instruction, or it is switched off")
    size = trial.workload["buffer_bytes"]
    words = np.random.default_rng(trial.seed).integers(0, 1 << 63, size // 8, np.uint64)
    parts, pairs = {}, {}
    for piece in trial.workload["pieces"]:
        step = piece // 8
        assert _instruction(words, step) == _tables(words, step)
        for name, function in (("instruction", _instruction), ("tables", _tables), ("four lanes", _lanes)):
            parts[f"{name} {piece}"] = whole(lambda _, function=function, step=step: function(words, step))
            pairs[f"{name} {piece}"] = f"tables {piece}"
    operations = take_turns(parts, [{name: [0] for name in parts}] * trial.workload["rounds"], size)
    return Outcome(compare(operations, "over_tables", pairs))


@kernel
def _instruction(words, step):
    """Return the checksums of all pieces, folded."""
    total = np.uint64(0)
    for start in range(0, words.size, step):
        total ^= crc32c_words(words, start, start + step, np.uint64(0))
    return total


@kernel
def _lanes(words, step):
    """Return the four-lane checksums of all pieces, folded."""
    total = np.uint64(0)
    for start in range(0, words.size, step):
        total ^= checksum_words(words, start, start + step)
    return total


@kernel
def _tables(words, step):
    """Return what `_instruction` returns, from tables."""
    total = np.uint64(0)
    for start in range(0, words.size, step):
        register = crc32c_begin(np.uint64(0))
        for i in range(start, start + step):
            register = crc32c_u64_portable(register, words[i])
        total ^= crc32c_end(register)
    return total


def warm_up() -> None:
    """Compile or load the kernels."""
    words = np.zeros(32, np.uint64)
    assert _instruction(words, 16) == _tables(words, 16)
    _lanes(words, 16)


# ---------------------------------------------------------------- hashes
def hashes(trial: Trial) -> Outcome:
    """Hash pieces by BLAKE3 and SHA-256, with the SHA instructions of the processor and without."""
    chosen = {**trial.workload, "seed": trial.seed}
    done = subprocess.run(
        [sys.executable, "-m", "experiments.trials.claims.digests", json.dumps(chosen)],
        env={**os.environ, **NO_SHA}, stdout=subprocess.PIPE, check=True,
    )  # fmt: skip
    without = [Operation(**item) for item in json.loads(done.stdout.splitlines()[-1])]
    return Outcome([*_hash(chosen, ""), *without])


def _hash(chosen: dict[str, Any], suffix: str) -> list[Operation]:
    """Hash in turn, piece by piece; keys of 32 bytes also eight at once by the ledger's kernel."""
    parts, pairs = {}, {}
    data = np.random.default_rng(chosen["seed"]).integers(0, 256, chosen["buffer_bytes"], np.uint8)
    key = np.arange(8, dtype=np.uint32)
    for piece in chosen["pieces"]:
        pieces = [data[at : at + piece].tobytes() for at in range(0, data.size, piece)]
        blake, sha = f"BLAKE3 {piece}{suffix}", f"SHA-256 {piece}{suffix}"
        parts[blake] = whole(lambda _, pieces=pieces: _digest_each(blake3.blake3, pieces))
        parts[sha] = whole(lambda _, pieces=pieces: _digest_each(hashlib.sha256, pieces))
        pairs[blake] = sha
        if piece == 32:
            rows, out = data.reshape(-1, 32).view(np.uint64), np.empty((3, data.size // 32), np.uint32)
            lanes = f"BLAKE3 32, eight at once{suffix}"
            parts[lanes] = whole(lambda _, rows=rows, out=out: hash_rows(rows, key, out))
            pairs[lanes] = sha
            parts[lanes]([0])
    operations = take_turns(parts, [{name: [0] for name in parts}] * chosen["rounds"], data.size)
    return compare(operations, "over_sha", pairs)


def _digest_each(function: Callable[[bytes], Any], pieces: Sequence[bytes]) -> None:
    """Hash each piece."""
    for piece in pieces:
        function(piece).digest()


# ---------------------------------------------------------------- compression
def lz4(trial: Trial) -> Outcome:
    """Compress and decompress records of this project and Python's own source text by LZ4."""
    import pyarrow

    codec, size = pyarrow.Codec("lz4_raw"), trial.workload["buffer_bytes"]
    text = b"".join(path.read_bytes() for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")))
    inputs = {"source text": text[:size], "records": common.workload(trial).records(np.arange(size // 64), 0).tobytes()}
    operations = []
    for name, data in inputs.items():
        packed = codec.compress(data, asbytes=True)
        assert codec.decompress(packed, len(data), asbytes=True) == data
        parts = {
            f"compress {name}": whole(lambda _, data=data: codec.compress(data)),
            f"decompress {name}": whole(lambda _, packed=packed, data=data: codec.decompress(packed, len(data))),
        }
        found = take_turns(parts, [{part: [0] for part in parts}] * trial.workload["rounds"], len(data))
        for item in found:
            item.numbers["compression"] = len(data) / len(packed)
        operations += found
    return Outcome(operations)


if __name__ == "__main__":
    found = _hash(json.loads(sys.argv[1]), ", no SHA instructions")
    print(json.dumps([{"name": item.name, "numbers": item.numbers} for item in found]))
