"""Level 2 of the read path: attr.json of files read lately, in Redis, for all query instances together.

Query fills it. Whoever relays a change event drops the file here *before* the event is published, so it also holds for
changes that no query instance was there to hear. Redis knows no revisions, so two small scripts do: a lower revision never
overwrites a higher one, and for a while after a change nothing below it is taken, so that a reader who was overtaken by the
change cannot bring the old state back.
"""

from __future__ import annotations

from artstore.contracts.events import FileChanged

FLOOR_S = 60
"""How long a change keeps older revisions out: longer than any lookup takes."""

KEEP = """
local floor = tonumber(redis.call('GET', KEYS[2]) or 0)
local revision = tonumber(ARGV[1])
if revision < floor then return 0 end
local held = redis.call('GET', KEYS[1])
if held then
  local read, record = pcall(cjson.decode, held)
  if read and type(record) == 'table' and (tonumber(record.revision) or 0) > revision then return 0 end
end
redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3])
return 1
"""
"""KEYS: record_key, floor_key; ARGV: revision, attr.json, seconds to live."""

DROP = """
local floor = math.max(tonumber(redis.call('GET', KEYS[2]) or 0), tonumber(ARGV[1]))
redis.call('SET', KEYS[2], string.format('%.0f', floor), 'EX', ARGV[2])
local held = redis.call('GET', KEYS[1])
if held then
  local read, record = pcall(cjson.decode, held)
  if not read or type(record) ~= 'table' or (tonumber(record.revision) or 0) < floor then redis.call('DEL', KEYS[1]) end
end
return 1
"""
"""KEYS: record_key, floor_key; ARGV: the lowest revision still good, FLOOR_S."""


def record_key(file_id: str) -> str:
    return f"artstore:file:{file_id}"


def floor_key(file_id: str) -> str:
    return f"artstore:file:{file_id}:floor"


def floor_of(event: FileChanged) -> int:
    """The lowest revision that is still good after the event. A deleted file has none: its id is never used again."""
    return event.revision + 1 if event.change == "delete" else event.revision
