-- The load of one row for wrk. Arguments: method, path before and after a name, body size, file of paths or "-".
-- With a body each request has another name and content. With a file of paths each is requested once.
local method, before, after, body_bytes, names, rest, paths, number = "GET", "", "", 0, "", "", nil, 0

function init(args)
  method, before, after, body_bytes = args[1], args[2], args[3], tonumber(args[4])
  if body_bytes > 0 then
    local random = assert(io.open("/dev/urandom", "rb"))
    rest = random:read(body_bytes - 24)
    names = random:read(6):gsub(".", function(byte) return string.format("%02x", byte:byte()) end)
    random:close()
  end
  if args[5] ~= "-" then
    paths = {}
    for line in io.lines(args[5]) do paths[#paths + 1] = line end
  end
end

function request()
  number = number + 1
  if paths then
    if number == #paths + 1 then
      io.write("exhausted\n")
      io.flush()
      wrk.thread:stop()
    end
    return wrk.format(method, paths[(number - 1) % #paths + 1])
  end
  if body_bytes == 0 then return wrk.format(method, before) end
  local name = names .. "-" .. number
  return wrk.format(method, before .. name .. after, nil, string.format("%-24s", name) .. rest)
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format("result %d %d %d %d %d %d\n", summary.requests, summary.duration, latency:percentile(50),
    latency:percentile(99), errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end
