-- An echo server on kolo: idle connections are closed after a while, and a timer writes statistics.
--
--     luajit echo_server.lua IDLE_MS STATISTICS_MS
--
-- Prints "listening PORT PID", then "statistics ..." lines; SIGTERM ends it after the connections have drained.

package.path = (arg[0]:match("^(.*)/") or ".") .. "/?.lua;" .. package.path
local ffi = require("ffi")
local kolo = require("kolo")
local lib, check = kolo.lib, kolo.check
ffi.cdef("int getpid(void);")
io.stdout:setvbuf("line")

local idle_ms, statistics_ms = tonumber(arg[1]), tonumber(arg[2])
local loop = kolo.new_loop()
local connections, count, next_number = {}, 0, 0
local accepted, echoed, idled, reports = 0, 0, 0, 0

local stream_handler = loop:handler("kolo_stream_handler", {
    on_data = function(raw, stream, data, length, user)
        local connection = connections[kolo.number(user)]
        connection.received = connection.received + tonumber(length)
        echoed = echoed + tonumber(length)
        if check(lib.kolo_stream_write(raw, stream, data, length), "kolo_stream_write") == 1 then
            check(lib.kolo_stream_read_stop(raw, stream))
        end
    end,
    on_drain = function(raw, stream)
        check(lib.kolo_stream_read_start(raw, stream))
    end,
    on_timeout = function(raw, stream, which)
        if which == lib.KOLO_TIMEOUT_READ then
            idled = idled + 1
        end
        check(lib.kolo_close(raw, stream))
    end,
    on_error = function(_, _, code)
        print("error", kolo.error_name(code))
    end,
    on_close = function(_, _, user)
        connections[kolo.number(user)] = nil
        count = count - 1
    end,
})

local listener_handler = loop:handler("kolo_listener_handler", {
    on_accept = function(raw, _, stream)
        next_number = next_number + 1
        accepted, count = accepted + 1, count + 1
        connections[next_number] = { received = 0 }
        check(lib.kolo_stream_attach(raw, stream, stream_handler, kolo.user(next_number)), "kolo_stream_attach")
        check(lib.kolo_stream_set_timeouts(raw, stream, idle_ms * kolo.MILLISECOND, 30 * kolo.SECOND))
    end,
    on_error = function(_, _, code)
        print("listener error", kolo.error_name(code))
    end,
})

local address = kolo.parse_address("127.0.0.1", 0)
local listener = ffi.new("kolo_listener[1]")
check(lib.kolo_tcp_listen(loop.raw, address, nil, listener_handler, nil, listener), "kolo_tcp_listen")
check(lib.kolo_listener_address(loop.raw, listener[0], address))

local on_statistics = loop:callback("kolo_timer_cb", function()
    reports = reports + 1
    print("statistics", reports, "connections", count, "bytes", echoed)
end)
local statistics = loop:timer(on_statistics)
check(lib.kolo_timer_start(loop.raw, statistics, statistics_ms * kolo.MILLISECOND, statistics_ms * kolo.MILLISECOND))
check(lib.kolo_unref(loop.raw, statistics)) -- the statistics alone keep nothing alive

local SIGINT, SIGTERM = 2, 15
local on_signal = loop:callback("kolo_signal_cb", function(raw)
    check(lib.kolo_close(raw, listener[0])) -- the loop ends when the last connection has
end)
for _, number in ipairs({ SIGINT, SIGTERM }) do
    local handle = ffi.new("kolo_signal[1]")
    check(lib.kolo_signal_open(loop.raw, on_signal, nil, handle))
    check(lib.kolo_signal_start(loop.raw, handle[0], number))
    check(lib.kolo_unref(loop.raw, handle[0]))
end

print("listening", address.port, ffi.C.getpid())
loop:run()
print("ended", "accepted", accepted, "echoed", echoed, "idled", idled, "reports", reports, "left", count)
loop:free()
