-- An echo client on kolo: several connections, some megabytes each, every byte compared.
--
--     luajit echo_client.lua PORT CONNECTIONS BYTES
--
-- Prints "ok BYTES", or says what went wrong.

package.path = (arg[0]:match("^(.*)/") or ".") .. "/?.lua;" .. package.path
local ffi = require("ffi")
local kolo = require("kolo")
local lib, check = kolo.lib, kolo.check
ffi.cdef("int memcmp(const void *, const void *, size_t);")

local PIECE = 60000
local port, count, length = tonumber(arg[1]), tonumber(arg[2]), tonumber(arg[3])
local loop = kolo.new_loop()

-- Bytes that depend on the connection, with no short period.
local function pattern(seed)
    local bytes = ffi.new("uint8_t[?]", length)
    local value = seed * 7919 + 1
    for at = 0, length - 1 do
        value = (value * 1103515245 + 12345) % 2147483648
        bytes[at] = math.floor(value / 65536) % 256
    end
    return bytes
end

local connections, left = {}, count
local owned, writes = {}, 0 -- owned[number]: what kolo still reads
local deadline

local on_written = loop:callback("kolo_write_cb", function(_, _, status, user)
    local number = kolo.number(user)
    assert(owned[number], "completed twice")
    owned[number] = nil
    check(status, "write")
end)

local function send(raw, connection)
    while connection.sent < length do
        local piece = math.min(PIECE, length - connection.sent)
        local from = connection.expected + connection.sent
        local full
        connection.sent = connection.sent + piece
        connection.pieces = connection.pieces + 1
        if connection.pieces % 5 == 0 then -- now and then without a copy: the memory stays ours until on_written
            local memory = ffi.new("uint8_t[?]", piece)
            ffi.copy(memory, from, piece)
            writes = writes + 1
            owned[writes] = memory
            local buffer = ffi.new("kolo_buffer[1]")
            buffer[0].base, buffer[0].len = memory, piece
            full = lib.kolo_stream_write_owned(raw, connection.stream, buffer, 1, on_written, kolo.user(writes), nil)
        else
            full = lib.kolo_stream_write(raw, connection.stream, from, piece)
        end
        if check(full, "write") == 1 then
            return -- on_drain goes on
        end
    end
    check(lib.kolo_stream_shutdown(raw, connection.stream, nil, nil), "kolo_stream_shutdown")
end

local handler = loop:handler("kolo_stream_handler", {
    on_open = function(raw, stream, user)
        local connection = connections[kolo.number(user)]
        connection.stream = stream
        send(raw, connection)
    end,
    on_drain = function(raw, _, user)
        local connection = connections[kolo.number(user)]
        if connection.sent < length then
            send(raw, connection)
        end
    end,
    on_data = function(_, _, data, got, user)
        local connection = connections[kolo.number(user)]
        got = tonumber(got)
        assert(connection.received + got <= length, "more than was sent")
        assert(ffi.C.memcmp(data, connection.expected + connection.received, got) == 0, "other bytes")
        connection.received = connection.received + got
    end,
    on_end = function(raw, stream, user)
        connections[kolo.number(user)].ended = true
        check(lib.kolo_close(raw, stream))
    end,
    on_error = function(_, _, code)
        check(code, "connection")
    end,
    on_close = function(raw)
        left = left - 1
        if left == 0 then
            check(lib.kolo_close(raw, deadline))
        end
    end,
})

local on_deadline = loop:callback("kolo_timer_cb", function()
    error("the deadline has passed")
end)
deadline = loop:timer(on_deadline)
check(lib.kolo_timer_start(loop.raw, deadline, 120 * kolo.SECOND, 0))

local address = kolo.parse_address("127.0.0.1", port)
local options = kolo.struct("kolo_connect_options", { timeout_ns = 60 * kolo.SECOND })
for number = 1, count do
    local expected = pattern(number)
    connections[number] = { expected = expected, sent = 0, received = 0, pieces = 0 }
    local stream = ffi.new("kolo_tcp[1]")
    check(lib.kolo_tcp_connect(loop.raw, address, options, handler, kolo.user(number), stream), "kolo_tcp_connect")
end

local ok, failure = pcall(loop.run, loop)
if not ok then
    print("failed", (tostring(failure):gsub("\n.*", "")))
    os.exit(1)
end
local received = 0
for number, connection in ipairs(connections) do
    assert(connection.ended and connection.received == length, "connection " .. number .. " is not complete")
    received = received + connection.received
end
assert(next(owned) == nil, "an owned write never completed")
loop:free()
print("ok", received)
