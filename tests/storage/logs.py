"""A log of its own for a test: frames whose contents follow from their LSN."""

import numpy as np

from ledger.layout import ACCOUNT, FRAME_HEADER
from ledger.storage.files import Files
from ledger.storage.log import Log, Mark

LEDGER = bytes(range(16))
START = Mark(0, bytes(16), 1)
KIB = 1024
FIELD = {name: FRAME_HEADER.fields[name][1] for name in FRAME_HEADER.names}


def payload(lsn, rows, deletes):
    """Return the rows and keys that frame `lsn` of a test holds."""
    generator = np.random.default_rng(lsn)
    accounts = np.frombuffer(generator.bytes(rows * ACCOUNT.itemsize), ACCOUNT)
    return accounts, np.frombuffer(generator.bytes(deletes * 32), np.uint8).reshape(deletes, 32)


def submit(log, rows=3, deletes=1, durable_lsn=None):
    lsn = log.lsn + 1
    accounts, keys = payload(lsn, rows, deletes)
    buffer = log.buffer(rows, deletes)
    buffer.rows_view(rows)[:] = accounts.view(np.uint64).reshape(rows, 8)
    buffer.keys_view(deletes, rows)[:] = keys
    return log.submit(
        buffer,
        lsn=lsn,
        rows=rows,
        deletes=deletes,
        batches=1,
        durable_lsn=log.durable_lsn if durable_lsn is None else durable_lsn,
        known_lsn=lsn - 1,
        live=lsn,
        supply=(1 << 70) + lsn,
        wall_time_ns=lsn,
    )


def append(log, count=1, **arguments):
    for _ in range(count):
        ticket = submit(log, **arguments)
        log.wait(ticket)
        log.release(ticket.buffer)


def create(folder, *, files=None, mode="sync", segment_bytes=64 * KIB, bytes_max=1024 * KIB):
    return Log.create(
        files or Files(),
        folder,
        ledger_id=LEDGER,
        epoch=1,
        mode=mode,
        segment_bytes=segment_bytes,
        bytes_max=bytes_max,
    )


def scan(folder, mark=START, *, files=None, **arguments):
    return Log.scan(
        files or Files(),
        folder,
        ledger_id=LEDGER,
        lsn=mark.lsn,
        digest=mark.digest,
        first_segment=mark.first_segment,
        **arguments,
    )


def read(folder, mark=START, **arguments):
    """Read all frames, compare each with what the test wrote, and return the finished scan."""
    reader = scan(folder, mark, **arguments)
    for frame in reader:
        rows, keys = payload(frame.lsn, len(frame.rows), len(frame.deletes))
        assert rows.tobytes() == frame.rows.tobytes() and keys.tobytes() == frame.deletes.tobytes()
        assert (1 << 70) + frame.lsn == frame.header.supply
        assert frame.lsn == frame.header.live == frame.header["live"] == frame.header["lsn"]
    return reader


def resume(reader, epoch=2, *, mode="sync", segment_bytes=64 * KIB, bytes_max=1024 * KIB):
    return Log.resume(reader, epoch=epoch, mode=mode, segment_bytes=segment_bytes, bytes_max=bytes_max)


def write(folder, frames, **arguments):
    """Make a log of some frames and close it."""
    log = create(folder, **arguments)
    append(log, frames)
    log.close()


def go_on(reader, epoch=2, *, frames, **arguments):
    """Go on with a log that was read, add some frames, and close it."""
    log = resume(reader, epoch, **arguments)
    append(log, frames)
    log.close()
