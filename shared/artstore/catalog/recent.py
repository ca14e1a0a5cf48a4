"""Level 2 of the read path: attr.json of recently read files in Redis, shared by all query instances.

Query fills it. Every process that announces a change drops the file here *before* the change is published, so
this also covers changes that no query instance received. Old data cannot return:

- a lower revision never overwrites a higher one, and for FLOOR_S after a change no older revision is accepted;
- a reader may store a record only under the lease that it got before it asked the levels below. A change or
  FLUSHALL removes the lease, and it expires after FLOOR_S, so a reader that was overtaken stores nothing;
- records and leases belong to one run of the server: a restarted server (perhaps with an old dump) or a promoted
  replica has none;
- records belong to an epoch: a query process that sees Redis accept writes again after an outage begins a new
  epoch, because changes may have been missed meanwhile. The others adopt it within a second.
"""

from __future__ import annotations

from artstore.contracts.events import FileChanged

FLOOR_S = 60
"""How long a change keeps older revisions out, and how long a lease lasts: longer than any lookup."""
UNSETTLED_FLOOR_S = 24 * 3600
"""The floor after a change that could not be written to the catalog, whose row still has the revision before.
"""
EPOCH_KEY = "artstore:files:epoch"

_HELD = """
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)') .. ':' .. ARGV[#ARGV] .. ':'
local held = redis.pcall('HMGET', KEYS[1], 'run', 'revision', 'record')
if held.err or held[1] ~= run or not tonumber(held[2]) or not held[3] then held = nil end
local floor = tonumber(redis.call('GET', KEYS[2]) or 0)
"""

FIND = (
    _HELD
    + """
if held and ARGV[3] == 'record' then return {held[3], floor, ''} end
local lease = redis.call('GET', KEYS[3])
if not lease then
  lease = ARGV[1]
  redis.call('SET', KEYS[3], lease, 'EX', ARGV[2])
end
return {'', floor, run .. lease}
"""
)
"""ARGV: a unique token, FLOOR_S, 'record' or 'lease', the epoch.

Returns {attr.json or '', the lowest valid revision, lease}.
"""

KEEP = (
    _HELD
    + """
local revision = tonumber(ARGV[1])
if ARGV[4] ~= run .. (redis.call('GET', KEYS[3]) or '') or revision < floor then return 0 end
if held and tonumber(held[2]) > revision then return 0 end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'run', run, 'revision', ARGV[1], 'record', ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[3])
return 1
"""
)
"""ARGV: revision, attr.json, time to live in seconds, the lease, the epoch. Returns 1 if the record was
stored."""

DROP = """
local floor = math.max(tonumber(ARGV[1]), tonumber(redis.call('GET', KEYS[2]) or 0))
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
local held = redis.pcall('HMGET', KEYS[1], 'run', 'revision')
local alive = not held.err and held[1] and string.sub(held[1], 1, #run) == run and tonumber(held[2])
redis.call('DEL', KEYS[3])
if not alive or alive < floor then redis.call('DEL', KEYS[1]) end
local lasts = math.max(tonumber(ARGV[2]), redis.call('TTL', KEYS[2]))
redis.call('SET', KEYS[2], string.format('%.0f', floor), 'EX', lasts)
return 1
"""
"""ARGV: the lowest revision that is still valid, FLOOR_S or longer. Deletes first, because a Redis that is
out of memory allows only that."""


def keys_of(file_id: str) -> tuple[str, str, str]:
    """KEYS of the three scripts: record, floor, lease."""
    return record_key(file_id), floor_key(file_id), f"artstore:file:{file_id}:lease"


def record_key(file_id: str) -> str:
    return f"artstore:file:{file_id}"


def floor_key(file_id: str) -> str:
    return f"artstore:file:{file_id}:floor"


def floor_of(event: FileChanged) -> int:
    """The lowest revision that is still valid after the event. A deleted file has none, because its id is
    never used again."""
    return event.revision + 1 if event.change == "delete" else event.revision
