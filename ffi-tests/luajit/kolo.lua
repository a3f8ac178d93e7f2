-- kolo for LuaJIT: the real header, preprocessed, goes to ffi.cdef; nothing is declared by hand and nothing compiled.
--
-- $KOLO_HEADER is the path of kolo.h, $KOLO_LIBRARY that of libkolo.so.
--
-- Rules of LuaJIT to remember:
-- * A callback uses up one of a few hundred slots, so there is one per sort of event, not one per connection: `user` is
--   a number (kolo.user, kolo.number) that finds the connection in a table. A kolo_handle cannot be the key of a table
--   itself: a uint64_t is a boxed value, each one different from the next.
-- * A function that calls back must not be compiled: kolo_loop_run, kolo_loop_free and kolo_loop_walk are called from
--   functions with jit.off. No other function of kolo calls back.
-- * An error must not pass through C: `guard` keeps it, and run() raises it.

local ffi = require("ffi")

local header = assert(os.getenv("KOLO_HEADER"), "KOLO_HEADER is not set")
local preprocessor = assert(io.popen(("gcc -E -P '%s'"):format(header)))
ffi.cdef(preprocessor:read("*a"))
preprocessor:close()

local lib = ffi.load(os.getenv("KOLO_LIBRARY") or "kolo")

local kolo = { lib = lib, MILLISECOND = 1000000, SECOND = 1000000000 }

-- A number as `void *user`, and back.
function kolo.user(number)
    return ffi.cast("void *", number)
end
function kolo.number(user)
    return tonumber(ffi.cast("intptr_t", user))
end

-- The result of a call, or an error with the function's name.
function kolo.check(result, what)
    if result < 0 then
        error(("%s: %s"):format(what or "kolo", ffi.string(lib.kolo_strerror(result))), 2)
    end
    return result
end

function kolo.error_name(code)
    return ffi.string(lib.kolo_error_name(code))
end

-- A struct with its size set: what the initialiser macros do in C.
function kolo.struct(name, members)
    local struct = ffi.new(name)
    struct.size = ffi.sizeof(name)
    for member, value in pairs(members or {}) do
        struct[member] = value
    end
    return struct
end

local loop_methods = {}
loop_methods.__index = loop_methods

function kolo.new_loop(options)
    local out = ffi.new("kolo_loop *[1]")
    kolo.check(lib.kolo_loop_new(options, out), "kolo_loop_new")
    return setmetatable({ raw = out[0] }, loop_methods)
end

function loop_methods:guard(callback)
    return function(...)
        local ok, failure = xpcall(callback, debug.traceback, ...)
        if not ok then
            self.failure = self.failure or failure
            lib.kolo_loop_stop(self.raw)
        end
    end
end

function loop_methods:run(mode)
    local alive = kolo.check(lib.kolo_loop_run(self.raw, mode or lib.KOLO_RUN_DEFAULT), "kolo_loop_run")
    if self.failure then
        local failure = self.failure
        self.failure = nil
        error(failure, 0)
    end
    return alive == 1
end
jit.off(loop_methods.run)

function loop_methods:free()
    kolo.check(lib.kolo_loop_free(self.raw), "kolo_loop_free")
end
jit.off(loop_methods.free)

function loop_methods:walk(visit)
    local callback = ffi.cast("kolo_walk_cb", function(_, handle, kind)
        return visit(handle, kind) and 1 or 0
    end)
    local result = lib.kolo_loop_walk(self.raw, callback, nil)
    callback:free()
    kolo.check(result, "kolo_loop_walk")
end
jit.off(loop_methods.walk)

-- A callback that lives until callback:free(); nothing else keeps the Lua function.
function loop_methods:callback(type, callback)
    return ffi.cast(type, self:guard(callback))
end

-- A table of callbacks; they live as long as the program.
function loop_methods:handler(name, members)
    local guarded = {}
    for member, callback in pairs(members) do
        guarded[member] = self:guard(callback)
    end
    return kolo.struct(name, guarded)
end

function loop_methods:timer(callback, user)
    local out = ffi.new("kolo_timer[1]")
    kolo.check(lib.kolo_timer_open(self.raw, callback, user, out), "kolo_timer_open")
    return out[0]
end

function kolo.parse_address(host, port)
    local address = ffi.new("kolo_address")
    kolo.check(lib.kolo_address_parse(host, port, address), "kolo_address_parse")
    return address
end

function kolo.format_address(address)
    local text = ffi.new("char[?]", lib.KOLO_ADDRESS_TEXT_MAX)
    kolo.check(lib.kolo_address_format(address, text, lib.KOLO_ADDRESS_TEXT_MAX), "kolo_address_format")
    return ffi.string(text)
end

return kolo
