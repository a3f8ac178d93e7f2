-- Runs the LuaJIT echo server and client as processes, and tries the ABI's odd corners from Lua.

local here = arg[0]:match("^(.*)/") or "."
package.path = here .. "/?.lua;" .. package.path
local ffi = require("ffi")
local kolo = require("kolo")
local lib, check = kolo.lib, kolo.check
ffi.cdef("int kill(int, int); int usleep(unsigned);")
local SIGTERM = 15

-- A process whose lines are awaited; `timeout` bounds it.
local function program(name, ...)
    local words = { "exec timeout 120 luajit", here .. "/" .. name }
    for _, word in ipairs({ ... }) do
        words[#words + 1] = tostring(word)
    end
    return assert(io.popen(table.concat(words, " ") .. " 2>&1"))
end

-- The words of the next line that begins with this one.
local function await(process, first)
    local other = {}
    for line in process:lines() do
        local words = {}
        for word in line:gmatch("%S+") do
            words[#words + 1] = word
        end
        if words[1] == first then
            return words
        end
        other[#other + 1] = line
    end
    error(("ended before it said %q: %s"):format(first, table.concat(other, "\n")))
end

local function fields(words)
    local numbers = {}
    for at = 2, #words, 2 do
        numbers[words[at]] = tonumber(words[at + 1])
    end
    return numbers
end

local function equal(got, want)
    if got ~= want then
        error(("%s, not %s"):format(tostring(got), tostring(want)), 2)
    end
end

local tests = {}
local function test(name, run)
    tests[#tests + 1] = { name = name, run = run }
end

test("megabytes_are_echoed_byte_for_byte", function()
    local connections, length = 4, 2000000
    local server = program("echo_server.lua", 60000, 20)
    local listening = await(server, "listening")
    local client = program("echo_client.lua", listening[2], connections, length)
    equal(await(client, "ok")[2], tostring(connections * length))
    client:close()
    await(server, "statistics")
    equal(ffi.C.kill(tonumber(listening[3]), SIGTERM), 0)
    local ended = fields(await(server, "ended"))
    server:close()
    equal(ended.accepted, connections)
    equal(ended.echoed, connections * length)
    equal(ended.left, 0)
    assert(ended.reports >= 1)
end)

test("the_statistics_timer_goes_on", function()
    local server = program("echo_server.lua", 60000, 5)
    local listening = await(server, "listening")
    for number = 1, 5 do
        equal(await(server, "statistics")[2], tostring(number))
    end
    equal(ffi.C.kill(tonumber(listening[3]), SIGTERM), 0)
    await(server, "ended")
    server:close()
end)

test("idle_connections_are_closed", function()
    local server = program("echo_server.lua", 50, 1000)
    local listening = await(server, "listening")
    local loop = kolo.new_loop()
    local ended = false
    local handler = loop:handler("kolo_stream_handler", {
        on_data = function() end, -- without it the stream would not read, and not see the end
        on_end = function(raw, stream)
            ended = true
            check(lib.kolo_close(raw, stream))
        end,
    })
    local address = kolo.parse_address("127.0.0.1", tonumber(listening[2]))
    check(lib.kolo_tcp_connect(loop.raw, address, nil, handler, nil, ffi.new("kolo_tcp[1]")))
    loop:run() -- says nothing, until the server closes
    loop:free()
    assert(ended)
    equal(ffi.C.kill(tonumber(listening[3]), SIGTERM), 0)
    equal(fields(await(server, "ended")).idled, 1)
    server:close()
end)

test("a_refused_connection_is_an_error", function()
    -- A port that was given back a moment ago: nobody listens.
    local loop = kolo.new_loop()
    local address = kolo.parse_address("127.0.0.1", 0)
    local listener = ffi.new("kolo_listener[1]")
    check(lib.kolo_tcp_listen(loop.raw, address, nil, kolo.struct("kolo_listener_handler"), nil, listener))
    check(lib.kolo_listener_address(loop.raw, listener[0], address))
    loop:free()
    local client = program("echo_client.lua", address.port, 1, 100)
    local failed = table.concat(await(client, "failed"), " ")
    client:close()
    assert(failed:find("connection refused", 1, true), failed)
end)

test("timers_in_order", function()
    local loop = kolo.new_loop()
    local order = {}
    local callback = loop:callback("kolo_timer_cb", function(_, _, user)
        order[#order + 1] = kolo.number(user)
    end)
    local timers, left = {}, {}
    for number = 10, 1, -1 do
        timers[number] = loop:timer(callback, kolo.user(number))
        check(lib.kolo_timer_start(loop.raw, timers[number], number * kolo.MILLISECOND, 0))
    end
    check(lib.kolo_loop_update_now(loop.raw))
    local out = ffi.new("uint64_t[1]")
    for number = 10, 1, -1 do -- what is left of each, by one clock: a slow machine may have started the last one late
        check(lib.kolo_timer_remaining(loop.raw, timers[number], out))
        left[number] = tonumber(out[0])
    end
    loop:run()
    loop:free()
    callback:free()
    equal(#order, 10)
    for at = 2, 10 do
        assert(left[order[at - 1]] <= left[order[at]], table.concat(order, " "))
    end
end)

test("errors_of_callbacks_come_out_of_run", function()
    local loop = kolo.new_loop()
    local callback = loop:callback("kolo_timer_cb", function()
        error("from a callback")
    end)
    check(lib.kolo_timer_start(loop.raw, loop:timer(callback), 0, 0))
    local ok, failure = pcall(loop.run, loop)
    assert(not ok and failure:find("from a callback", 1, true), failure)
    loop:free()
    callback:free()
end)

test("a_hot_loop_of_calls_is_compiled_and_right", function()
    -- The calls that do not call back may be compiled by the tracing compiler; run often enough that they are.
    local loop = kolo.new_loop()
    local fired = 0
    local callback = loop:callback("kolo_timer_cb", function()
        fired = fired + 1
    end)
    local timer = loop:timer(callback)
    local out = ffi.new("uint64_t[1]")
    for round = 1, 20000 do
        check(lib.kolo_timer_start(loop.raw, timer, round * kolo.SECOND, 0))
        check(lib.kolo_timer_remaining(loop.raw, timer, out))
        assert(out[0] <= round * kolo.SECOND)
    end
    for _ = 1, 2000 do
        check(lib.kolo_timer_start(loop.raw, timer, 0, 0))
        while loop:run(lib.KOLO_RUN_ONCE) do end
    end
    equal(fired, 2000)
    loop:free()
    callback:free()
end)

test("handles_are_exact_64_bit_numbers", function()
    local loop = kolo.new_loop()
    local callback = loop:callback("kolo_timer_cb", function() end)
    local timer
    for _ = 1, 50 do -- the generation grows
        if timer then
            check(lib.kolo_close(loop.raw, timer))
            loop:run()
        end
        timer = loop:timer(callback)
    end
    local seen = 0
    loop:walk(function(handle, kind)
        assert(handle == timer)
        equal(tonumber(kind), tonumber(lib.KOLO_KIND_TIMER))
        seen = seen + 1
    end)
    equal(seen, 1)
    equal(lib.kolo_close(loop.raw, timer + 1), lib.KOLO_EBADF)
    equal(lib.kolo_close(loop.raw, timer), 0)
    equal(lib.kolo_close(loop.raw, timer), lib.KOLO_EBADF)
    loop:free()
    equal(lib.kolo_loop_alive(loop.raw), lib.KOLO_EBADF)
    callback:free()
end)

test("metrics_and_options", function()
    local loop = kolo.new_loop(kolo.struct("kolo_loop_options", { measure_time = true, post_capacity = 10 }))
    local callback = loop:callback("kolo_timer_cb", function()
        ffi.C.usleep(2000)
    end)
    check(lib.kolo_timer_start(loop.raw, loop:timer(callback), 0, 0))
    loop:run()
    local metrics = kolo.struct("kolo_metrics")
    check(lib.kolo_loop_metrics(loop.raw, metrics))
    assert(metrics.longest_callback_ns >= 2000000)
    assert(metrics.turns >= 1)
    loop:free()
    callback:free()
end)

test("enumerations_are_numbers", function()
    equal(lib.kolo_loop_run(nil, 0), lib.KOLO_EINVAL)
    equal(kolo.error_name(lib.KOLO_ECONNREFUSED), "KOLO_ECONNREFUSED")
    equal(kolo.format_address(kolo.parse_address("::1", 80)), "[::1]:80")
end)

local failed = 0
for _, each in ipairs(tests) do
    local ok, failure = xpcall(each.run, debug.traceback)
    if ok then
        print("ok     luajit/" .. each.name)
    else
        print(failure)
        print("FAILED luajit/" .. each.name)
        failed = failed + 1
    end
    io.stdout:flush()
end
os.exit(failed == 0 and 0 or 1)
