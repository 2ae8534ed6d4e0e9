"""Velocity features in Redis, for scoring services that share their state.

In: events. Out: velocity features as of each. Reading and recording are one script for the customer and one
for the terminal, sent in one round trip; the keys of a script share a hash tag, so a cluster can run it.
An entity's keys, NAME being customer or terminal; times and ids are 8 bytes each, big-endian, so that they
sort as numbers do (amounts too, which are never negative), and the transaction's id is text:
    velocity:{NAME:ID}:events   sorted set: time, amount as a double, the other entity's id, transaction_id
    velocity:{NAME:ID}:known    set of transaction ids: an event counts once for the entity
    velocity:{NAME:ID}:sums     hash: bucket of nine minutes -> count, sum and sum of squares of its amounts
    velocity:{NAME:ID}:pairs    sorted set, of customers only: the other entity's id, time, transaction_id
What is older than the entity's memory goes when it is written to, and all of it once it is idle that long.
Errors: redis.RedisError while Redis does not answer; UnreadableError where a key holds what we never wrote.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from redis import Redis
from redis.exceptions import NoScriptError

from jobs.features.declarations import Entity
from jobs.features.redis_client import REQUEST_WAITS, connect
from jobs.features.redis_loop import LoopWire
from jobs.features.redis_wire import Command, Wire
from jobs.features.velocity_store import (
    PAIR_LOOKBACK,
    PLANS,
    SECOND,
    EntityPlan,
    Event,
    Row,
    Sums,
    UnreadableError,
    chunks_of,
    kept_from,
    row_of,
    velocity_of,
)

if TYPE_CHECKING:
    import pyarrow as pa

BULK_WAITS = 60.0
CHUNK = 2000  # events of one bulk round trip
BUSY = 200  # a stretch with more events is added up from buckets
BUCKET = 29  # bits of the time within a bucket: 2**29 microseconds are nine minutes
BIAS = 1 << 63  # times before 1970 sort before the others too
UNSIGNED = struct.Struct(">Q")
MEMBER = struct.Struct(">QdQ")
LATEST = struct.Struct(">Qd")
# the answer of READ: whether there is a pair, its time, the sums of each stretch, and then the last events
ANSWER = {entity: struct.Struct(f">?Q{3 * len(plan.windows)}d") for entity, plan in PLANS.items()}
ASKED = {entity: struct.Struct(f">{6 + len(plan.windows)}Q") for entity, plan in PLANS.items()}

# KEYS: events, known, sums, pairs (customers only)
# ARGV: the memory's start, its seconds, how many events, they; then how many of the last events matter, and
#       in one text the event's time, the lookback's start, the pair looked for from and to, and the window
#       starts, the nearest first
COMMON = """
local events, known, sums, pairs_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local function bucket_of(time)
    return math.floor(struct.unpack('>I5', time) / PER_BUCKET)
end
local function start_of(bucket)
    return struct.pack('>I5', bucket * PER_BUCKET) .. '\\0\\0\\0'
end
local function pair_of(member)
    return string.sub(member, 17, 24) .. string.sub(member, 1, 8) .. string.sub(member, 25)
end
"""
READ = """
local most, asked = ARGV[4 + ARGV[3]], ARGV[5 + ARGV[3]]
local moment, lookback = string.sub(asked, 1, 8), string.sub(asked, 9, 16)
local pair_from, pair_to = string.sub(asked, 17, 32), string.sub(asked, 33, 48)
local latest = redis.call('ZREVRANGEBYLEX', events, '(' .. moment, '[' .. lookback, 'LIMIT', 0, most)
for place, member in ipairs(latest) do
    latest[place] = string.sub(member, 1, 16)
end
local pair = pairs_key
    and redis.call('ZREVRANGEBYLEX', pairs_key, '(' .. pair_to, '[' .. pair_from, 'LIMIT', 0, 1)[1]
local parts = {pair and '\\1' .. string.sub(pair, 9, 16) or '\\0\\0\\0\\0\\0\\0\\0\\0\\0'}

local count, total, squares
local function add_events(from, to)
    for _, member in ipairs(redis.call('ZRANGEBYLEX', events, '[' .. from, '(' .. to)) do
        local amount = struct.unpack('>d', member, 9)
        count, total, squares = count + 1, total + amount, squares + amount * amount
    end
end
local function add_buckets(first_bucket, last_bucket)
    for start = first_bucket, last_bucket, 1000 do
        local fields = {}
        for bucket = start, math.min(start + 999, last_bucket) do
            fields[#fields + 1] = bucket
        end
        for _, packed in ipairs(redis.call('HMGET', sums, unpack(fields))) do
            if packed then
                local n, sum, of_squares = struct.unpack('>ddd', packed)
                count, total, squares = count + n, total + sum, squares + of_squares
            end
        end
    end
end
local to = moment
for place = 49, #asked, 8 do
    local from = string.sub(asked, place, place + 7)
    count, total, squares = 0, 0, 0
    local low, high = bucket_of(from) + 1, bucket_of(to)
    if low < high and redis.call('ZLEXCOUNT', events, '[' .. from, '(' .. to) > BUSY then
        add_events(from, start_of(low))
        add_buckets(low, high - 1)
        add_events(start_of(high), to)
    else
        add_events(from, to)
    end
    parts[#parts + 1] = struct.pack('>ddd', count, total, squares)
    to = from
end
local answer = table.concat(parts) .. table.concat(latest)
"""
RECORD = """
local recorded = 0
for place = 4, 3 + ARGV[3] do
    local member = ARGV[place]
    if redis.call('SADD', known, string.sub(member, 25)) == 1 then
        recorded = recorded + 1
        redis.call('ZADD', events, 0, member)
        if pairs_key then
            redis.call('ZADD', pairs_key, 0, pair_of(member))
        end
        local amount, n, sum, of_squares = struct.unpack('>d', member, 9), 0, 0, 0
        local bucket = bucket_of(member)
        local packed = redis.call('HGET', sums, bucket)
        if packed then
            n, sum, of_squares = struct.unpack('>ddd', packed)
        end
        packed = struct.pack('>ddd', n + 1, sum + amount, of_squares + amount * amount)
        redis.call('HSET', sums, bucket, packed)
    end
end
for _, member in ipairs(redis.call('ZRANGEBYLEX', events, '-', '(' .. ARGV[1])) do
    redis.call('SREM', known, string.sub(member, 25))
    redis.call('ZREM', events, member)
    redis.call('HDEL', sums, bucket_of(member))
    if pairs_key then
        redis.call('ZREM', pairs_key, pair_of(member))
    end
end
for _, key in ipairs(KEYS) do
    redis.call('EXPIRE', key, ARGV[2])
end
"""
CONSTANTS = f"local BUSY, PER_BUCKET = {BUSY}, {1 << (BUCKET - 24)}"  # five bytes of a time leave out 24 bits
TAKE = f"{CONSTANTS}{COMMON}{READ}{RECORD}return answer"
PEEK = f"{CONSTANTS}{COMMON}{READ}return answer"
WRITE = f"{CONSTANTS}{COMMON}{RECORD}return recorded"


class RedisVelocityStore:
    """The shared store."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._wire, self._loop = Wire(address, REQUEST_WAITS), LoopWire(address, REQUEST_WAITS)
        self._client = connect(address, REQUEST_WAITS)
        self._scripts = {text: str(self._client.script_load(text)) for text in (TAKE, PEEK, WRITE)}
        self._lessons: list[Command] = [("SCRIPT", "LOAD", text) for text in (TAKE, PEEK)]

    def take(self, event: Event) -> list[float]:
        """See VelocityStore."""
        return self.ask(event, record=True)[0]

    def peek(self, event: Event) -> list[float]:
        """See VelocityStore."""
        return self.ask(event, record=False)[0]

    def ask(
        self, event: Event, *, record: bool, beside: Sequence[str] = ()
    ) -> tuple[list[float], list[bytes | None]]:
        """The features of an event, and the values of keys of the same Redis, in one round trip.

        It may come twice: an event that is known is not recorded again, and is never in its own past.
        """
        commands = self._commands(event, record, beside)
        answers = self._wire.ask(commands)
        if _forgot(answers):
            self._wire.ask(self._lessons)
            answers = self._wire.ask(commands)
        return _told(event, answers, bool(beside))

    async def ask_in_loop(
        self, event: Event, *, record: bool, beside: Sequence[str] = ()
    ) -> tuple[list[float], list[bytes | None]]:
        """The same from an event loop, which goes on with other requests meanwhile."""
        commands = self._commands(event, record, beside)
        answers = await self._loop.ask(commands)
        if _forgot(answers):
            await self._loop.ask(self._lessons)
            answers = await self._loop.ask(commands)
        return _told(event, answers, bool(beside))

    def _commands(self, event: Event, record: bool, beside: Sequence[str]) -> list[Command]:
        transaction, moment, customer, terminal, amount = row_of(event)
        now, script = _now(), self._scripts[TAKE if record else PEEK]
        commands: list[Command] = [("MGET", *beside)] if beside else []
        for entity, plan in PLANS.items():
            key, other = _keys(entity, customer, terminal)
            member = _member(moment, amount, other, transaction)
            call = _call(
                plan, key, kept_from(moment, now, plan.memory), [member], _asked(plan, moment, other)
            )
            commands.append(("EVALSHA", script, *call))
        return commands

    def record_many(self, events: pa.Table) -> int:
        """See VelocityStore; an event is new where it is new to its customer."""
        new = 0
        now = _now()
        with connect(self._address, BULK_WAITS) as client:
            for chunk in chunks_of(events, CHUNK):
                calls, customers = _writes(chunk, now)
                new += sum(self._run(client, WRITE, calls)[:customers])
        return new

    def forget(self, before: datetime) -> int:
        """Nothing to do: keys are trimmed as they are written to, and end when nobody does."""
        return 0

    def close(self) -> None:
        """See VelocityStore."""
        self._wire.close()
        self._loop.close()
        self._client.close()

    def _run(self, client: Redis, script: str, calls: list[list[Any]]) -> list[Any]:
        """The answers of a script, called for several entities in one round trip."""
        for attempt in (1, 2):
            with client.pipeline(transaction=False) as pipeline:
                for call in calls:
                    pipeline.evalsha(self._scripts[script], *call)
                try:
                    return pipeline.execute()
                except NoScriptError:  # Redis has started anew; what did run finds itself known
                    if attempt == 2:
                        raise
                    client.script_load(script)
        raise AssertionError("unreachable")


def _forgot(answers: Sequence[Any]) -> bool:
    """Whether Redis has started anew; what did run finds itself known when it is asked again."""
    return any(isinstance(answer, NoScriptError) for answer in answers)


def _told(event: Event, answers: list[Any], beside: bool) -> tuple[list[float], list[bytes | None]]:
    """Velocity features and the rows beside them, from the answers of `_commands`."""
    stored = answers.pop(0) if beside else []
    if isinstance(stored, Exception):
        raise stored
    found, pairs = {}, []
    for entity, answer in zip(PLANS, answers, strict=True):
        if isinstance(answer, Exception):
            raise _unreadable(entity, event, answer) if _is_of_the_keys(answer) else answer
        try:
            found[entity], pair = _found(entity, answer)
        except struct.error as error:
            raise _unreadable(entity, event, error) from None
        pairs.append(pair)
    return velocity_of(row_of(event)[1], found, pairs[0]), stored


def _is_of_the_keys(answer: Exception) -> bool:
    """Whether a script met what it cannot read, by Redis's or Lua's own words; or Redis has refused it."""
    return any(words in str(answer) for words in ("WRONGTYPE", "to 'unpack'"))


def _unreadable(entity: Entity, event: Event, error: Exception) -> UnreadableError:
    key = event.customer_id if entity == "customer" else event.terminal_id
    return UnreadableError(
        f"{entity} {key} has keys that no Sluice wrote, and no velocity features until the keys "
        f"velocity:{{{entity}:{key}}}:* are deleted: {error}"
    )


def _now() -> int:
    return time.time_ns() // 1000


def _keys(entity: Entity, customer: int, terminal: int) -> tuple[int, int]:
    """The id of an entity, and of the one on the other side of the transaction."""
    return (customer, terminal) if entity == "customer" else (terminal, customer)


def _time(moment: int) -> bytes:
    return UNSIGNED.pack(moment + BIAS)


def _member(moment: int, amount: float, other: int, transaction_id: int) -> bytes:
    return MEMBER.pack(moment + BIAS, amount, other) + str(transaction_id).encode()


def _asked(plan: EntityPlan, moment: int, other: int) -> tuple[int, bytes]:
    """What READ wants to know of an event."""
    biased = moment + BIAS
    return plan.latest, ASKED[plan.entity].pack(
        biased, biased - plan.lookback, other, biased - PAIR_LOOKBACK, other, biased, *plan.bounds(biased)
    )


def _call(
    plan: EntityPlan, key: int, bound: int, members: Sequence[bytes], asked: Sequence[bytes | int]
) -> list[bytes | str | int]:
    """Keys and arguments of a script for one entity."""
    tag = f"velocity:{{{plan.entity}:{key}}}:"
    keys = [tag + "events", tag + "known", tag + "sums"]
    if plan.entity == "customer":
        keys.append(tag + "pairs")
    whole = (bound >> BUCKET) << BUCKET  # buckets go as a whole
    return [len(keys), *keys, _time(whole), plan.memory // SECOND, len(members), *members, *asked]


def _found(entity: Entity, answer: bytes) -> tuple[Sums, int | None]:
    """What the script knows of an entity, and when its pair was seen last."""
    layout = ANSWER[entity]
    is_pair, seen, *sums = layout.unpack_from(answer)
    each = iter(sums)
    rings = zip(each, each, each, strict=True)  # three by three
    latest = [
        (time_before - BIAS, amount) for time_before, amount in LATEST.iter_unpack(answer[layout.size :])
    ]
    return Sums(rings, latest), seen - BIAS if is_pair else None


def _writes(chunk: list[Row], now: int) -> tuple[list[list[Any]], int]:
    """One call for each entity of a chunk, the customers first, and how many customers there are."""
    calls: list[list[Any]] = []
    customers = 0
    for entity, plan in PLANS.items():
        groups: dict[int, list[bytes]] = {}
        newest: dict[int, int] = {}
        for transaction, moment, customer, terminal, amount in chunk:
            key, other = _keys(entity, customer, terminal)
            groups.setdefault(key, []).append(_member(moment, amount, other, transaction))
            newest[key] = max(newest.get(key, moment), moment)
        calls += [
            _call(plan, key, kept_from(newest[key], now, plan.memory), members, [])
            for key, members in groups.items()
        ]
        customers = customers or len(calls)
    return calls, customers
