-- A client (see README.md) for one thread of wrk: exactly COUNT requests; it ends when all of them are answered.
local service, prefix, count = os.getenv("SERVICE"), os.getenv("PREFIX"), tonumber(os.getenv("COUNT"))
local truth = io.open(os.getenv("TRUTH_LOG"), "a")
local scheduled, sent, answered = 0, -1, 0

-- Called before each request: the requests that are too many wait for longer than the run lasts.
function delay()
  scheduled = scheduled + 1
  return scheduled > count and 3600000 or 0
end

-- wrk calls this once before the run, to see how many requests one call makes: that one is not sent.
function request()
  local id = sent < 0 and "never-sent" or prefix .. "-" .. sent
  sent = sent + 1
  if sent > 0 then
    truth:write("C " .. service .. " " .. id .. " ?\n")
  end
  return wrk.format(nil, nil, { ["x-request-id"] = id })
end

function response()
  answered = answered + 1
  if answered == count then
    truth:close()
    os.exit(0)
  end
end
