"""FORMAT.md says what layout.py says, and what the engine writes."""

import re
import time
import uuid
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
from blake3 import blake3

import ledger
from ledger import ACCOUNT, GeometricLedger, Options, layout
from ledger.storage.files import Files
from ledger.storage.headers import is_sealed

TEXT = (Path(ledger.__file__).parent / "FORMAT.md").read_text(encoding="utf-8")
CLOCK_NS = 1_700_000_000 * 10**9
LEDGER_ID = bytes(range(0xA0, 0xB0))
HASH_KEY = bytes(range(32))
KEY = bytes(range(0x20, 0x40))
TYPES = {"<u8": "u64", "<u4": "u32", "<f8": "f64"}
DTYPES = {name: kind for name, kind in vars(layout).items() if name.isupper() and isinstance(kind, np.dtype)}
INVERT = 0xFFFFFFFF


# ---------------------------------------------------------------- the document
def tables() -> dict[str, list[list[str]]]:
    """Return the rows of each table of fields, by the dtype in the heading above it."""
    found = {}
    for part in re.split(r"^### ", TEXT, flags=re.MULTILINE)[1:]:
        name = re.match(r"`([A-Z_]+)`", part)
        if name:
            lines = re.findall(r"^\| \d.*\|$", part.split("\n## ")[0], flags=re.MULTILINE)
            found[name[1]] = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    return found


def hex_lines() -> list[tuple[str, int, bytes]]:
    """Return file, offset and bytes of each line of the worked example."""
    found = []
    for name, body in re.findall(r"^```hex (\S+)\n(.*?)^```", TEXT, flags=re.MULTILINE | re.DOTALL):
        for line in body.splitlines():
            offset, first, second = re.match(r"([0-9a-f]{8}): ([0-9a-f]{16}) ([0-9a-f]{16})(?:  |$)", line).groups()
            found.append((name, int(offset, 16), bytes.fromhex(first + second)))
    return found


def type_name(kind: np.dtype) -> str:
    if kind.fields is not None:
        return next(name for name, known in DTYPES.items() if known == kind)
    return TYPES.get(kind.str, "bytes")


# ---------------------------------------------------------------- checksums, as the document defines them
def crc32c(data: bytes) -> int:
    return google_crc32c.value(data)


def step(register: int, word: int) -> int:
    return google_crc32c.extend(register ^ INVERT, word.to_bytes(8, "little")) ^ INVERT


def lanes(data: bytes) -> int:
    words = np.frombuffer(data, "<u8")
    sums = [crc32c(words[lane::4].tobytes()) for lane in range(4)]
    return crc32c(b"".join(number.to_bytes(8, "little") for number in (*sums, len(words))))


def seal(ledger_id: bytes, shard: int, generation: int, slot: int, key: bytes, cell) -> int:
    place = crc32c(ledger_id + shard.to_bytes(4, "little") + generation.to_bytes(4, "little")) ^ slot
    for word in np.frombuffer(key, "<u8").tolist():
        place = step(place, word)
    lsn = int(cell["lsn"])
    register = lsn & 0xFFFFFFFF
    for name in ("balance", "nonce", "staked", "last_modified"):
        register = step(register, int(cell[name]))
    register = step(register, int(cell["flags"]) << 32 | lsn >> 32)
    return step(register, place)


# ---------------------------------------------------------------- files
@pytest.fixture
def steady(monkeypatch):
    """Make the engine's clock, ids and boot the ones of the example."""
    monkeypatch.setattr(time, "time_ns", lambda: CLOCK_NS)
    monkeypatch.setattr(uuid, "uuid4", lambda: uuid.UUID(bytes=LEDGER_ID))
    monkeypatch.setattr("ledger.storage.control.boot_id", lambda: bytes(range(0xB0, 0xC0)))


def make_example(folder: Path) -> None:
    row = np.zeros(1, ACCOUNT)
    row["pubkey"][0] = np.frombuffer(KEY, np.uint8)
    row["last_modified"] = CLOCK_NS // 10**9
    options = Options(
        shards=1, capacity=4, index_load=0.5, hash_key=HASH_KEY, log_segment_bytes=1 << 16, log_bytes_max=1 << 20
    )
    with GeometricLedger.open(folder, options) as book:
        for row["balance"], row["nonce"] in ((1000, 1), (750, 2)):
            book.update_batch(row)


def make_ledger(folder: Path, rows: int, options: Options, *, files: Files | None = None) -> np.ndarray:
    """Write a ledger in two batches with a snapshot after each, and close it."""
    records = np.zeros(rows, ACCOUNT)
    records["pubkey"] = np.random.default_rng(1).integers(0, 256, (rows, 32), np.uint8)
    records["balance"] = np.arange(rows)
    with GeometricLedger.open(folder, options, files=files) as book:
        book.update_batch(records)
        book.snapshot()
        records["nonce"] = 7
        book.update_batch(records[: rows // 2], records["pubkey"][-3:])
        book.snapshot()
    return records


def read(folder: Path, name: str, offset: int, kind: np.dtype, count: int = 1) -> np.ndarray:
    with open(folder / name, "rb") as file:
        file.seek(offset)
        return np.frombuffer(file.read(kind.itemsize * count), kind)


# ---------------------------------------------------------------- tests
def test_every_dtype_has_a_table():
    assert set(DTYPES) == set(tables())


@pytest.mark.parametrize("name", DTYPES)
def test_table_is_the_dtype(name):
    kind = DTYPES[name]
    fields = [(name, *kind.fields[name][:2]) for name in kind.names]
    expected = [[str(offset), str(field.itemsize), type_name(field), f"`{name}`"] for name, field, offset in fields]
    rows = tables()[name]
    assert expected == [row[:4] for row in rows]
    end = 0
    for offset, size, *_ in rows:
        assert int(offset) == end, "fields leave no gap"
        end += int(size)
    assert end == kind.itemsize


def test_magics_are_those_of_the_layout():
    told = set(re.findall(r"\| `(GL[A-Z]{5}1)`", TEXT)) | set(re.findall(r"or `(GL[A-Z]{5}1)`", TEXT))
    known = {value.to_bytes(8, "little").decode() for name, value in vars(layout).items() if name.startswith("MAGIC_")}
    assert known == told


def test_words_of_the_state_are_those_of_the_layout():
    told = {name: int(word) for word, name in re.findall(r"^\| (\d+) \| `(STATE_\w+)`", TEXT, flags=re.MULTILINE)}
    known = {name: value for name, value in vars(layout).items() if name.startswith("STATE_") and name != "STATE_WORDS"}
    assert known == told
    assert f"u64 * {layout.STATE_WORDS}," in TEXT


def test_version_and_sizes_in_the_text_are_those_of_the_layout():
    assert f"Format version {layout.FORMAT_VERSION}." in TEXT
    assert f"zeros to byte {layout.CONTROL_COPY_BYTES}," in TEXT
    assert f"`{layout.BLOCK_BYTES} + {layout.RECORD_BYTES} * s`" in TEXT


def test_worked_example_is_what_the_engine_writes(tmp_path, steady):
    make_example(tmp_path / "x")
    data = {name: (tmp_path / "x" / name).read_bytes() for name, _, _ in hex_lines()}
    before = {}
    for name, offset, expected in hex_lines():
        assert expected.hex() == data[name][offset : offset + 16].hex(), (name, hex(offset))
        if name in before:
            assert not any(data[name][before[name] : offset]), f"{name}: a line before {offset:#x} is left out"
        before[name] = offset + 16
    assert {"shard_000.bin", "index_000.bin", "log/0000000001.seg", "control.bin", ".clean_shutdown"} == set(data)


def test_seal_of_the_example_is_the_formula_of_the_text(tmp_path, steady):
    make_example(tmp_path / "x")
    record = read(tmp_path / "x", "shard_000.bin", 4096, layout.RECORD)[0]
    for name, lsn in (("a", 1), ("b", 2)):
        assert lsn == record[name]["lsn"]
        assert seal(LEDGER_ID, 0, 0, 0, KEY, record[name]) == record[name]["crc"]
    assert seal(LEDGER_ID, 0, 0, 1, KEY, record["b"]) != record["b"]["crc"]


def test_records_and_indexes_of_many_accounts_follow_the_text(tmp_path):
    rows, shards = 600, 4
    records = make_ledger(tmp_path / "x", rows, Options(shards=shards, capacity=2000, hash_key=HASH_KEY))
    control = newest_control(tmp_path / "x")
    table = read(tmp_path / "x", "control.bin", newest_offset(tmp_path / "x") + 464, layout.CONTROL_SHARD, shards)
    seen = {}
    for shard, entry in enumerate(table):
        used, positions = int(entry["used"]), int(entry["positions"])
        index = read(tmp_path / "x", f"index_{shard:03d}.bin", 4096, np.dtype("<u8"), positions)
        assert entry["index_sum"] == sum(mix(int(w), at) for at, w in enumerate(index) if w) % 2**32
        built = [0] * positions
        for slot, record in enumerate(read(tmp_path / "x", f"shard_{shard:03d}.bin", 4096, layout.RECORD, used)):
            key = record["pubkey"].tobytes()
            w = np.frombuffer(blake3(key, key=HASH_KEY).digest(length=12), "<u4").tolist()
            assert w[0] % shards == shard
            at = w[1] * positions >> 32
            while built[at]:
                at = (at + 1) % positions
            built[at] = w[2] << 32 | slot + 1
            for name in ("a", "b"):
                if record[name]["lsn"]:
                    crc = seal(control["ledger_id"].tobytes(), shard, 0, slot, key, record[name])
                    assert crc == record[name]["crc"]
            newest = max(record["a"], record["b"], key=lambda cell: cell["lsn"])
            if newest["flags"] & 1:
                seen[key] = int(newest["balance"]), int(newest["nonce"])
        assert built == index.tolist()
    kept = records[:-3]
    expected = {row["pubkey"].tobytes(): (i, 7 if i < rows // 2 else 0) for i, row in enumerate(kept)}
    assert expected == seen


def mix(word: int, position: int) -> int:
    """Return what the text says an entry adds to the index sum."""
    x = word ^ position * 0x9E3779B97F4A7C15 % 2**64
    x = (x ^ x >> 33) * 0xFF51AFD7ED558CCD % 2**64
    x = (x ^ x >> 33) * 0xC4CEB9FE1A85EC53 % 2**64
    return x ^ x >> 33


def newest_offset(folder: Path) -> int:
    first, second = (read(folder, "control.bin", at, layout.CONTROL)[0] for at in (0, layout.CONTROL_COPY_BYTES))
    assert is_sealed(first.tobytes()) and is_sealed(second.tobytes())
    return 0 if first["sequence"] > second["sequence"] else layout.CONTROL_COPY_BYTES


def newest_control(folder: Path) -> np.void:
    return read(folder, "control.bin", newest_offset(folder), layout.CONTROL)[0]


def test_every_header_on_disk_has_the_checksum_of_the_text(tmp_path, steady):
    make_example(tmp_path / "x")
    for name, offset, kind in (
        ("shard_000.bin", 0, layout.FILE_HEADER),
        ("index_000.bin", 0, layout.FILE_HEADER),
        ("log/0000000001.seg", 0, layout.SEGMENT_HEADER),
        ("log/0000000001.seg", 4096, layout.FRAME_HEADER),
        ("log/0000000001.seg", 8192, layout.FRAME_HEADER),
        ("control.bin", 0, layout.CONTROL),
        ("control.bin", layout.CONTROL_COPY_BYTES, layout.CONTROL),
        (".clean_shutdown", 0, layout.CLEAN),
    ):
        header = read(tmp_path / "x", name, offset, kind)
        assert crc32c(header.tobytes()[:-4] + bytes(4)) == header["crc"][0], (name, offset)


def test_frames_are_chained_as_the_text_says(tmp_path, steady):
    make_example(tmp_path / "x")
    digest = bytes(16)
    for lsn in (1, 2):
        raw = (tmp_path / "x" / "log" / "0000000001.seg").read_bytes()[4096 * lsn : 4096 * (lsn + 1)]
        header = np.frombuffer(raw[:256], layout.FRAME_HEADER)[0]
        assert digest == header["previous_digest"].tobytes()
        assert lanes(raw[256 : 256 + int(header["payload_bytes"])]) == header["payload_checksum"]
        digest = blake3(raw[:256]).digest(length=16)
    assert digest == newest_control(tmp_path / "x")["log_digest"].tobytes()


class KeepJournal(Files):
    """Leaves the journal behind."""

    kept = b""

    def unlink(self, path: Path, *, missing_ok: bool = False) -> None:
        if path.name == "journal.bin":
            self.kept = path.read_bytes()
        super().unlink(path, missing_ok=missing_ok)


def test_journal_is_laid_out_as_the_text_says(tmp_path):
    files = KeepJournal()
    make_ledger(tmp_path / "x", 50, Options(shards=1, capacity=200, durability="none"), files=files)
    raw = files.kept
    header = np.frombuffer(raw[:128], layout.JOURNAL_HEADER)[0]
    assert header["magic"] == layout.MAGIC_JOURNAL and is_sealed(raw[:128])
    size, blocks = int(header["control_bytes"]), int(header["blocks"])
    control = np.frombuffer(raw[4096:], layout.CONTROL, 1)[0]
    assert control["checkpoint_lsn"] == header["lsn"] == 2
    at = 4096 + layout.round_up(size, 4096)
    entries = np.frombuffer(raw[at:], layout.JOURNAL_ENTRY, blocks)
    assert crc32c(entries.tobytes()) == header["table_crc"]
    at += layout.round_up(entries.nbytes, 4096)
    assert len(raw) == at + blocks * 4096 and blocks > 0
    for entry in entries:
        name = ("shard_000.bin", "index_000.bin")[entry["file"]]
        with open(tmp_path / "x" / name, "rb") as file:
            file.seek(int(entry["block"]) * 4096)
            assert raw[at : at + 4096] == file.read(4096)
        assert lanes(raw[at : at + 4096]) == entry["checksum"]
        at += 4096


def test_shared_state_is_the_file_that_the_text_names(tmp_path):
    make_ledger(tmp_path / "x", 10, Options(shards=1, capacity=200, durability="none", storage="shared"))
    state = read(tmp_path / "x", "state.bin", 0, np.dtype("<u8"), layout.STATE_WORDS)
    assert state[layout.STATE_COMMITTED] == 2
    assert state[layout.STATE_EPOCH] == newest_control(tmp_path / "x")["epoch"]
    assert (tmp_path / "x" / "state.bin").stat().st_size == layout.BLOCK_BYTES


def test_any_number_of_threads_leaves_the_same_bytes(tmp_path, steady):
    random = np.random.default_rng(5)
    records = np.zeros(8192, ACCOUNT)
    records["pubkey"][:, 0] = random.integers(0, 200, len(records))
    records["balance"] = random.integers(0, 2**40, len(records))
    left = []
    for threads in (1, 2, 4):
        folder = tmp_path / str(threads)
        with GeometricLedger.open(folder, Options(shards=4, capacity=2000, hash_key=HASH_KEY, threads=threads)) as book:
            for half in (records[:4096], records[4096:]):
                book.update_batch(half, half["pubkey"][:2048:7])
            assert book.verify().ok
        left.append({str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()})
    assert left[0] == left[1] == left[2]
