"""One account at a time, called from Python with as little overhead as there can be.

A context is an array of addresses and sizes; the caller passes its address as one integer, since each array
argument costs more than the whole look-up. The caller keeps the view behind the context alive.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array

from ledger.kernels.hashing import hash1_words
from ledger.kernels.index import BROKEN, NONE, RECORDS, SHARD, WORDS, find_slot, home_of, shard_of
from ledger.kernels.intrinsics import load_acquire
from ledger.kernels.jit import kernel
from ledger.kernels.records import read_cell
from ledger.layout import (
    KEY_BYTES,
    SHARD_CHECKED,
    SHARD_POSITIONS,
    SHARD_SEED,
    SHARD_WORDS,
    STATE_COMMITTED,
    STATE_WORDS,
    STATUS_ABSENT,
    STATUS_CLOSED,
    STATUS_CORRUPT,
    STATUS_RETRY,
    STATUS_UNCHECKED,
)

CONTEXT_INDEX = 0
CONTEXT_INDEX_WORDS = 1
CONTEXT_RECORDS = 2
CONTEXT_RECORD_WORDS = 3
CONTEXT_SHARDS = 4
CONTEXT_SHARD_COUNT = 5
CONTEXT_STATE = 6
CONTEXT_KEY = 7
CONTEXT_WORDS = 8

TRIES = 64


def context_words(context, index, records, shards, state, key):
    """Fill a context (uint64[8]) with the addresses and sizes of a view's arrays."""
    context[CONTEXT_INDEX] = index.ctypes.data
    context[CONTEXT_INDEX_WORDS] = len(index)
    context[CONTEXT_RECORDS] = records.ctypes.data
    context[CONTEXT_RECORD_WORDS] = len(records)
    context[CONTEXT_SHARDS] = shards.ctypes.data
    context[CONTEXT_SHARD_COUNT] = len(shards) // SHARD_WORDS
    context[CONTEXT_STATE] = state.ctypes.data
    context[CONTEXT_KEY] = key.ctypes.data


U0, U1, U32 = np.uint64(0), np.uint64(1), np.uint64(32)


def _array_at(kind, context, builder, signature, args):
    """Build an array value over memory that somebody else keeps."""
    array = context.make_array(signature.return_type)(context, builder)
    pointer = builder.inttoptr(args[0], context.get_data_type(kind).as_pointer())
    size = context.get_constant(types.intp, np.dtype(str(kind)).itemsize)
    populate_array(array, pointer, [args[1]], [size], size, meminfo=None)
    return array._getvalue()


@intrinsic
def words_at(typingctx, address, count):
    """Make an array of uint64 words over the memory at an address."""

    def codegen(context, builder, signature, args):
        return _array_at(types.uint64, context, builder, signature, args)

    return types.Array(types.uint64, 1, "C")(types.uint64, types.int64), codegen


@intrinsic
def halves_at(typingctx, address, count):
    """Make an array of uint32 words over the memory at an address."""

    def codegen(context, builder, signature, args):
        return _array_at(types.uint32, context, builder, signature, args)

    return types.Array(types.uint32, 1, "C")(types.uint64, types.int64), codegen


@intrinsic
def bytes_word(typingctx, key, number):
    """Load the 64-bit word `number` of a bytes object, which need not be aligned."""
    if not isinstance(key, types.Bytes):
        return None
    signature = types.uint64(key, types.int64)

    def codegen(context, builder, sig, args):
        value = context.make_array(sig.args[0])(context, builder, args[0])
        words = builder.bitcast(value.data, ir.IntType(64).as_pointer())
        return builder.load(builder.gep(words, [args[1]]), align=1)

    return signature, codegen


@kernel(nogil=False)
def get_one(context, key):
    """Read one account as of now.

    Parameters
    ----------
    context : int64
        Address of a context, see the module's text.
    key : bytes
        32 bytes.

    Returns
    -------
    status : int64
        0 and the four fields; STATUS_ABSENT; STATUS_UNCHECKED or STATUS_CORRUPT with shard << 32 | slot in the
        first field; STATUS_RETRY when writers overtook the reader `TRIES` times; STATUS_CLOSED when the context
        is 0 or the key has not 32 bytes.

    Notes
    -----
    **Ordering**: acquires the committed LSN; pairs with the release store that publishes a frame.
    The kernel keeps the interpreter lock: giving it up beside a busy thread can cost a switch interval.
    """
    if context == 0 or len(key) != KEY_BYTES:
        return np.int64(STATUS_CLOSED), U0, U0, U0, U0
    words = words_at(np.uint64(context), np.int64(CONTEXT_WORDS))
    shard_count = words[CONTEXT_SHARD_COUNT]
    state = words_at(words[CONTEXT_STATE], np.int64(STATE_WORDS))
    index = words_at(words[CONTEXT_INDEX], np.int64(words[CONTEXT_INDEX_WORDS]))
    records = words_at(words[CONTEXT_RECORDS], np.int64(words[CONTEXT_RECORD_WORDS]))
    shards = words_at(words[CONTEXT_SHARDS], np.int64(shard_count) * SHARD_WORDS)
    hash_key = halves_at(words[CONTEXT_KEY], np.int64(8))
    k0, k1, k2, k3 = bytes_word(key, 0), bytes_word(key, 1), bytes_word(key, 2), bytes_word(key, 3)
    word0, word1, word2 = hash1_words(k0, k1, k2, k3, hash_key)
    shard = shard_of(word0, shard_count)
    at_shard = shard * SHARD
    if shards[at_shard + np.uint64(SHARD_CHECKED)] == U0:
        return np.int64(STATUS_UNCHECKED), shard << U32, U0, U0, U0
    home = home_of(word1, shards[at_shard + np.uint64(SHARD_POSITIONS)])
    slot = NONE
    for _ in range(TRIES):
        committed = load_acquire(state, np.uint64(STATE_COMMITTED))
        slot, place = find_slot(index, records, shards, shard, home, np.uint64(word2), k0, k1, k2, k3)
        if slot == NONE:
            return np.int64(STATUS_ABSENT), U0, U0, U0, U0
        if slot == BROKEN:
            return np.int64(STATUS_CORRUPT), (shard << U32) | place, U0, U0, U0
        record = (shards[at_shard + RECORDS] + slot) * WORDS
        seed = shards[at_shard + np.uint64(SHARD_SEED)]
        status, balance, nonce, staked, modified = read_cell(records, record, committed, seed, slot)
        if status != np.int64(STATUS_RETRY):
            if status < np.int64(STATUS_ABSENT):
                return status, (shard << U32) | slot, U0, U0, U0
            return status, balance, nonce, staked, modified
    return np.int64(STATUS_RETRY), (shard << U32) | slot, U0, U0, U0
