/* Timers: never early, in order of deadline, and for equal deadlines in the order they were started. */
#include "harness.h"

#define LONG_AFTER SECONDS(3600)

typedef struct record {
    int fired;
    uint64_t started; /* own clock */
    uint64_t delay;
    uint64_t at;    /* own clock, at the last callback */
    kolo_timer timer;
} record;

static void count(kolo_loop *loop, kolo_timer timer, void *user) {
    (void)loop;
    record *me = user;
    me->fired++;
    me->at = clock_ns();
    if (me->timer != 0) CHECK(timer == me->timer);
    if (me->fired == 1) CHECK(me->at >= me->started + me->delay);
}

static void open_record(kolo_loop *loop, record *me) {
    memset(me, 0, sizeof *me);
    CHECK_OK(kolo_timer_open(loop, count, me, &me->timer));
    CHECK(me->timer != 0);
}

static void start_record(kolo_loop *loop, record *me, uint64_t delay) {
    me->delay = delay;
    me->started = clock_ns();
    CHECK_OK(kolo_timer_start(loop, me->timer, delay, 0));
}

TEST(one_shot_fires_once) {
    record once;
    open_record(loop, &once);
    CHECK_INT(kolo_is_active(loop, once.timer), 0);
    start_record(loop, &once, MILLISECONDS(2));
    CHECK_INT(kolo_is_active(loop, once.timer), 1);
    CHECK_INT(once.fired, 0); /* never inside the call */
    run_to_end(loop);
    CHECK_INT(once.fired, 1);
    CHECK_INT(kolo_is_active(loop, once.timer), 0);
    start_record(loop, &once, 0); /* and can be used again */
    run_to_end(loop);
    CHECK_INT(once.fired, 2);
}

TEST(a_timer_that_was_not_started_does_not_fire) {
    record idle;
    open_record(loop, &idle);
    run_to_end(loop);
    CHECK_INT(idle.fired, 0);
}

TEST(never_early) {
    static const uint64_t delays[] = {0,      1,       999,     1000,     50000,    100000,  999999,
                                      1000000, 1000001, 1500000, 2000000,  7777777, 20000000, 63000000, 65000000};
    enum { COUNT = sizeof delays / sizeof delays[0] };
    record records[COUNT];
    for (size_t i = 0; i < COUNT; i++) {
        open_record(loop, &records[i]);
        start_record(loop, &records[i], delays[i]); /* count() compares with a clock of its own */
    }
    run_to_end(loop);
    for (size_t i = 0; i < COUNT; i++) CHECK_INT(records[i].fired, 1);
}

TEST(never_early_when_the_clock_of_the_loop_is_old) {
    record late;
    open_record(loop, &late);
    CHECK(kolo_loop_run(loop, KOLO_RUN_NOWAIT) >= 0);
    busy_wait_ns(MILLISECONDS(20));
    start_record(loop, &late, MILLISECONDS(10));
    run_to_end(loop);
    CHECK_INT(late.fired, 1);
}

TEST(fires_however_long_the_wheel_must_turn) {
    /* One after the other, so that each sleep starts from an idle loop. */
    record one;
    open_record(loop, &one);
    for (uint64_t delay = 1; delay < MILLISECONDS(150); delay = delay * 3 + 1) {
        int before = one.fired;
        one.fired = 0;
        start_record(loop, &one, delay);
        run_to_end(loop);
        CHECK_INT(one.fired, 1);
        one.fired = before + 1;
    }
    CHECK(one.fired > 10);
}

/* ---- order ---- */

static int order[20000];
static int ordered;

static void note_order(kolo_loop *loop, kolo_timer timer, void *user) {
    (void)loop, (void)timer;
    order[ordered++] = (int)(intptr_t)user;
}

static kolo_timer open_noting(kolo_loop *loop, int number) {
    kolo_timer timer = 0;
    CHECK_OK(kolo_timer_open(loop, note_order, (void *)(intptr_t)number, &timer));
    return timer;
}

TEST(in_order_of_deadline) {
    static const int milliseconds[] = {31, 2, 17, 5, 29, 3, 11, 23, 7, 13, 19, 1, 31, 2};
    enum { COUNT = sizeof milliseconds / sizeof milliseconds[0] };
    kolo_timer timers[COUNT];
    uint64_t left[COUNT];
    for (int i = 0; i < COUNT; i++) {
        timers[i] = open_noting(loop, i);
        CHECK_OK(kolo_timer_start(loop, timers[i], MILLISECONDS(milliseconds[i]), 0));
    }
    CHECK_OK(kolo_loop_update_now(loop));
    for (int i = 0; i < COUNT; i++) CHECK_OK(kolo_timer_remaining(loop, timers[i], &left[i])); /* by one clock */
    run_to_end(loop);
    CHECK_INT(ordered, COUNT);
    for (int i = 1; i < COUNT; i++) CHECK(left[order[i - 1]] <= left[order[i]]);
}

TEST(in_order_of_deadline_when_all_are_due_in_one_turn) {
    static const int microseconds[] = {310, 20, 170, 50, 290, 30, 110, 230, 70, 130, 190, 10};
    enum { COUNT = sizeof microseconds / sizeof microseconds[0] };
    kolo_timer timers[COUNT];
    uint64_t left[COUNT];
    for (int i = 0; i < COUNT; i++) {
        timers[i] = open_noting(loop, i);
        CHECK_OK(kolo_timer_start(loop, timers[i], SECONDS(1) + 1000u * (uint64_t)microseconds[i], 0));
    }
    CHECK_OK(kolo_loop_update_now(loop));
    for (int i = 0; i < COUNT; i++) CHECK_OK(kolo_timer_remaining(loop, timers[i], &left[i]));
    busy_wait_ns(MILLISECONDS(1001));
    run_to_end(loop);
    CHECK_INT(ordered, COUNT);
    for (int i = 1; i < COUNT; i++) CHECK(left[order[i - 1]] <= left[order[i]]);
}

TEST(equal_deadlines_in_the_order_of_their_start) {
    enum { COUNT = 500 };
    kolo_timer timers[COUNT];
    for (int i = 0; i < COUNT; i++) timers[i] = open_noting(loop, i);
    for (int i = COUNT - 1; i >= 0; i--) CHECK_OK(kolo_timer_start(loop, timers[i], MILLISECONDS(5), 0));
    run_to_end(loop);
    CHECK_INT(ordered, COUNT);
    for (int i = 0; i < COUNT; i++) CHECK_INT(order[i], COUNT - 1 - i);
}

TEST(starting_again_moves_to_the_end_of_the_order) {
    kolo_timer first = open_noting(loop, 1), second = open_noting(loop, 2);
    CHECK_OK(kolo_timer_start(loop, first, MILLISECONDS(5), 0));
    CHECK_OK(kolo_timer_start(loop, second, MILLISECONDS(5), 0));
    CHECK_OK(kolo_timer_start(loop, first, MILLISECONDS(5), 0));
    run_to_end(loop);
    CHECK_INT(ordered, 2);
    CHECK_INT(order[0], 2);
    CHECK_INT(order[1], 1);
}

TEST(ten_thousand_timers_in_order_with_half_stopped) {
    enum { COUNT = 10000 };
    static kolo_timer timers[COUNT];
    static uint32_t delays[COUNT];
    uint32_t seed = 12345;
    for (int i = 0; i < COUNT; i++) {
        seed = seed * 1664525u + 1013904223u;
        delays[i] = (seed >> 8) % 50000000u; /* up to 50 ms */
        timers[i] = open_noting(loop, i);
        CHECK_OK(kolo_timer_start(loop, timers[i], delays[i], 0));
    }
    for (int i = 0; i < COUNT; i += 2) CHECK_OK(kolo_timer_stop(loop, timers[i]));
    run_to_end(loop);
    CHECK_INT(ordered, COUNT / 2);
    static bool seen[COUNT];
    for (int i = 0; i < ordered; i++) {
        CHECK(order[i] % 2 == 1 && !seen[order[i]]);
        seen[order[i]] = true;
        /* Started later with a longer delay is a later deadline whatever the clock was. */
        if (i > 0 && order[i] < order[i - 1]) CHECK(delays[order[i]] >= delays[order[i - 1]]);
    }
}

/* ---- zero ---- */

static void again_at_once(kolo_loop *loop, kolo_timer timer, void *user) {
    int *count_down = user;
    if (--*count_down > 0) CHECK_OK(kolo_timer_start(loop, timer, 0, 0));
}

static int turns_seen;

static void count_turn(kolo_loop *loop, kolo_hook hook, void *user) {
    (void)loop, (void)hook, (void)user;
    turns_seen++;
}

TEST(a_zero_delay_from_a_callback_comes_in_a_later_turn) {
    kolo_timer timer = 0;
    kolo_hook check = 0;
    int count_down = 50;
    CHECK_OK(kolo_timer_open(loop, again_at_once, &count_down, &timer));
    CHECK_OK(kolo_hook_open(loop, KOLO_HOOK_CHECK, count_turn, NULL, &check));
    CHECK_OK(kolo_hook_start(loop, check));
    CHECK_OK(kolo_unref(loop, check));
    CHECK_OK(kolo_timer_start(loop, timer, 0, 0));
    run_to_end(loop);
    CHECK_INT(count_down, 0);
    CHECK(turns_seen >= 49); /* the loop went round in between: nothing starves */
}

TEST(a_period_of_a_nanosecond_does_not_hold_up_the_turn) {
    record fast;
    kolo_hook check = 0;
    open_record(loop, &fast);
    CHECK_OK(kolo_hook_open(loop, KOLO_HOOK_CHECK, count_turn, NULL, &check));
    CHECK_OK(kolo_hook_start(loop, check));
    CHECK_OK(kolo_timer_start(loop, fast.timer, 1, 1));
    RUN_UNTIL(loop, turns_seen >= 20);
    CHECK(fast.fired >= 1 && fast.fired <= 2 * turns_seen + 2);
}

/* ---- starting again ---- */

TEST(start_moves_a_running_timer_nearer) {
    record moved;
    open_record(loop, &moved);
    start_record(loop, &moved, LONG_AFTER);
    start_record(loop, &moved, MILLISECONDS(2));
    run_to_end(loop);
    CHECK_INT(moved.fired, 1);
}

TEST(start_moves_a_running_timer_farther) {
    record moved, other;
    uint64_t left = 0;
    open_record(loop, &moved);
    open_record(loop, &other);
    start_record(loop, &moved, MILLISECONDS(2));
    start_record(loop, &moved, LONG_AFTER);
    start_record(loop, &other, MILLISECONDS(20));
    RUN_UNTIL(loop, other.fired);
    CHECK_INT(moved.fired, 0);
    CHECK_OK(kolo_timer_remaining(loop, moved.timer, &left));
    CHECK(left > 0 && left < LONG_AFTER);
}

TEST(start_can_be_repeated_for_ever_before_it_fires) {
    record moved;
    open_record(loop, &moved);
    for (int i = 0; i < 1000; i++) {
        CHECK_OK(kolo_timer_start(loop, moved.timer, LONG_AFTER + (uint64_t)i, 0));
        CHECK(kolo_loop_run(loop, KOLO_RUN_NOWAIT) == 1);
    }
    CHECK_INT(moved.fired, 0);
    start_record(loop, &moved, 0);
    run_to_end(loop);
    CHECK_INT(moved.fired, 1);
}

TEST(stop_keeps_it_from_firing) {
    record stopped;
    open_record(loop, &stopped);
    start_record(loop, &stopped, 0);
    CHECK_OK(kolo_timer_stop(loop, stopped.timer));
    CHECK_INT(kolo_is_active(loop, stopped.timer), 0);
    CHECK_OK(kolo_timer_stop(loop, stopped.timer)); /* stopping a stopped one */
    run_to_end(loop);
    CHECK_INT(stopped.fired, 0);
}

TEST(delays_beyond_the_end_of_time_do_not_wrap) {
    record far, near;
    static const uint64_t delays[] = {UINT64_MAX, UINT64_MAX - 1, UINT64_MAX / 2, (uint64_t)INT64_MAX};
    for (size_t i = 0; i < sizeof delays / sizeof delays[0]; i++) {
        uint64_t left = 0;
        open_record(loop, &far);
        open_record(loop, &near);
        CHECK_OK(kolo_timer_start(loop, far.timer, delays[i], i % 2 == 0 ? 0 : UINT64_MAX));
        start_record(loop, &near, MILLISECONDS(2));
        RUN_UNTIL(loop, near.fired);
        CHECK_INT(far.fired, 0);
        CHECK_OK(kolo_timer_remaining(loop, far.timer, &left));
        CHECK(left > LONG_AFTER);
        CHECK_OK(kolo_close(loop, far.timer));
        CHECK_OK(kolo_close(loop, near.timer));
        run_to_end(loop);
    }
}

/* ---- periods ---- */

typedef struct periodic {
    uint64_t first_deadline; /* not before this */
    uint64_t period;
    int fired;
    uint64_t skipped;
    int stop_after;
    int busy_at; /* keep the processor in this callback for five and a half periods */
    uint64_t overrun_after_busy;
} periodic;

static void on_period(kolo_loop *loop, kolo_timer timer, void *user) {
    periodic *me = user;
    uint64_t overrun = 0, now = clock_ns();
    me->fired++;
    CHECK_OK(kolo_timer_overrun(loop, timer, &overrun));
    me->skipped += overrun;
    if (me->fired == me->busy_at + 1) me->overrun_after_busy = overrun;
    /* The phase is kept: this callback stands for period number fired + skipped, and is not before it. */
    CHECK(now >= me->first_deadline + (me->skipped + (uint64_t)me->fired - 1) * me->period);
    if (me->fired == me->busy_at) busy_wait_ns(me->period * 5 + me->period / 2);
    if (me->fired == me->stop_after) CHECK_OK(kolo_timer_stop(loop, timer));
}

TEST(a_period_repeats_until_stopped) {
    periodic every;
    memset(&every, 0, sizeof every);
    kolo_timer timer = 0;
    every.period = MILLISECONDS(3);
    every.stop_after = 6;
    CHECK_OK(kolo_timer_open(loop, on_period, &every, &timer));
    every.first_deadline = clock_ns() + MILLISECONDS(5);
    CHECK_OK(kolo_timer_start(loop, timer, MILLISECONDS(5), every.period));
    run_to_end(loop);
    CHECK_INT(every.fired, 6);
}

TEST(missed_periods_are_counted_not_made_up) {
    periodic every;
    memset(&every, 0, sizeof every);
    kolo_timer timer = 0;
    every.period = MILLISECONDS(4);
    every.stop_after = 5;
    every.busy_at = 2;
    CHECK_OK(kolo_timer_open(loop, on_period, &every, &timer));
    every.first_deadline = clock_ns() + every.period;
    CHECK_OK(kolo_timer_start(loop, timer, every.period, every.period));
    run_to_end(loop);
    CHECK_INT(every.fired, 5);
    CHECK(every.overrun_after_busy >= 4); /* five were missed; the callback that came stands for the last of them */
}

TEST(overrun_is_zero_before_the_first_callback) {
    record one;
    uint64_t overrun = 99;
    open_record(loop, &one);
    CHECK_OK(kolo_timer_overrun(loop, one.timer, &overrun));
    CHECK_INT(overrun, 0);
}

TEST(again_takes_the_period_as_the_delay) {
    record idle;
    uint64_t left = 0;
    open_record(loop, &idle);
    CHECK_ERROR(kolo_timer_again(loop, idle.timer), KOLO_EINVAL); /* never started: no period */
    CHECK_OK(kolo_timer_start(loop, idle.timer, LONG_AFTER, 0));
    CHECK_ERROR(kolo_timer_again(loop, idle.timer), KOLO_EINVAL);
    CHECK_OK(kolo_timer_start(loop, idle.timer, LONG_AFTER, MILLISECONDS(2)));
    CHECK_OK(kolo_timer_again(loop, idle.timer));
    CHECK_OK(kolo_timer_remaining(loop, idle.timer, &left));
    CHECK(left <= MILLISECONDS(2));
    RUN_UNTIL(loop, idle.fired >= 2);
    CHECK_OK(kolo_timer_stop(loop, idle.timer));
    CHECK_INT(kolo_is_active(loop, idle.timer), 0);
    int fired = idle.fired;
    CHECK_OK(kolo_timer_again(loop, idle.timer)); /* a stopped one remembers its period */
    CHECK_INT(kolo_is_active(loop, idle.timer), 1);
    RUN_UNTIL(loop, idle.fired > fired);
}

/* ---- remaining ---- */

TEST(remaining_counts_down_to_zero) {
    record one;
    uint64_t left = 1, less = 0;
    open_record(loop, &one);
    CHECK_ERROR(kolo_timer_remaining(loop, one.timer, &left), KOLO_ENOENT);
    CHECK_OK(kolo_timer_start(loop, one.timer, LONG_AFTER, 0));
    CHECK_OK(kolo_timer_remaining(loop, one.timer, &left));
    CHECK(left <= LONG_AFTER && left > LONG_AFTER / 2);
    busy_wait_ns(MILLISECONDS(3));
    CHECK_OK(kolo_loop_update_now(loop));
    CHECK_OK(kolo_timer_remaining(loop, one.timer, &less));
    CHECK(less + MILLISECONDS(3) <= left);
    CHECK_OK(kolo_timer_start(loop, one.timer, 1000, 0));
    busy_wait_ns(MILLISECONDS(1));
    CHECK_OK(kolo_loop_update_now(loop));
    CHECK_OK(kolo_timer_remaining(loop, one.timer, &left));
    CHECK_INT(left, 0); /* due, not yet called */
    run_to_end(loop);
    CHECK_INT(one.fired, 1);
    CHECK_ERROR(kolo_timer_remaining(loop, one.timer, &left), KOLO_ENOENT);
}

/* ---- inside callbacks ---- */

typedef struct neighbours {
    kolo_timer self, other;
    int calls;
    void (*act)(kolo_loop *loop, struct neighbours *me);
} neighbours;

static void act_on_neighbour(kolo_loop *loop, kolo_timer timer, void *user) {
    neighbours *me = user;
    me->self = timer;
    me->calls++;
    me->act(loop, me);
}

/* Two timers due in the same turn; the first acts on the second. Gives how often the second fired. */
static int with_neighbour(kolo_loop *loop, neighbours *me, void (*act)(kolo_loop *loop, neighbours *me)) {
    kolo_timer first = 0;
    record second;
    memset(me, 0, sizeof *me);
    me->act = act;
    CHECK_OK(kolo_timer_open(loop, act_on_neighbour, me, &first));
    open_record(loop, &second);
    me->other = second.timer;
    CHECK_OK(kolo_timer_start(loop, first, 1, 0));
    CHECK_OK(kolo_timer_start(loop, second.timer, 1, 0));
    busy_wait_ns(MILLISECONDS(2));
    run_some_turns(loop);
    CHECK(me->calls >= 1);
    kolo_close(loop, first);
    kolo_close(loop, second.timer);
    run_to_end(loop);
    return second.fired;
}

static void stop_other(kolo_loop *loop, neighbours *me) { CHECK_OK(kolo_timer_stop(loop, me->other)); }
static void close_other(kolo_loop *loop, neighbours *me) { CHECK_OK(kolo_close(loop, me->other)); }
static void put_other_off(kolo_loop *loop, neighbours *me) {
    CHECK_OK(kolo_timer_start(loop, me->other, LONG_AFTER, 0));
}
static void stop_self(kolo_loop *loop, neighbours *me) { CHECK_OK(kolo_timer_stop(loop, me->self)); }
static void close_self(kolo_loop *loop, neighbours *me) {
    CHECK_OK(kolo_close(loop, me->self));
    CHECK_ERROR(kolo_timer_start(loop, me->self, 0, 0), KOLO_EBADF); /* dead at once */
}

TEST(stopping_a_neighbour_that_is_due_in_this_turn) {
    neighbours me;
    CHECK_INT(with_neighbour(loop, &me, stop_other), 0);
}

TEST(closing_a_neighbour_that_is_due_in_this_turn) {
    neighbours me;
    CHECK_INT(with_neighbour(loop, &me, close_other), 0);
}

TEST(putting_off_a_neighbour_that_is_due_in_this_turn) {
    neighbours me;
    CHECK_INT(with_neighbour(loop, &me, put_other_off), 0);
}

TEST(stopping_itself) {
    neighbours me;
    CHECK_INT(with_neighbour(loop, &me, stop_self), 1);
    CHECK_INT(me.calls, 1);
}

TEST(closing_itself) {
    neighbours me;
    CHECK_INT(with_neighbour(loop, &me, close_self), 1);
    CHECK_INT(me.calls, 1);
}

TEST(stopping_itself_ends_a_period) {
    neighbours me;
    memset(&me, 0, sizeof me);
    me.act = stop_self;
    kolo_timer timer = 0;
    CHECK_OK(kolo_timer_open(loop, act_on_neighbour, &me, &timer));
    CHECK_OK(kolo_timer_start(loop, timer, 0, 1000));
    run_to_end(loop);
    CHECK_INT(me.calls, 1);
}

TEST(closing_itself_ends_a_period) {
    neighbours me;
    memset(&me, 0, sizeof me);
    me.act = close_self;
    kolo_timer timer = 0;
    CHECK_OK(kolo_timer_open(loop, act_on_neighbour, &me, &timer));
    CHECK_OK(kolo_timer_start(loop, timer, 0, 1000));
    run_to_end(loop);
    CHECK_INT(me.calls, 1);
}

static void busy_then_start(kolo_loop *loop, kolo_timer timer, void *user) {
    (void)timer;
    busy_wait_ns(MILLISECONDS(20));
    start_record(loop, user, MILLISECONDS(10));
}

TEST(a_start_in_a_callback_counts_from_a_fresh_clock) {
    kolo_timer first = 0;
    record second;
    open_record(loop, &second);
    CHECK_OK(kolo_timer_open(loop, busy_then_start, &second, &first));
    CHECK_OK(kolo_timer_start(loop, first, 0, 0));
    run_to_end(loop);
    CHECK_INT(second.fired, 1); /* count() has compared the clocks */
}

static void busy_then_return(kolo_loop *loop, kolo_timer timer, void *user) {
    (void)loop, (void)timer, (void)user;
    busy_wait_ns(MILLISECONDS(20));
}

static void start_it(kolo_loop *loop, kolo_timer timer, void *user) {
    (void)timer;
    start_record(loop, user, MILLISECONDS(10));
}

TEST(a_start_after_a_slow_neighbour_counts_from_a_fresh_clock) {
    /* The neighbour before it in the same turn took long; the clock read at the turn's start would be too old. */
    kolo_timer slow = 0, starter = 0;
    record started;
    open_record(loop, &started);
    CHECK_OK(kolo_timer_open(loop, busy_then_return, NULL, &slow));
    CHECK_OK(kolo_timer_open(loop, start_it, &started, &starter));
    CHECK_OK(kolo_timer_start(loop, slow, 0, 0));
    CHECK_OK(kolo_timer_start(loop, starter, 0, 0));
    run_to_end(loop);
    CHECK_INT(started.fired, 1);
}

static void again_with_period(kolo_loop *loop, kolo_timer timer, void *user) {
    record *me = user;
    me->fired++;
    me->at = clock_ns();
    if (me->fired == 2) CHECK(me->at >= me->started + me->delay);
    if (me->fired == 1) {
        busy_wait_ns(MILLISECONDS(20));
        me->started = clock_ns();
        CHECK_OK(kolo_timer_again(loop, timer));
    } else {
        CHECK_OK(kolo_timer_stop(loop, timer));
    }
}

TEST(again_in_a_callback_counts_from_a_fresh_clock) {
    record me;
    memset(&me, 0, sizeof me);
    me.delay = MILLISECONDS(10);
    kolo_timer timer = 0;
    CHECK_OK(kolo_timer_open(loop, again_with_period, &me, &timer));
    CHECK_OK(kolo_timer_start(loop, timer, 0, me.delay));
    run_to_end(loop);
    CHECK_INT(me.fired, 2);
}

/* ---- and the loop ---- */

TEST(an_unreferenced_timer_does_not_hold_the_loop) {
    record held, free_one;
    open_record(loop, &held);
    open_record(loop, &free_one);
    start_record(loop, &held, MILLISECONDS(5));
    start_record(loop, &free_one, LONG_AFTER);
    CHECK_OK(kolo_unref(loop, free_one.timer));
    run_to_end(loop);
    CHECK_INT(held.fired, 1);
    CHECK_INT(free_one.fired, 0);
}

TEST(an_unreferenced_timer_fires_while_the_loop_lives) {
    record held, free_one;
    open_record(loop, &held);
    open_record(loop, &free_one);
    CHECK_OK(kolo_unref(loop, free_one.timer));
    start_record(loop, &free_one, MILLISECONDS(1));
    start_record(loop, &held, MILLISECONDS(10));
    run_to_end(loop);
    CHECK_INT(free_one.fired, 1);
}

TEST(one_turn_that_waits_for_a_timer_runs_it) {
    record one;
    open_record(loop, &one);
    start_record(loop, &one, MILLISECONDS(5));
    CHECK_INT(kolo_loop_run(loop, KOLO_RUN_ONCE), 0);
    CHECK_INT(one.fired, 1);
}

TEST(no_wait_does_not_wait_for_a_timer) {
    record one;
    open_record(loop, &one);
    start_record(loop, &one, LONG_AFTER);
    CHECK_INT(kolo_loop_run(loop, KOLO_RUN_NOWAIT), 1);
    CHECK_INT(one.fired, 0);
}

static void note_closed(kolo_loop *loop, kolo_handle handle, void *user) {
    (void)loop, (void)handle;
    ++*(int *)user;
}

TEST(closing_a_running_timer) {
    record one;
    int closed = 0;
    open_record(loop, &one);
    start_record(loop, &one, 0);
    CHECK_OK(kolo_on_close(loop, one.timer, note_closed, &closed));
    CHECK_OK(kolo_close(loop, one.timer));
    CHECK_INT(closed, 0);
    run_to_end(loop);
    CHECK_INT(closed, 1);
    CHECK_INT(one.fired, 0);
}
