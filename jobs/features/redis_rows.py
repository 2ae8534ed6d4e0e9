"""Packed rows in Redis, without Feast: what the job, the scoring service and Spark's executors share.

In: Arrow batches of a view's rows. Out: one string key per entity and view, `<project>_<view>:<entity>`,
and beside them the newest as_of that was ever written. A script on the server keeps the newer row.
Errors: SluiceError where Redis cannot be used; it names host and port and never the password.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, cast

import pyarrow as pa
from redis import Redis
from redis.exceptions import RedisError

from jobs.core import SluiceError
from jobs.features.packed import MARK, Layout
from jobs.features.redis_client import connect

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

CHUNK = 200  # rows of one script; a script for each row, which a cluster would need, is four times slower
IN_FLIGHT = 20  # scripts that are sent before the first is answered
# KEYS: the entities and the key of the newest as_of. ARGV: their rows one after the other, the newest as_of.
# A time in microseconds is below 2**53, so Lua's doubles hold it exactly.
NEWEST_WINS = f"""
local written, count = 0, #KEYS - 1
local size = #ARGV[1] / count
for place = 1, count do
  local row = string.sub(ARGV[1], (place - 1) * size + 1, place * size)
  local held = redis.call('GET', KEYS[place])
  if not held or #held ~= size or string.sub(held, 1, {MARK}) ~= string.sub(row, 1, {MARK})
      or struct.unpack('<i8', held, {MARK + 1}) <= struct.unpack('<i8', row, {MARK + 1}) then
    redis.call('SET', KEYS[place], row)
    written = written + 1
  end
end
local newest = redis.call('GET', KEYS[#KEYS])
if not newest or tonumber(newest) < tonumber(ARGV[2]) then redis.call('SET', KEYS[#KEYS], ARGV[2]) end
return written
"""


@contextmanager
def explained(address: str) -> Iterator[None]:
    """Turn the errors of the client into one sentence."""
    try:
        yield
    except RedisError as error:
        place = address.split(",")[0]
        raise SluiceError(
            f"online store: Redis at {place} (SLUICE_REDIS_URL): {error}; look whether it runs, then run the "
            "job again"
        ) from None


def newest_key(layout: Layout) -> str:
    """Where the newest as_of of rows of these declarations lies."""
    return f"{layout.table}:newest:{layout.mark.hex()}"


def write(client: Redis, layout: Layout, batch: pa.RecordBatch) -> int:
    """Store the rows of a batch where no newer ones are; gives how many were stored."""
    if batch.num_rows == 0:
        return 0
    packed = layout.pack(batch)
    prefix, rows = f"{layout.table}:".encode(), packed.rows
    digest, newest, written = cast(str, client.script_load(NEWEST_WINS)), newest_key(layout), 0
    starts = range(0, len(packed.keys), CHUNK)
    for first in starts[::IN_FLIGHT]:
        with client.pipeline(transaction=False) as pipe:
            for start in range(first, min(first + IN_FLIGHT * CHUNK, len(packed.keys)), CHUNK):
                part = rows[start : start + CHUNK]
                keys = [b"%b%d" % (prefix, key) for key in packed.keys[start : start + CHUNK]]
                moment = str(part["as_of"].max())
                pipe.evalsha(digest, len(keys) + 1, *keys, newest, part.tobytes(), moment)
            written += sum(pipe.execute())
    return written


def read(client: Redis, wanted: Sequence[tuple[Layout, int]]) -> list[bytes | None]:
    """The stored rows of some entities, of whatever views, in one round trip; None where there is none."""
    return cast(list[bytes | None], client.mget([layout.address(key) for layout, key in wanted]))


def newest(client: Redis, layout: Layout) -> int | None:
    """The newest as_of that was written, in microseconds."""
    found = cast(bytes | None, client.get(newest_key(layout)))
    return None if found is None else int(found)


def remove(client: Redis, table: str) -> None:
    """Remove every row of a view."""
    found: list[bytes] = []
    for key in client.scan_iter(match=f"{table}:*", count=CHUNK):
        found.append(key)
        if len(found) == CHUNK:
            client.unlink(*found)
            found = []
    if found:
        client.unlink(*found)


def write_by_executors(rows: DataFrame, layout: Layout, address: str) -> int:
    """Store the rows of a Spark frame from where they are: only their number comes back to the driver."""
    from pyspark.sql import functions as F  # noqa: N812 - the name every Spark reader knows

    counted = rows.select(*layout.columns).mapInArrow(partial(_write_part, layout, address), "rows bigint")
    found = counted.agg(F.sum("rows")).collect()[0][0]
    return int(found or 0)


def _write_part(layout: Layout, address: str, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """What runs in an executor, for one part of the frame."""
    client = connect(address)
    with explained(address):
        written = sum(write(client, layout, batch) for batch in batches)
    yield pa.record_batch([pa.array([written], pa.int64())], ["rows"])
