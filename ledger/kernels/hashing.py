"""Keyed BLAKE3 of 32-byte public keys, eight at once: words 0, 1 and 2 of the digest.

A 32-byte input is one block of one chunk, so the hash is one compression (BLAKE3 paper, section 2.2): the
chaining value is the key, the counter 0, the block length 32, the flags CHUNK_START, CHUNK_END, ROOT and
KEYED_HASH, and message words 8 to 15 are zero. The code generator below writes that compression for a word
type: ``i32`` for one key, ``<8 x i32>`` for eight keys with one key a lane. Both come from the same lines.

Invariants: for every key and input, ``out[0:3]`` are the first three little-endian uint32 words of
``blake3(input, key=key).digest()``; `hash1`, `hash8` and the piecewise form are equal bit by bit.

`hash8` is a thousand instructions that ask nothing of the memory: a fused loop runs `hash8_start`,
`hash8_part` 0 to 3 and `hash8_finish` between its memory operations instead.
"""

from __future__ import annotations

from typing import Any, Final

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.errors import TypingError
from numba.extending import intrinsic

from ledger.kernels.intrinsics import check_bounds
from ledger.kernels.jit import kernel

LANES: Final = 8
DIGEST_WORDS: Final = 3
STATE_WORDS: Final = 24 * LANES  # of `hash8_start`: 16 words of state and 8 of message, each LANES wide

KEY_LANES: Final = 8
MESSAGE_WORDS: Final = 8
ROUNDS: Final = 7
PART_ROUNDS: Final = ((0, 2), (2, 4), (4, 6), (6, 7))
IV: Final = (0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A)
BLOCK_LENGTH: Final = 32
FLAGS: Final = 1 | 2 | 8 | 16  # CHUNK_START | CHUNK_END | ROOT | KEYED_HASH
PERMUTATION: Final = (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)
SCHEDULE: Final[list[tuple[int, ...]]] = [tuple(range(16))]
for _ in range(1, ROUNDS):
    SCHEDULE.append(tuple(SCHEDULE[-1][i] for i in PERMUTATION))
COLUMNS: Final = ((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15))
DIAGONALS: Final = ((0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14))

_I32: Final = ir.IntType(32)
_I64: Final = ir.IntType(64)
_V8: Final = ir.VectorType(_I32, LANES)


# ---------------------------------------------------------------- the compression, for any word type
def _splat(builder: Any, kind: Any, value: Any) -> Any:
    """Emit `value` (i32) in every lane of `kind`."""
    if kind == _I32:
        return value
    lane0 = builder.insert_element(ir.Constant(kind, ir.Undefined), value, _I32(0))
    zeros = ir.Constant(ir.VectorType(_I32, kind.count), [0] * kind.count)
    return builder.shuffle_vector(lane0, ir.Constant(kind, ir.Undefined), zeros)


def _constant(kind: Any, value: int) -> Any:
    """Return the constant `value` in every lane of `kind`."""
    return ir.Constant(kind, value if kind == _I32 else [value] * kind.count)


def _rotate_right(builder: Any, kind: Any, value: Any, bits: int) -> Any:
    """Emit a rotation; ``fshr`` leaves the choice of instructions to LLVM."""
    name = "llvm.fshr.i32" if kind == _I32 else f"llvm.fshr.v{kind.count}i32"
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(kind, [kind] * 3), name)
    return builder.call(function, [value, value, _constant(kind, bits)])


def _initial_state(builder: Any, kind: Any, key_words: list) -> list:
    """Return the sixteen words before round 0."""
    tail = (*IV, 0, 0, BLOCK_LENGTH, FLAGS)
    return [_splat(builder, kind, word) for word in key_words] + [_constant(kind, word) for word in tail]


def _emit_round(builder: Any, kind: Any, state: list, message: Any) -> None:
    """Emit one round on `state` in place; ``message(n)`` is the n-th word to add, None for zero."""
    for step, (a, b, c, d) in enumerate(COLUMNS + DIAGONALS):
        for n, right_d, right_b in ((2 * step, 16, 12), (2 * step + 1, 8, 7)):
            state[a] = builder.add(state[a], state[b])
            if (word := message(n)) is not None:
                state[a] = builder.add(state[a], word)
            state[d] = _rotate_right(builder, kind, builder.xor(state[d], state[a]), right_d)
            state[c] = builder.add(state[c], state[d])
            state[b] = _rotate_right(builder, kind, builder.xor(state[b], state[c]), right_b)


def _emit_rounds(builder: Any, kind: Any, state: list, message: list, first: int, stop: int) -> list:
    """Emit rounds `first` to `stop` - 1 in a row and return the new state; zero words cost nothing."""
    state, padded = list(state), message + [None] * MESSAGE_WORDS
    for order in SCHEDULE[first:stop]:
        _emit_round(builder, kind, state, lambda n, order=order: padded[order[n]])
    return state


def _emit_loop(builder: Any, kind: Any, state: list, message: list) -> list:
    """Emit all rounds as a loop: a quarter of the time to compile, for keys that eight lanes leave over."""
    words = cgutils.alloca_once(builder, kind, size=16)
    for i, word in enumerate(message + [_constant(kind, 0)] * MESSAGE_WORDS):
        builder.store(word, builder.gep(words, [_I64(i)]))
    places = [cgutils.alloca_once_value(builder, word) for word in state]
    table_kind = ir.ArrayType(ir.IntType(8), 16 * ROUNDS)
    data = bytearray(place for order in SCHEDULE for place in order)
    table = cgutils.global_constant(builder, "blake3_schedule", ir.Constant(table_kind, data))
    table = builder.bitcast(table, ir.IntType(8).as_pointer())
    with cgutils.for_range(builder, _I64(ROUNDS)) as loop:
        first = builder.mul(loop.index, _I64(16))

        def message_word(n: int) -> Any:
            order = builder.load(builder.gep(table, [builder.add(first, _I64(n))]))
            return builder.load(builder.gep(words, [builder.zext(order, _I64)]))

        inner = [builder.load(place) for place in places]
        _emit_round(builder, kind, inner, message_word)
        for word, place in zip(inner, places, strict=True):
            builder.store(word, place)
    return [builder.load(place) for place in places]


def _digest_words(builder: Any, state: list) -> list:
    """Emit the first words of the digest."""
    return [builder.xor(state[i], state[i + 8]) for i in range(DIGEST_WORDS)]


# ---------------------------------------------------------------- arrays
def _expect(array: Any, dtype: Any, ndim: int, what: str) -> None:
    """Refuse at compile time what is not a C-contiguous array of `dtype`."""
    if not (isinstance(array, types.Array) and array.dtype == dtype and array.ndim == ndim and array.layout == "C"):
        raise TypingError(f"{what}: expected a C-contiguous {dtype} array of {ndim} dimensions, got {array}")


def _expect_all(rows: Any, key: Any, out: Any) -> None:
    """Check the array types of `hash8` and `hash1`."""
    _expect(rows, types.uint64, 2, "rows")
    _expect(key, types.uint32, 1, "key")
    _expect(out, types.uint32, 2, "out")


def _array(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    """Unpack an array argument."""
    return context.make_array(kind)(context, builder, value)


def _row_pointers(context: Any, builder: Any, rows: Any, row: Any, count: int) -> list:
    """Emit the addresses (``i64*``) of rows `row` to `row` + `count` - 1."""
    length, width = cgutils.unpack_tuple(builder, rows.shape, 2)
    check_bounds(context, builder, row, length)
    check_bounds(context, builder, builder.add(row, _I64(count - 1)), length)
    first = builder.mul(row, width)
    places = [builder.add(first, builder.mul(width, _I64(i))) for i in range(count)]
    return [builder.gep(rows.data, [place]) for place in places]


def _load_key(context: Any, builder: Any, key: Any) -> list:
    """Emit loads of the eight words of the hash key."""
    (length,) = cgutils.unpack_tuple(builder, key.shape, 1)
    check_bounds(context, builder, _I64(KEY_LANES - 1), length)
    pointers = [builder.gep(key.data, [_I64(i)]) for i in range(KEY_LANES)]
    return [builder.load(pointer, align=4, typ=_I32) for pointer in pointers]


def _store_digest(context: Any, builder: Any, out: Any, at: Any, words: list, lanes: int) -> None:
    """Emit stores of digest word w at ``out[w, at]`` and the following lanes."""
    height, width = cgutils.unpack_tuple(builder, out.shape, 2)
    check_bounds(context, builder, _I64(DIGEST_WORDS - 1), height)
    check_bounds(context, builder, at, width)
    check_bounds(context, builder, builder.add(at, _I64(lanes - 1)), width)
    for w, word in enumerate(words):
        pointer = builder.gep(out.data, [builder.add(at, builder.mul(width, _I64(w)))])
        builder.store(word, builder.bitcast(pointer, word.type.as_pointer()), align=4)


def _load_transposed(builder: Any, pointers: list) -> list:
    """Emit loads of eight 32-byte keys and the 8 x 8 transposition: vector i holds word i of every key."""
    # Rows are aligned to 8 bytes only.
    rows = [builder.load(builder.bitcast(p, _V8.as_pointer()), align=8, typ=_V8) for p in pointers]

    def pair(a: Any, b: Any, mask: list[int]) -> Any:
        return builder.shuffle_vector(a, b, ir.Constant(_V8, mask))

    # Each step is one AVX2 instruction: interleave words, then double words, then 128-bit halves.
    low, high = [0, 8, 1, 9, 4, 12, 5, 13], [2, 10, 3, 11, 6, 14, 7, 15]
    words = [pair(rows[i], rows[i + 1], mask) for i in range(0, 8, 2) for mask in (low, high)]
    low, high = [0, 1, 8, 9, 4, 5, 12, 13], [2, 3, 10, 11, 6, 7, 14, 15]
    quads = [pair(words[i], words[i + 2], mask) for i in (0, 1, 4, 5) for mask in (low, high)]
    low, high = [0, 1, 2, 3, 8, 9, 10, 11], [4, 5, 6, 7, 12, 13, 14, 15]
    return [pair(quads[i], quads[i + 4], mask) for mask in (low, high) for i in range(4)]


def _state_pointers(context: Any, builder: Any, state: Any) -> list:
    """Emit the addresses of the 24 vectors of a piecewise state: words 0 to 15, message 0 to 7."""
    (length,) = cgutils.unpack_tuple(builder, state.shape, 1)
    check_bounds(context, builder, _I64(STATE_WORDS - 1), length)
    base = builder.bitcast(state.data, _V8.as_pointer())
    return [builder.gep(base, [_I64(i)]) for i in range(STATE_WORDS // LANES)]


# ---------------------------------------------------------------- whole hashes
@intrinsic
def hash8(typingctx, rows, row, key, out, at):
    """Hash the keys of eight rows: ``out[w, at + lane]`` = digest word w of ``rows[row + lane, :4]``.

    Parameters
    ----------
    rows : uint64[n, W], C-contiguous
        W >= 4; the first four words of a row are its public key.
    row : int64
        First of eight rows.
    key : uint32[8], C-contiguous
        Hash key.
    out : uint32[3, R], C-contiguous
        Digest words; ``at + 8 <= R``.
    at : int64
        First column.
    """
    _expect_all(rows, key, out)

    def codegen(context, builder, signature, args):
        rows_, key_, out_ = (_array(context, builder, signature.args[i], args[i]) for i in (0, 2, 3))
        message = _load_transposed(builder, _row_pointers(context, builder, rows_, args[1], LANES))
        state = _initial_state(builder, _V8, _load_key(context, builder, key_))
        state = _emit_rounds(builder, _V8, state, message, 0, ROUNDS)
        _store_digest(context, builder, out_, args[4], _digest_words(builder, state), LANES)
        return context.get_dummy_value()

    return types.void(rows, types.intp, key, out, types.intp), codegen


def _split_words(builder: Any, words: list) -> list:
    """Emit the 32-bit halves of 64-bit words, low half first."""
    halves = []
    for word in words:
        halves += [builder.trunc(word, _I32), builder.trunc(builder.lshr(word, _I64(32)), _I32)]
    return halves


@intrinsic
def hash1(typingctx, rows, row, key, out, at):
    """Hash the key of one row, as `hash8` does for eight: ``out[w, at]`` = digest word w.

    For the rows that groups of eight leave over: it compiles fast; `hash1_words` runs faster.
    """
    _expect_all(rows, key, out)

    def codegen(context, builder, signature, args):
        rows_, key_, out_ = (_array(context, builder, signature.args[i], args[i]) for i in (0, 2, 3))
        (first,) = _row_pointers(context, builder, rows_, args[1], 1)
        words = [builder.load(builder.gep(first, [_I64(i)]), align=8, typ=_I64) for i in range(4)]
        state = _initial_state(builder, _I32, _load_key(context, builder, key_))
        state = _emit_loop(builder, _I32, state, _split_words(builder, words))
        _store_digest(context, builder, out_, args[4], _digest_words(builder, state), 1)
        return context.get_dummy_value()

    return types.void(rows, types.intp, key, out, types.intp), codegen


@intrinsic
def hash1_words(typingctx, k0, k1, k2, k3, key):
    """Hash one public key given as four uint64 words; return digest words 0, 1, 2 as uint32s."""
    _expect(key, types.uint32, 1, "key")
    result = types.UniTuple(types.uint32, DIGEST_WORDS)

    def codegen(context, builder, signature, args):
        key_ = _array(context, builder, signature.args[4], args[4])
        state = _initial_state(builder, _I32, _load_key(context, builder, key_))
        state = _emit_rounds(builder, _I32, state, _split_words(builder, args[:4]), 0, ROUNDS)
        return context.make_tuple(builder, result, _digest_words(builder, state))

    return result(types.uint64, types.uint64, types.uint64, types.uint64, key), codegen


# ---------------------------------------------------------------- the same in pieces
@intrinsic
def hash8_start(typingctx, rows, row, key, state):
    """Load and transpose eight keys into `state`; `hash8_part` 0, 1, 2, 3 and `hash8_finish` follow.

    Parameters
    ----------
    rows, row, key
        As for `hash8`.
    state : uint32[STATE_WORDS], C-contiguous
        Scratch that stays in the L1 cache, best aligned to 32 bytes; one for each group under way.
    """
    _expect(rows, types.uint64, 2, "rows")
    _expect(key, types.uint32, 1, "key")
    _expect(state, types.uint32, 1, "state")

    def codegen(context, builder, signature, args):
        rows_, key_, state_ = (_array(context, builder, signature.args[i], args[i]) for i in (0, 2, 3))
        message = _load_transposed(builder, _row_pointers(context, builder, rows_, args[1], LANES))
        begin = _initial_state(builder, _V8, _load_key(context, builder, key_))
        pointers = _state_pointers(context, builder, state_)
        # Words 8 to 15 are constants, which part 0 knows.
        for word, pointer in zip(begin[:8] + message, pointers[:8] + pointers[16:], strict=True):
            builder.store(word, pointer, align=4)
        return context.get_dummy_value()

    return types.void(rows, types.intp, key, state), codegen


@intrinsic(prefer_literal=True)
def hash8_part(typingctx, state, part):
    """Run a quarter of the rounds; `part` is a literal 0, 1, 2 or 3, in this order."""
    _expect(state, types.uint32, 1, "state")
    if not isinstance(part, types.IntegerLiteral) or not 0 <= part.literal_value < len(PART_ROUNDS):
        raise TypingError(f"part: expected a literal from 0 to {len(PART_ROUNDS) - 1}, got {part}")
    first, stop = PART_ROUNDS[part.literal_value]

    def codegen(context, builder, signature, args):
        pointers = _state_pointers(context, builder, _array(context, builder, signature.args[0], args[0]))
        message = [builder.load(pointer, align=4, typ=_V8) for pointer in pointers[16:]]
        known = _initial_state(builder, _V8, [])
        words = [builder.load(pointer, align=4, typ=_V8) for pointer in pointers[: 8 if first == 0 else 16]]
        words += known[len(words) - 8 :] if first == 0 else []
        words = _emit_rounds(builder, _V8, words, message, first, stop)
        if stop == ROUNDS:
            words = _digest_words(builder, words)
        for word, pointer in zip(words, pointers, strict=False):
            builder.store(word, pointer, align=4)
        return context.get_dummy_value()

    return types.void(state, part), codegen


@intrinsic
def hash8_finish(typingctx, state, out, at):
    """Store the digest words that `hash8_part` 3 left: ``out[w, at + lane]``, as `hash8` does."""
    _expect(state, types.uint32, 1, "state")
    _expect(out, types.uint32, 2, "out")

    def codegen(context, builder, signature, args):
        state_, out_ = (_array(context, builder, signature.args[i], args[i]) for i in (0, 1))
        pointers = _state_pointers(context, builder, state_)[:DIGEST_WORDS]
        words = [builder.load(pointer, align=4, typ=_V8) for pointer in pointers]
        _store_digest(context, builder, out_, args[2], words, LANES)
        return context.get_dummy_value()

    return types.void(state, out, types.intp), codegen


# ---------------------------------------------------------------- batch
@kernel
def hash_rows(rows, key, out):
    """Hash the key of every row: ``out[w, i]`` = digest word w of ``rows[i, :4]``.

    Parameters
    ----------
    rows : uint64[n, W], C-contiguous
        W >= 4; the first four words of a row are its public key.
    key : uint32[8], C-contiguous
        Hash key.
    out : uint32[3, R], C-contiguous
        Digest words, R >= n.
    """
    count = rows.shape[0]
    whole = count & ~7
    for row in range(0, whole, 8):
        hash8(rows, row, key, out, row)
    for row in range(whole, count):
        hash1(rows, row, key, out, row)
