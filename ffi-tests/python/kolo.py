"""The part of kolo.h that the echo programs use, declared for ctypes.

Nothing is compiled: the shared library is loaded from $KOLO_LIBRARY, or found as libkolo.so.

Two rules of ctypes to remember:
- a callback object (TimerCallback(...) and its kin) must be kept alive as long as kolo may call it: keep it in a
  variable of the module, a class or an instance, never as a temporary in the call;
- an exception in a callback cannot cross C. ctypes prints and drops it; `guard` below keeps it for Loop.run to raise.
"""

import ctypes
import functools
import os
from ctypes import (CFUNCTYPE, POINTER, Structure, byref, c_bool, c_char_p, c_int, c_int32, c_int64, c_size_t, c_ssize_t,
                    c_uint8, c_uint16, c_uint32, c_uint64, c_void_p, sizeof)

library = ctypes.CDLL(os.environ.get("KOLO_LIBRARY", "libkolo.so"))

# ---- types ----
Handle = c_uint64
Socket = c_ssize_t

TimerCallback = CFUNCTYPE(None, c_void_p, Handle, c_void_p)
CloseCallback = CFUNCTYPE(None, c_void_p, Handle, c_void_p)
SignalCallback = CFUNCTYPE(None, c_void_p, Handle, c_int, c_void_p)
PostCallback = CFUNCTYPE(None, c_void_p, c_int, c_void_p)
WriteCallback = CFUNCTYPE(None, c_void_p, Handle, c_int, c_void_p)


class Address(Structure):
    _fields_ = [("family", c_uint16), ("port", c_uint16), ("flow", c_uint32), ("scope", c_uint32), ("ip", c_uint8 * 16)]


class Buffer(Structure):
    _fields_ = [("base", c_void_p), ("len", c_size_t)]


class LoopOptions(Structure):
    _fields_ = [("size", c_size_t), ("driver", c_char_p), ("events_per_turn", c_uint32), ("post_capacity", c_uint32),
                ("slow_callback_ns", c_uint64), ("on_slow", c_void_p), ("on_slow_user", c_void_p),
                ("measure_time", c_bool), ("pool", c_uint64),
                ("stuck_callback_ns", c_uint64), ("on_stuck", c_void_p), ("on_stuck_user", c_void_p)]


class Metrics(Structure):
    _fields_ = [("size", c_size_t), ("turns", c_uint64), ("events", c_uint64), ("callbacks", c_uint64),
                ("idle_ns", c_uint64), ("callback_ns", c_uint64), ("longest_callback_ns", c_uint64),
                ("handles", c_uint64), ("posts_waiting", c_uint64)]


class StreamHandler(Structure):
    OnHandle = CFUNCTYPE(None, c_void_p, Handle, c_void_p)
    OnData = CFUNCTYPE(None, c_void_p, Handle, c_void_p, c_size_t, c_void_p)
    OnCode = CFUNCTYPE(None, c_void_p, Handle, c_int, c_void_p)
    OnBuffer = CFUNCTYPE(None, c_void_p, Handle, c_size_t, POINTER(Buffer), c_void_p)
    _fields_ = [("size", c_size_t), ("on_open", OnHandle), ("on_data", OnData), ("on_end", OnHandle),
                ("on_drain", OnHandle), ("on_timeout", OnCode), ("on_error", OnCode), ("on_close", OnHandle),
                ("on_buffer", OnBuffer), ("on_descriptors", c_void_p)]


class ListenOptions(Structure):
    _fields_ = [("size", c_size_t), ("backlog", c_uint32), ("no_reuse_address", c_bool), ("reuse_port", c_bool),
                ("ipv6_only", c_bool), ("delay", c_bool), ("accepts_per_turn", c_uint32), ("accept_policy", c_int),
                ("retry_min_ns", c_uint64), ("retry_max_ns", c_uint64), ("send_buffer", c_uint32),
                ("receive_buffer", c_uint32)]


class ConnectOptions(Structure):
    _fields_ = [("size", c_size_t), ("timeout_ns", c_uint64), ("local", POINTER(Address)), ("delay", c_bool),
                ("reuse_address", c_bool), ("send_buffer", c_uint32), ("receive_buffer", c_uint32),
                ("attempt_delay_ns", c_uint64), ("family", c_int), ("on_attempt", c_void_p)]


class ListenerHandler(Structure):
    OnAccept = CFUNCTYPE(None, c_void_p, Handle, Handle, c_void_p)
    OnError = CFUNCTYPE(None, c_void_p, Handle, c_int, c_void_p)
    OnClose = CFUNCTYPE(None, c_void_p, Handle, c_void_p)
    _fields_ = [("size", c_size_t), ("on_accept", OnAccept), ("on_error", OnError), ("on_close", OnClose)]


# ---- constants ----
OK = 0
EBADF = -9
EPIPE = -32
ECONNRESET = -104
ETIMEDOUT = -110
ECONNREFUSED = -111
ECANCELED = -125
RUN_DEFAULT, RUN_ONCE, RUN_NOWAIT = 0, 1, 2
TIMEOUT_READ, TIMEOUT_WRITE = 1, 2
FAMILY_IPV4, FAMILY_IPV6 = 4, 6
ADDRESS_TEXT_MAX = 80

SECOND = 1_000_000_000
MILLISECOND = 1_000_000


class Error(Exception):
    def __init__(self, code, where):
        super().__init__("%s: %s" % (where, library.kolo_strerror(code).decode()))
        self.code = code


def _checked(result, function, _arguments):
    if result < 0:
        raise Error(result, function.__name__)
    return result


def _declare(name, *argument_types, result=c_int):
    function = getattr(library, name)
    function.argtypes = argument_types
    function.restype = result
    if result is c_int:
        function.errcheck = _checked
    globals()[name] = function


_declare("kolo_strerror", c_int, result=c_char_p)
_declare("kolo_error_name", c_int, result=c_char_p)
_declare("kolo_version", result=c_uint32)
_declare("kolo_version_string", result=c_char_p)
_declare("kolo_loop_new", POINTER(LoopOptions), POINTER(c_void_p))
_declare("kolo_loop_free", c_void_p)
_declare("kolo_loop_run", c_void_p, c_int)
_declare("kolo_loop_stop", c_void_p)
_declare("kolo_loop_now", c_void_p, POINTER(c_uint64))
_declare("kolo_loop_metrics", c_void_p, POINTER(Metrics))
_declare("kolo_loop_remote", c_void_p, POINTER(c_void_p))
_declare("kolo_remote_post", c_void_p, PostCallback, c_void_p)
_declare("kolo_remote_release", c_void_p)
_declare("kolo_close", c_void_p, Handle)
_declare("kolo_unref", c_void_p, Handle)
_declare("kolo_timer_open", c_void_p, TimerCallback, c_void_p, POINTER(Handle))
_declare("kolo_timer_start", c_void_p, Handle, c_uint64, c_uint64)
_declare("kolo_timer_stop", c_void_p, Handle)
_declare("kolo_signal_open", c_void_p, SignalCallback, c_void_p, POINTER(Handle))
_declare("kolo_signal_start", c_void_p, Handle, c_int)
_declare("kolo_address_parse", c_char_p, c_uint16, POINTER(Address))
_declare("kolo_address_format", POINTER(Address), c_char_p, c_size_t)
_declare("kolo_tcp_listen", c_void_p, POINTER(Address), POINTER(ListenOptions), POINTER(ListenerHandler), c_void_p,
         POINTER(Handle))
_declare("kolo_listener_address", c_void_p, Handle, POINTER(Address))
_declare("kolo_tcp_connect", c_void_p, POINTER(Address), POINTER(ConnectOptions), POINTER(StreamHandler), c_void_p,
         POINTER(Handle))
_declare("kolo_stream_attach", c_void_p, Handle, POINTER(StreamHandler), c_void_p)
_declare("kolo_stream_read_start", c_void_p, Handle)
_declare("kolo_stream_read_stop", c_void_p, Handle)
_declare("kolo_stream_write", c_void_p, Handle, c_char_p, c_size_t)
_declare("kolo_stream_write_owned", c_void_p, Handle, POINTER(Buffer), c_size_t, WriteCallback, c_void_p,
         POINTER(c_uint64))
_declare("kolo_stream_shutdown", c_void_p, Handle, WriteCallback, c_void_p)
_declare("kolo_stream_set_timeouts", c_void_p, Handle, c_uint64, c_uint64)
_declare("kolo_stream_queued", c_void_p, Handle, POINTER(c_size_t))


# ---- what the programs share ----

class Loop:
    """A loop that raises what its callbacks raised."""

    def __init__(self):
        self._as_parameter_ = c_void_p()  # so that a Loop can be passed where a kolo_loop * is wanted
        self.failure = None
        kolo_loop_new(None, byref(self._as_parameter_))

    def run(self, mode=RUN_DEFAULT):
        alive = kolo_loop_run(self, mode)
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure
        return alive == 1

    def guard(self, function):
        """A callback that keeps its exception for run() and stops the loop."""

        @functools.wraps(function)
        def guarded(*arguments):
            try:
                function(*arguments)
            except BaseException as failure:  # also KeyboardInterrupt: nothing may pass through C
                if self.failure is None:
                    self.failure = failure
                kolo_loop_stop(self)

        return guarded

    def close(self):
        kolo_loop_free(self)


def handler(struct, **callbacks):
    """A table of callbacks with its size set; the struct keeps the callback objects alive."""
    table = struct()
    table.size = sizeof(struct)
    types = dict(struct._fields_)
    for name, function in callbacks.items():
        setattr(table, name, types[name](function))
    return table


def parse_address(host, port):
    address = Address()
    kolo_address_parse(host.encode(), port, byref(address))
    return address


def format_address(address):
    text = ctypes.create_string_buffer(ADDRESS_TEXT_MAX)
    kolo_address_format(byref(address), text, len(text))
    return text.value.decode()
