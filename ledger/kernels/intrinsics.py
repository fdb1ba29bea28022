"""What numba has no word for: ordered loads and stores, compare and swap, prefetch, CRC-32C.

Arrays are one-dimensional, C-contiguous, of 64-bit integers (prefetch: any element). An index is an int64 or
uint64 element number; negative ones do not wrap around. With ``NUMBA_BOUNDSCHECK=1`` an index out of range
raises IndexError, except for prefetch, which cannot fault and may run ahead of the end.

Ordering, in LLVM's words. `load_acquire` pairs with `store_release` of the same word, or with the write half
of `compare_swap` and `fetch_add`: what the writer did before, the reader sees after. Relaxed ones are whole
(never torn) and nothing more. A sequence lock, word ``s`` guarding data:

    writer                              reader
    store_relaxed(s, busy)              before = load_acquire(s)
    fence_release()                     copy, with load_relaxed
    data, with store_relaxed            fence_acquire()
    store_release(s, done)              after = load_relaxed(s)

`fence_release` pairs with `fence_acquire`: a reader that copied any of the new data sees ``busy`` or later in
``after``. A release store of ``busy`` would not hold the later data stores back; the fence does.

CRC-32C (Castagnoli, reflected polynomial 0x82F63B78) works on a register:
``crc32c_end(crc32c_u64(crc32c_begin(0), word))`` is the common CRC-32C of the word's eight little-endian
bytes, and ``crc32c_begin(c)`` goes on from a finished checksum ``c``.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.errors import TypingError
from numba.core.registry import cpu_target
from numba.extending import intrinsic

from ledger.kernels.jit import kernel, portable_forced

_I1: Final = ir.IntType(1)
_I32: Final = ir.IntType(32)
_I64: Final = ir.IntType(64)
_WORD_BYTES: Final = 8


def _target_has(feature: str) -> bool:
    """Tell whether numba compiles for an x86-64 CPU with `feature`, whatever the CPU below can do."""
    triple, _, features = cpu_target.target_context.codegen().magic_tuple()
    return triple.startswith("x86_64") and f"+{feature}" in features.split(",")


IS_X86: Final = cpu_target.target_context.codegen().magic_tuple()[0].startswith("x86_64")
HAS_CRC_INSTRUCTION: Final = _target_has("sse4.2") and not portable_forced


# ---------------------------------------------------------------- words of arrays
def _expect_words(array: Any) -> None:
    """Refuse at compile time what is not a 1-D C-contiguous array of 64-bit integers."""
    good = isinstance(array, types.Array) and array.ndim == 1 and array.layout == "C"
    if not (good and array.dtype in (types.uint64, types.int64)):
        raise TypingError(f"expected a 1-D C-contiguous array of uint64 or int64, got {array}")


def check_bounds(context: Any, builder: Any, index: Any, length: Any) -> None:
    """Emit the check that numba's own indexing emits, if bounds are checked in this process."""
    if context.enable_boundscheck:
        cgutils.do_boundscheck(context, builder, index, length, axis=0)


def _word_pointer(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    """Emit the address of ``args[0][args[1]]`` as ``i64*``."""
    array = context.make_array(signature.args[0])(context, builder, args[0])
    check_bounds(context, builder, args[1], builder.extract_value(array.shape, 0))
    return builder.bitcast(builder.gep(array.data, [args[1]]), _I64.as_pointer())


def _load_from_array(array: Any, ordering: str) -> Any:
    """Build signature and code generator of an atomic load."""
    _expect_words(array)

    def codegen(context, builder, signature, args):
        pointer = _word_pointer(context, builder, signature, args)
        return builder.load_atomic(pointer, ordering, _WORD_BYTES, typ=_I64)

    return array.dtype(array, types.intp), codegen


def _store_to_array(array: Any, ordering: str) -> Any:
    """Build signature and code generator of an atomic store."""
    _expect_words(array)

    def codegen(context, builder, signature, args):
        pointer = _word_pointer(context, builder, signature, args)
        builder.store_atomic(args[2], pointer, ordering, _WORD_BYTES)
        return context.get_dummy_value()

    return types.void(array, types.intp, array.dtype), codegen


@intrinsic
def load_acquire(typingctx, array, index):
    """Load ``array[index]``; nothing after it moves before it. Pairs with `store_release`."""
    return _load_from_array(array, "acquire")


@intrinsic
def load_relaxed(typingctx, array, index):
    """Load ``array[index]`` whole, without order."""
    return _load_from_array(array, "monotonic")


@intrinsic
def store_release(typingctx, array, index, value):
    """Store ``array[index]``; nothing before it moves after it. Pairs with `load_acquire`."""
    return _store_to_array(array, "release")


@intrinsic
def store_relaxed(typingctx, array, index, value):
    """Store ``array[index]`` whole, without order."""
    return _store_to_array(array, "monotonic")


@intrinsic
def compare_swap(typingctx, array, index, expected, new):
    """Store `new` if ``array[index] == expected`` and tell whether it did; never fails for no reason.

    Ordering: acquire and release if it stored, acquire if not; pairs with itself, `load_acquire` and
    `store_release`.
    """
    _expect_words(array)

    def codegen(context, builder, signature, args):
        pointer = _word_pointer(context, builder, signature, args)
        pair = builder.cmpxchg(pointer, args[2], args[3], "acq_rel", "acquire")
        return builder.extract_value(pair, 1)

    return types.boolean(array, types.intp, array.dtype, array.dtype), codegen


@intrinsic
def fetch_add(typingctx, array, index, value):
    """Add `value` to ``array[index]``, wrapping, and return what was there.

    Ordering: acquire and release; pairs with itself, `load_acquire` and `store_release`.
    """
    _expect_words(array)

    def codegen(context, builder, signature, args):
        pointer = _word_pointer(context, builder, signature, args)
        return builder.atomic_rmw("add", pointer, args[2], "acq_rel")

    return array.dtype(array, types.intp, array.dtype), codegen


def _fence(ordering: str) -> Any:
    """Build signature and code generator of a fence."""

    def codegen(context, builder, signature, args):
        builder.fence(ordering)
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def fence_acquire(typingctx):
    """Hold later loads and stores back until earlier loads are done. Pairs with `fence_release`."""
    return _fence("acquire")


@intrinsic
def fence_release(typingctx):
    """Hold later stores back until earlier loads and stores are done. Pairs with `fence_acquire`."""
    return _fence("release")


@intrinsic
def spin_pause(typingctx):
    """Tell the CPU that this is a waiting loop (``pause``); nothing elsewhere than on x86."""

    def codegen(context, builder, signature, args):
        if IS_X86:
            kind = ir.FunctionType(ir.VoidType(), [])
            builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.sse2.pause"), [])
        return context.get_dummy_value()

    return types.void(), codegen


# ---------------------------------------------------------------- prefetch and addresses
def _prefetch(array: Any, for_write: bool) -> Any:
    """Build signature and code generator of ``llvm.prefetch`` into all cache levels."""
    good = isinstance(array, types.Array) and array.ndim == 1 and array.layout == "C"
    if not good:
        raise TypingError(f"expected a 1-D C-contiguous array, got {array}")

    def codegen(context, builder, signature, args):
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        pointer = builder.bitcast(builder.gep(data, [args[1]]), ir.PointerType())
        kind = ir.FunctionType(ir.VoidType(), [ir.PointerType(), _I32, _I32, _I32])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        locality, data_cache = _I32(3), _I32(1)
        builder.call(function, [pointer, _I32(int(for_write)), locality, data_cache])
        return context.get_dummy_value()

    return types.void(array, types.intp), codegen


@intrinsic
def prefetch_read(typingctx, array, index):
    """Ask for the cache line of ``array[index]``, to be read. Any index: a prefetch cannot fault."""
    return _prefetch(array, for_write=False)


@intrinsic
def prefetch_write(typingctx, array, index):
    """Ask for the cache line of ``array[index]``, to be written. Any index: a prefetch cannot fault."""
    return _prefetch(array, for_write=True)


@intrinsic
def address_of(typingctx, array):
    """Return the address of the first element, uint64. It does not keep the array alive."""
    if not isinstance(array, types.Array):
        raise TypingError(f"expected an array, got {array}")

    def codegen(context, builder, signature, args):
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        return builder.ptrtoint(data, _I64)

    return types.uint64(array), codegen


@intrinsic
def load_u64(typingctx, address):
    """Load the word at an address; the caller vouches for it and for its alignment to 8 bytes."""

    def codegen(context, builder, signature, args):
        return builder.load(builder.inttoptr(args[0], _I64.as_pointer()), align=_WORD_BYTES, typ=_I64)

    return types.uint64(types.uint64), codegen


@intrinsic
def load_u64_acquire(typingctx, address):
    """Load the word at an address; nothing after it moves before it. Pairs with `store_release`."""

    def codegen(context, builder, signature, args):
        pointer = builder.inttoptr(args[0], _I64.as_pointer())
        return builder.load_atomic(pointer, "acquire", _WORD_BYTES, typ=_I64)

    return types.uint64(types.uint64), codegen


# ---------------------------------------------------------------- CRC-32C
CRC32C_POLYNOMIAL: Final = 0x82F63B78
_LOW_HALF: Final = np.uint64(0xFFFFFFFF)
_LOW_BYTE: Final = np.uint64(0xFF)


def _crc_tables() -> np.ndarray:
    """Build eight tables of 256 for slicing-by-8 (Kounavis, Berry): table k advances a byte by k more."""
    tables = np.zeros((8, 256), np.uint64)
    tables[0] = np.arange(256, dtype=np.uint64)
    polynomial, one = np.uint64(CRC32C_POLYNOMIAL), np.uint64(1)
    for _ in range(8):
        tables[0] = (tables[0] >> one) ^ ((tables[0] & one) * polynomial)
    for k in range(1, 8):
        before = tables[k - 1]
        tables[k] = (before >> np.uint64(8)) ^ tables[0][before & _LOW_BYTE]
    return tables.reshape(-1)


_CRC_TABLES: Final = _crc_tables()


@intrinsic
def _crc32c_instruction(typingctx, register, word):
    """Advance the register by eight bytes with the SSE 4.2 instruction."""

    def codegen(context, builder, signature, args):
        kind = ir.FunctionType(_I64, [_I64, _I64])
        name = "llvm.x86.sse42.crc32.64.64"
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), args)

    return types.uint64(types.uint64, types.uint64), codegen


@kernel(inline=True)
def crc32c_u64_portable(register, word):
    """Advance the register by eight bytes with tables: the twin of the instruction."""
    x = np.uint64(register) ^ np.uint64(word)
    after = np.uint64(0)
    for k in range(8):
        byte = (x >> np.uint64(8 * k)) & _LOW_BYTE
        after ^= _CRC_TABLES[np.uint64(256 * (7 - k)) + byte]
    return after


#: ``crc32c_u64(register, word)``: advance the register (uint64, upper half zero) by a word's eight bytes.
crc32c_u64: Final = _crc32c_instruction if HAS_CRC_INSTRUCTION else crc32c_u64_portable


@kernel(inline=True)
def crc32c_begin(seed):
    """Return the register that goes on from the finished checksum `seed`; 0 starts afresh."""
    return (np.uint64(seed) & _LOW_HALF) ^ _LOW_HALF


@kernel(inline=True)
def crc32c_end(register):
    """Return the finished checksum, uint64 below 2**32."""
    return np.uint64(register) ^ _LOW_HALF


@kernel
def crc32c_words(words, start, stop, seed):
    """Compute the common CRC-32C of the bytes of ``words[start:stop]``.

    Parameters
    ----------
    words : uint64[n], C-contiguous
        The buffer.
    start, stop : int64
        Range of words.
    seed : uint64
        Checksum of what comes before, 0 for nothing: as ``google_crc32c.extend(seed, data)``.

    Returns
    -------
    uint64
        Below 2**32. About 3 cycles a word: one dependent chain.
    """
    register = crc32c_begin(seed)
    for i in range(start, stop):
        register = crc32c_u64(register, words[i])
    return crc32c_end(register)


@kernel
def checksum_words(words, start, stop):
    """Compute the checksum of a large buffer, four CRC-32C lanes side by side.

    Parameters
    ----------
    words : uint64[n], C-contiguous
        The buffer.
    start, stop : int64
        Range of words.

    Returns
    -------
    uint64
        Below 2**32: CRC-32C of five words, the results of lanes 0 to 3 and ``stop - start``. Lane j is the
        CRC-32C of the words ``start + 4 k + j`` for k = 0, 1, ... and 0 if it has none. Not the value of
        `crc32c_words`. Four chains hide the latency of the instruction: 8 bytes a cycle where the CPU starts
        one in each cycle (Intel, AMD since Zen 3), as fast as one chain where it does not.
    """
    lane0 = lane1 = lane2 = lane3 = crc32c_begin(np.uint64(0))
    whole = start + ((stop - start) & ~3)
    for i in range(start, whole, 4):
        lane0 = crc32c_u64(lane0, words[i])
        lane1 = crc32c_u64(lane1, words[i + 1])
        lane2 = crc32c_u64(lane2, words[i + 2])
        lane3 = crc32c_u64(lane3, words[i + 3])
    if whole < stop:
        lane0 = crc32c_u64(lane0, words[whole])
    if whole + 1 < stop:
        lane1 = crc32c_u64(lane1, words[whole + 1])
    if whole + 2 < stop:
        lane2 = crc32c_u64(lane2, words[whole + 2])
    register = crc32c_begin(np.uint64(0))
    for lane in (lane0, lane1, lane2, lane3):
        register = crc32c_u64(register, crc32c_end(lane))
    return crc32c_end(crc32c_u64(register, np.uint64(stop - start)))
