// kolo from C++: a thin RAII wrapper as a program would write it, callbacks as lambdas through `void *user`.
// Plain C++11, also compiled as C++17 and C++20.
#include <kolo.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition))                                                                                              \
            throw std::runtime_error(__FILE__ ":" + std::to_string(__LINE__) + ": not so: " #condition);               \
    } while (0)

// ---- the wrapper ----

class error : public std::runtime_error {
  public:
    explicit error(int code) : std::runtime_error(kolo_strerror(code)), code_(code) {}
    int code() const { return code_; }

  private:
    int code_;
};

static int check(int result) {
    if (result < 0) throw error(result);
    return result;
}

class loop {
  public:
    loop() { check(kolo_loop_new(nullptr, &raw_)); }
    explicit loop(const kolo_loop_options &options) { check(kolo_loop_new(&options, &raw_)); }
    loop(loop &&other) noexcept : raw_(other.raw_), failure_(std::move(other.failure_)) { other.raw_ = nullptr; }
    loop(const loop &) = delete;
    loop &operator=(const loop &) = delete;
    loop &operator=(loop &&) = delete;
    ~loop() {
        if (raw_ != nullptr) kolo_loop_free(raw_); // closes all handles; their closing callbacks run in here
    }
    kolo_loop *get() const { return raw_; }

    // An exception may not cross C: a callback keeps it, and it goes on from here.
    bool run(int mode = KOLO_RUN_DEFAULT) {
        int result = check(kolo_loop_run(raw_, mode));
        if (failure_) {
            std::exception_ptr failure;
            std::swap(failure, failure_);
            std::rethrow_exception(failure);
        }
        return result == 1;
    }
    template <typename Function> void guard(Function function) noexcept {
        try {
            function();
        } catch (...) {
            if (!failure_) failure_ = std::current_exception();
            kolo_loop_stop(raw_);
        }
    }
    void defer(std::function<void(int status)> function) {
        auto held = std::unique_ptr<deferred>(new deferred{this, std::move(function)});
        check(kolo_loop_defer(
            raw_,
            [](kolo_loop *, int status, void *user) {
                std::unique_ptr<deferred> me(static_cast<deferred *>(user));
                me->owner->guard([&] { me->function(status); });
            },
            held.get()));
        held.release(); // the callback owns it now: it comes exactly once, at the latest in kolo_loop_free
    }

  private:
    struct deferred {
        loop *owner;
        std::function<void(int)> function;
    };
    kolo_loop *raw_ = nullptr;
    std::exception_ptr failure_;
};

// A timer that lives as long as this object, and its memory as long as kolo may still call it.
class timer {
  public:
    timer(loop &owner, std::function<void()> function) : state_(new state{&owner, std::move(function), 0}) {
        check(kolo_timer_open(
            owner.get(),
            [](kolo_loop *, kolo_timer, void *user) {
                state *me = static_cast<state *>(user);
                me->owner->guard([me] { me->function(); });
            },
            state_, &state_->handle));
        check(kolo_on_close(
            owner.get(), state_->handle, [](kolo_loop *, kolo_handle, void *user) { delete static_cast<state *>(user); },
            state_));
    }
    timer(const timer &) = delete;
    timer &operator=(const timer &) = delete;
    ~timer() { kolo_close(state_->owner->get(), state_->handle); }
    template <typename Rep, typename Period> void start(std::chrono::duration<Rep, Period> delay) {
        check(kolo_timer_start(state_->owner->get(), state_->handle, nanoseconds(delay), 0));
    }
    template <typename Rep, typename Period> void repeat(std::chrono::duration<Rep, Period> period) {
        check(kolo_timer_start(state_->owner->get(), state_->handle, nanoseconds(period), nanoseconds(period)));
    }
    void stop() { check(kolo_timer_stop(state_->owner->get(), state_->handle)); }

  private:
    struct state {
        loop *owner;
        std::function<void()> function;
        kolo_timer handle;
    };
    template <typename Duration> static std::uint64_t nanoseconds(Duration duration) {
        return static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(duration).count());
    }
    state *state_;
};

// What another thread holds.
class remote {
  public:
    explicit remote(loop &owner) {
        kolo_remote *raw = nullptr;
        check(kolo_loop_remote(owner.get(), &raw));
        raw_.reset(raw);
    }
    remote(const remote &other) {
        check(kolo_remote_retain(other.raw_.get()));
        raw_.reset(other.raw_.get());
    }
    remote &operator=(const remote &) = delete;
    void post(std::function<void(int status)> function) const {
        auto held = std::unique_ptr<std::function<void(int)>>(new std::function<void(int)>(std::move(function)));
        check(kolo_remote_post(
            raw_.get(),
            [](kolo_loop *, int status, void *user) {
                std::unique_ptr<std::function<void(int)>> me(static_cast<std::function<void(int)> *>(user));
                (*me)(status);
            },
            held.get()));
        held.release();
    }

  private:
    struct release {
        void operator()(kolo_remote *raw) const { kolo_remote_release(raw); }
    };
    std::unique_ptr<kolo_remote, release> raw_;
};

// ---- the tests ----

static void a_loop_frees_itself() {
    loop first;
    loop moved(std::move(first));
    CHECK(first.get() == nullptr && moved.get() != nullptr);
    CHECK(!moved.run());
}

static void errors_are_exceptions() {
    loop owner;
    try {
        check(kolo_close(owner.get(), 12345));
        CHECK(false);
    } catch (const error &failure) {
        CHECK(failure.code() == KOLO_EBADF);
        CHECK(std::strlen(failure.what()) > 0);
    }
}

static void lambdas_as_timer_callbacks() {
    loop owner;
    std::vector<int> order;
    timer second(owner, [&] { order.push_back(2); });
    timer first(owner, [&] {
        order.push_back(1);
        second.start(std::chrono::milliseconds(1));
    });
    second.start(std::chrono::hours(1));
    first.start(std::chrono::milliseconds(2));
    int ticks = 0;
    std::unique_ptr<timer> every;
    every.reset(new timer(owner, [&] {
        if (++ticks == 3) every.reset(); // closes itself in its own callback
    }));
    every->repeat(std::chrono::milliseconds(1));
    owner.run();
    CHECK((order == std::vector<int>{1, 2}));
    CHECK(ticks == 3);
}

static void exceptions_of_callbacks_come_out_of_run() {
    loop owner;
    timer throwing(owner, [] { throw std::logic_error("from a callback"); });
    throwing.start(std::chrono::milliseconds(1));
    try {
        owner.run();
        CHECK(false);
    } catch (const std::logic_error &failure) {
        CHECK(std::string(failure.what()) == "from a callback");
    }
    bool fired = false;
    timer after(owner, [&] { fired = true; });
    after.start(std::chrono::milliseconds(1));
    owner.run(); // the loop is unharmed
    CHECK(fired);
}

static void deferred_lambdas_are_freed_when_the_loop_goes() {
    auto token = std::make_shared<int>(0);
    std::vector<int> statuses;
    {
        loop owner;
        owner.defer([token, &statuses](int status) { statuses.push_back(status); });
        owner.run();
        owner.defer([token, &statuses](int status) { statuses.push_back(status); });
    }
    CHECK(token.use_count() == 1);
    CHECK((statuses == std::vector<int>{KOLO_OK, KOLO_ECANCELED}));
}

static void posting_lambdas_from_threads() {
    loop owner;
    int sum = 0;
    {
        std::vector<std::thread> threads;
        remote shared(owner);
        timer alive(owner, [] {});
        alive.start(std::chrono::hours(1));
        for (int i = 1; i <= 4; i++)
            threads.emplace_back([i, shared, &sum] {
                for (int k = 0; k < 100; k++) shared.post([i, &sum](int status) { sum += status == KOLO_OK ? i : 0; });
            });
        while (sum < 1000) owner.run(KOLO_RUN_ONCE);
        for (auto &thread : threads) thread.join();
    }
    owner.run();
    CHECK(sum == 1000);
}

static void a_remote_outlives_its_loop() {
    std::unique_ptr<loop> owner(new loop);
    remote left(*owner);
    auto token = std::make_shared<int>(0);
    owner.reset();
    try {
        left.post([token](int) {});
        CHECK(false);
    } catch (const error &failure) {
        CHECK(failure.code() == KOLO_ECANCELED);
    }
    CHECK(token.use_count() == 1);
}

static void watchdog_and_metrics() {
    int reports = 0;
    kolo_loop_options options = KOLO_LOOP_OPTIONS_INIT;
    options.measure_time = true;
    options.slow_callback_ns = 1000000;
    options.on_slow = [](kolo_loop *, kolo_handle, uint64_t, void *user) { ++*static_cast<int *>(user); };
    options.on_slow_user = &reports;
    loop owner(options);
    timer slow(owner, [] {
        auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(5);
        while (std::chrono::steady_clock::now() < end) {
        }
    });
    slow.start(std::chrono::milliseconds(0));
    owner.run();
    kolo_metrics metrics = KOLO_METRICS_INIT;
    check(kolo_loop_metrics(owner.get(), &metrics));
    CHECK(reports == 1);
    CHECK(metrics.longest_callback_ns >= 5000000);
}

// An echo server and a client on one loop; the connection's state is an object that on_close deletes.
struct server_connection {
    static int live;
    server_connection() { live++; }
    ~server_connection() { live--; }
    std::size_t echoed = 0;
};
int server_connection::live = 0;

struct client_state {
    std::string sent, received;
    bool ended = false, closed = false;
    int failure = 0;
};

static void an_echo_server_of_lambdas() {
    loop owner;
    kolo_address address;
    check(kolo_address_parse("127.0.0.1", 0, &address));

    kolo_listener_handler accepting = KOLO_LISTENER_HANDLER_INIT;
    accepting.on_accept = [](kolo_loop *raw, kolo_listener listener, kolo_tcp stream, void *) {
        kolo_stream_handler handler = KOLO_STREAM_HANDLER_INIT;
        handler.on_data = [](kolo_loop *on, kolo_stream from, const uint8_t *data, size_t length, void *user) {
            static_cast<server_connection *>(user)->echoed += length;
            if (kolo_stream_write(on, from, data, length) < 0) kolo_close(on, from);
        };
        handler.on_close = [](kolo_loop *, kolo_stream, void *user) { delete static_cast<server_connection *>(user); };
        std::unique_ptr<server_connection> connection(new server_connection);
        if (kolo_stream_attach(raw, stream, &handler, connection.get()) == KOLO_OK) connection.release();
        kolo_close(raw, listener); // one client is enough
    };
    kolo_listener listener = 0;
    check(kolo_tcp_listen(owner.get(), &address, nullptr, &accepting, nullptr, &listener));
    check(kolo_listener_address(owner.get(), listener, &address));

    client_state client;
    for (int i = 0; client.sent.size() < 1000000; i++) client.sent += "line " + std::to_string(i) + "\n";
    kolo_stream_handler handler = KOLO_STREAM_HANDLER_INIT;
    handler.on_open = [](kolo_loop *on, kolo_stream stream, void *user) {
        client_state *me = static_cast<client_state *>(user);
        if (kolo_stream_write(on, stream, me->sent.data(), me->sent.size()) < 0) std::abort();
        if (kolo_stream_shutdown(on, stream, nullptr, nullptr) < 0) std::abort();
    };
    handler.on_data = [](kolo_loop *, kolo_stream, const uint8_t *data, size_t length, void *user) {
        static_cast<client_state *>(user)->received.append(reinterpret_cast<const char *>(data), length);
    };
    handler.on_end = [](kolo_loop *on, kolo_stream stream, void *user) {
        static_cast<client_state *>(user)->ended = true;
        kolo_close(on, stream);
    };
    handler.on_error = [](kolo_loop *, kolo_stream, int code, void *user) {
        static_cast<client_state *>(user)->failure = code;
    };
    handler.on_close = [](kolo_loop *, kolo_stream, void *user) { static_cast<client_state *>(user)->closed = true; };
    kolo_tcp stream = 0;
    check(kolo_tcp_connect(owner.get(), &address, nullptr, &handler, &client, &stream));
    owner.run();
    CHECK(client.failure == 0);
    CHECK(client.ended && client.closed);
    CHECK(client.received == client.sent);
    CHECK(server_connection::live == 0);
}

static void an_owned_write_keeps_its_string() {
    loop owner;
    kolo_address address;
    check(kolo_address_parse("::1", 0, &address));
    std::string received;
    kolo_listener_handler accepting = KOLO_LISTENER_HANDLER_INIT;
    accepting.on_accept = [](kolo_loop *raw, kolo_listener listener, kolo_tcp stream, void *user) {
        kolo_stream_handler handler = KOLO_STREAM_HANDLER_INIT;
        handler.on_data = [](kolo_loop *, kolo_stream, const uint8_t *data, size_t length, void *text) {
            static_cast<std::string *>(text)->append(reinterpret_cast<const char *>(data), length);
        };
        if (kolo_stream_attach(raw, stream, &handler, user) != KOLO_OK) std::abort();
        kolo_close(raw, listener);
    };
    kolo_listener listener = 0;
    check(kolo_tcp_listen(owner.get(), &address, nullptr, &accepting, &received, &listener));
    check(kolo_listener_address(owner.get(), listener, &address));
    kolo_stream_handler nothing = KOLO_STREAM_HANDLER_INIT;
    kolo_tcp stream = 0;
    check(kolo_tcp_connect(owner.get(), &address, nullptr, &nothing, nullptr, &stream));
    // The string belongs to the write until its completion deletes it.
    std::unique_ptr<std::string> text(new std::string(300000, 'k'));
    kolo_buffer buffer = {&(*text)[0], text->size()};
    check(kolo_stream_write_owned(
        owner.get(), stream, &buffer, 1,
        [](kolo_loop *on, kolo_stream from, int status, void *user) {
            std::unique_ptr<std::string> mine(static_cast<std::string *>(user));
            if (status != KOLO_OK) std::abort();
            kolo_close(on, from);
        },
        text.get(), nullptr));
    text.release();
    owner.run();
    CHECK(received == std::string(300000, 'k'));
}

struct test {
    const char *name;
    void (*run)();
};
#define TEST(name)                                                                                                     \
    { #name, name }

int main() {
    static const test tests[] = {
        TEST(a_loop_frees_itself),
        TEST(errors_are_exceptions),
        TEST(lambdas_as_timer_callbacks),
        TEST(exceptions_of_callbacks_come_out_of_run),
        TEST(deferred_lambdas_are_freed_when_the_loop_goes),
        TEST(posting_lambdas_from_threads),
        TEST(a_remote_outlives_its_loop),
        TEST(watchdog_and_metrics),
        TEST(an_echo_server_of_lambdas),
        TEST(an_owned_write_keeps_its_string),
    };
    int failures = 0;
    for (const test &each : tests) {
        try {
            each.run();
            std::printf("ok     cpp/%s\n", each.name);
        } catch (const std::exception &failure) {
            std::printf("    %s\nFAILED cpp/%s\n", failure.what(), each.name);
            failures++;
        }
    }
    return failures == 0 ? 0 : 1;
}
