"""Level 2 of the read path: attr.json of recently read files in Redis, shared by all query instances.

Query fills it. Every process that announces a change drops the file here *before* the change is published, so
this also covers changes that no query instance received. Old data cannot return:

- a lower revision never overwrites a higher one, and for FLOOR_S after a change no older revision is accepted;
- a reader may store a record only under the lease that it got before it asked the levels below. A change or
  FLUSHALL removes the lease, and it expires after FLOOR_S, so a reader that was overtaken stores nothing;
- records and leases belong to one run of the server: a restarted server (perhaps with an old dump) or a promoted
  replica has none;
- a record is one string, of the run, the epoch, the revision and attr.json: a hash takes 40 % more memory;
- all keys have one hash tag, because one script takes the files of many readers: a cluster keeps them on one node;
- records belong to an epoch: a query process that sees Redis accept writes again after an outage begins a new
  epoch, because changes may have been missed meanwhile. The others adopt it within a second.
"""

from __future__ import annotations

from artstore.contracts.events import FileChanged
from artstore.redis_cluster import HOME

FLOOR_S = 60
"""How long a change keeps older revisions out, and how long a lease lasts: longer than any lookup."""
UNSETTLED_FLOOR_S = 24 * 3600
"""The floor after a change that could not be written to the catalog, whose row still has the revision before.
"""
EPOCH_KEY = f"{HOME}epoch"

_BEGIN = """
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)') .. ':' .. ARGV[1] .. ':'
local function load(key, floor_key)
  local held, revision, record = redis.pcall('GET', key), nil, nil
  if type(held) == 'string' and string.sub(held, 1, #run) == run then
    revision, record = string.match(held, '^(%d+) (.+)', #run + 1)
  end
  return tonumber(revision), record, tonumber(redis.call('GET', floor_key) or 0)
end
local answers = {}
"""

FIND = (
    _BEGIN
    + """
for i = 1, #KEYS / 3 do
  local lease_key = KEYS[3 * i]
  local _, record, floor = load(KEYS[3 * i - 2], KEYS[3 * i - 1])
  if record and ARGV[3 + i] == 'record' then
    answers[i] = {record, floor, ''}
  else
    local lease = redis.call('GET', lease_key)
    if not lease then
      lease = ARGV[2]
      redis.call('SET', lease_key, lease, 'EX', ARGV[3])
    end
    answers[i] = {'', floor, run .. lease}
  end
end
return answers
"""
)
"""ARGV: the epoch, a unique token, FLOOR_S, and for each file 'record' or 'lease'.

Returns for each file {attr.json or '', the lowest valid revision, lease}.
"""

KEEP = (
    _BEGIN
    + """
for i = 1, #KEYS / 3 do
  local key, lease_key, at = KEYS[3 * i - 2], KEYS[3 * i], 3 * i
  local revision, record, lease = tonumber(ARGV[at]), ARGV[at + 1], ARGV[at + 2]
  local held, _, floor = load(key, KEYS[3 * i - 1])
  answers[i] = 0
  if lease == run .. (redis.call('GET', lease_key) or '') and revision >= floor
    and not (held and held > revision) then
    redis.call('SET', key, run .. ARGV[at] .. ' ' .. record, 'EX', ARGV[2])
    answers[i] = 1
  end
end
return answers
"""
)
"""ARGV: the epoch, time to live in seconds, and for each file its revision, attr.json and
lease. Returns for each file 1 if the record was stored."""

_DROP_FILES = """
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
local refused
for i = 1, #KEYS / 3 do
  local key, floor_key, lease_key = KEYS[3 * i - 2], KEYS[3 * i - 1], KEYS[3 * i]
  local floor = math.max(tonumber(ARGV[2 * i - 1]), tonumber(redis.call('GET', floor_key) or 0))
  local held = redis.pcall('GET', key)
  local of_run = type(held) == 'string' and string.sub(held, 1, #run) == run
  local alive = of_run and tonumber(string.match(held, '^:[^:]*:(%d+) ', #run + 1))
  redis.call('DEL', lease_key)
  if not alive or alive < floor then redis.call('DEL', key) end
  local lasts = math.max(tonumber(ARGV[2 * i]), redis.call('TTL', floor_key))
  local set = redis.pcall('SET', floor_key, string.format('%.0f', floor), 'EX', lasts)
  if set.err then refused = set end
end
if refused then return refused end
"""
DROP = _DROP_FILES + "return 1"
"""ARGV, for each file: the lowest revision that is still valid, FLOOR_S or longer. Deletes first, because a Redis that is
out of memory allows only that."""

ANNOUNCE = (
    _DROP_FILES
    + """
redis.call('PUBLISH', ARGV[3], ARGV[4])
return redis.call('PUBLISH', ARGV[5], ARGV[6])
"""
)
"""DROP of one file, then two messages: ARGV[3] and on are channel, message, channel, message. Returns how many processes have
received the second one."""


def keys_of(file_id: str) -> tuple[str, str, str]:
    """KEYS of the three scripts: record, floor, lease."""
    record = record_key(file_id)
    return record, f"{record}:floor", f"{record}:lease"


def record_key(file_id: str) -> str:
    return f"{HOME}{file_id}"


def floor_key(file_id: str) -> str:
    return f"{record_key(file_id)}:floor"


def floor_of(event: FileChanged) -> int:
    """The lowest revision that is still valid after the event. A deleted file has none, because its id is
    never used again."""
    return event.revision + 1 if event.change == "delete" else event.revision
