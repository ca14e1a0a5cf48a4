"""Level 2 of the read path: attr.json of files read lately, in Redis, for all query instances together.

Query fills it. Whoever tells of a change drops the file here *before* the change is published, so it also holds for changes
that no query instance was there to hear. Nothing old can come back:

- a lower revision never overwrites a higher one, and for FLOOR_S after a change nothing below it is taken;
- what a reader brings is taken only under the lease it got before it asked the levels below. A change takes the lease away,
  FLUSHALL too, and after FLOOR_S it has run out: a reader that was overtaken, even one that slept in between, fills nothing;
- records and leases are of one run of the server: one that was restarted, with an old dump perhaps, or a replica that took
  over, has none;
- and of one epoch: a query process that finds Redis taking writes again after it did not begins a new one, since changes may
  have been made meanwhile that could not be dropped here. The others take it over within a second.
"""

from __future__ import annotations

from artstore.contracts.events import FileChanged

FLOOR_S = 60
"""How long a change keeps older revisions out, and how long a lease lasts: longer than any lookup takes."""
UNSETTLED_FLOOR_S = 24 * 3600
"""The floor of a change that the catalog could not be told: until it is, the row there is of the revision before."""
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
"""ARGV: a token nobody else has, FLOOR_S, 'record' or 'lease', the epoch.

Gives {attr.json or '', the lowest good revision, lease}.
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
"""ARGV: revision, attr.json, seconds to live, the lease, the epoch. Gives 1 when it was taken."""

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
"""ARGV: the lowest revision still good, FLOOR_S or longer. Deletes first: Redis without memory allows that and no more."""


def keys_of(file_id: str) -> tuple[str, str, str]:
    """KEYS of all three scripts: record, floor, lease."""
    return record_key(file_id), floor_key(file_id), f"artstore:file:{file_id}:lease"


def record_key(file_id: str) -> str:
    return f"artstore:file:{file_id}"


def floor_key(file_id: str) -> str:
    return f"artstore:file:{file_id}:floor"


def floor_of(event: FileChanged) -> int:
    """The lowest revision that is still good after the event. A deleted file has none: its id is never used again."""
    return event.revision + 1 if event.change == "delete" else event.revision
