-- One request of exactly 64 bytes, built once; figures as JSON on the last line.
-- Arguments: "close" or "keep", and the milliseconds to wait before each request (0: none).

function init(args)
   local ending = "\r\n\r\n"
   local head = "GET / HTTP/1.1\r\nHost: h\r\n"
   if args[1] == "close" then head = head .. "Connection: close\r\n" end
   local request = head .. "X: " .. string.rep("x", 64 - #head - 3 - #ending) .. ending
   assert(#request == 64)
   wrk.format = function() return request end
   local pause = tonumber(args[2])
   if pause > 0 then delay = function() return pause end end
end

function done(summary, latency)
   local errors = summary.errors
   io.write(string.format(
      '{"requests":%d,"duration_us":%d,"bytes":%d,"errors":%d,"p50_us":%d,"p99_us":%d}\n',
      summary.requests, summary.duration, summary.bytes,
      errors.connect + errors.read + errors.write + errors.status + errors.timeout,
      latency:percentile(50), latency:percentile(99)))
end
