/* Hooks: idle, prepare and check, each once a turn. */
#include "harness.h"

typedef struct record {
    kolo_hook hook;
    int calls;
    int stop_after;
    int close_after;
    kolo_hook other;
    bool stop_other;
    bool close_other;
} record;

static void count(kolo_loop *loop, kolo_hook hook, void *user) {
    record *me = user;
    me->calls++;
    CHECK(hook == me->hook);
    if (me->calls == me->stop_after) CHECK_OK(kolo_hook_stop(loop, hook));
    if (me->calls == me->close_after) CHECK_OK(kolo_close(loop, hook));
    if (me->stop_other) CHECK_OK(kolo_hook_stop(loop, me->other));
    if (me->close_other && me->calls == 1) CHECK_OK(kolo_close(loop, me->other));
}

static void open_record(kolo_loop *loop, record *me, int kind) {
    memset(me, 0, sizeof *me);
    CHECK_OK(kolo_hook_open(loop, kind, count, me, &me->hook));
    CHECK(me->hook != 0);
    CHECK_INT(kolo_is_active(loop, me->hook), 0);
}

static const int kinds[] = {KOLO_HOOK_IDLE, KOLO_HOOK_PREPARE, KOLO_HOOK_CHECK};
#define KINDS 3

TEST(each_kind_comes_once_a_turn) {
    record records[KINDS];
    for (int i = 0; i < KINDS; i++) {
        open_record(loop, &records[i], kinds[i]);
        CHECK_OK(kolo_hook_start(loop, records[i].hook));
        CHECK_INT(kolo_is_active(loop, records[i].hook), 1);
        CHECK_INT(records[i].calls, 0);
    }
    for (int turn = 1; turn <= 3; turn++) {
        CHECK_INT(kolo_loop_run(loop, KOLO_RUN_NOWAIT), 1);
        for (int i = 0; i < KINDS; i++) CHECK_INT(records[i].calls, turn);
    }
}

TEST(a_hook_that_was_not_started_is_silent) {
    record records[KINDS];
    for (int i = 0; i < KINDS; i++) open_record(loop, &records[i], kinds[i]);
    CHECK_INT(kolo_loop_run(loop, KOLO_RUN_DEFAULT), 0); /* and does not keep the loop alive */
    for (int i = 0; i < KINDS; i++) CHECK_INT(records[i].calls, 0);
}

TEST(starting_and_stopping_twice_is_no_error) {
    record one;
    open_record(loop, &one, KOLO_HOOK_PREPARE);
    CHECK_OK(kolo_hook_stop(loop, one.hook));
    CHECK_OK(kolo_hook_start(loop, one.hook));
    CHECK_OK(kolo_hook_start(loop, one.hook));
    CHECK_INT(kolo_loop_run(loop, KOLO_RUN_NOWAIT), 1);
    CHECK_INT(one.calls, 1);
    CHECK_OK(kolo_hook_stop(loop, one.hook));
    CHECK_OK(kolo_hook_stop(loop, one.hook));
    CHECK_INT(kolo_loop_run(loop, KOLO_RUN_NOWAIT), 0);
    CHECK_INT(one.calls, 1);
    CHECK_OK(kolo_hook_start(loop, one.hook));
    CHECK_INT(kolo_loop_run(loop, KOLO_RUN_NOWAIT), 1);
    CHECK_INT(one.calls, 2);
}

TEST(a_started_idle_hook_makes_the_wait_return_at_once) {
    record idle;
    open_record(loop, &idle, KOLO_HOOK_IDLE);
    idle.stop_after = 100;
    CHECK_OK(kolo_hook_start(loop, idle.hook));
    run_to_end(loop); /* nothing else would ever end a wait */
    CHECK_INT(idle.calls, 100);
}

static void tick(kolo_loop *loop, kolo_timer timer, void *user) {
    (void)loop, (void)timer;
    ++*(int *)user;
}

TEST(prepare_and_check_do_not_shorten_the_wait) {
    record prepare, check;
    kolo_timer timer = 0;
    int ticks = 0;
    open_record(loop, &prepare, KOLO_HOOK_PREPARE);
    open_record(loop, &check, KOLO_HOOK_CHECK);
    CHECK_OK(kolo_hook_start(loop, prepare.hook));
    CHECK_OK(kolo_hook_start(loop, check.hook));
    CHECK_OK(kolo_timer_open(loop, tick, &ticks, &timer));
    CHECK_OK(kolo_timer_start(loop, timer, MILLISECONDS(30), 0));
    RUN_UNTIL(loop, ticks == 1);
    CHECK(prepare.calls <= 5); /* the loop slept for it, and did not go round and round */
    CHECK(check.calls == prepare.calls || check.calls == prepare.calls - 1);
}

TEST(stopping_itself) {
    record records[KINDS];
    for (int i = 0; i < KINDS; i++) {
        open_record(loop, &records[i], kinds[i]);
        records[i].stop_after = 1;
        CHECK_OK(kolo_hook_start(loop, records[i].hook));
    }
    run_some_turns(loop);
    for (int i = 0; i < KINDS; i++) CHECK_INT(records[i].calls, 1);
}

TEST(closing_itself) {
    record records[KINDS];
    for (int i = 0; i < KINDS; i++) {
        open_record(loop, &records[i], kinds[i]);
        records[i].close_after = 1;
        CHECK_OK(kolo_hook_start(loop, records[i].hook));
    }
    run_some_turns(loop);
    for (int i = 0; i < KINDS; i++) {
        CHECK_INT(records[i].calls, 1);
        CHECK_ERROR(kolo_hook_start(loop, records[i].hook), KOLO_EBADF);
    }
    run_to_end(loop);
}

TEST(acting_on_a_neighbour_of_the_same_phase) {
    /* Each of the two would silence the other: one of them is heard, once. */
    for (int close = 0; close <= 1; close++) {
        for (int i = 0; i < KINDS; i++) {
            record first, second;
            open_record(loop, &first, kinds[i]);
            open_record(loop, &second, kinds[i]);
            first.other = second.hook;
            second.other = first.hook;
            first.stop_other = second.stop_other = !close;
            first.close_other = second.close_other = close;
            CHECK_OK(kolo_hook_start(loop, first.hook));
            CHECK_OK(kolo_hook_start(loop, second.hook));
            CHECK(kolo_loop_run(loop, KOLO_RUN_NOWAIT) == 1);
            CHECK_INT(first.calls + second.calls, 1);
            record *heard = first.calls ? &first : &second;
            CHECK_OK(kolo_close(loop, heard->hook));
            CHECK_ERROR(kolo_close(loop, heard->other), close ? KOLO_EBADF : KOLO_OK);
            run_some_turns(loop);
        }
    }
}

TEST(hooks_of_a_kind_come_in_the_order_of_their_start) {
    record records[4];
    for (int i = 0; i < 4; i++) open_record(loop, &records[i], KOLO_HOOK_CHECK);
    /* Each is stopped by the one before it, so only the first of the order is heard. */
    for (int i = 0; i < 4; i++) {
        records[i].other = records[(i + 1) % 4].hook;
        records[i].stop_other = true;
    }
    CHECK_OK(kolo_hook_start(loop, records[2].hook));
    CHECK_OK(kolo_hook_start(loop, records[3].hook));
    CHECK(kolo_loop_run(loop, KOLO_RUN_NOWAIT) == 1);
    CHECK_INT(records[2].calls, 1);
    CHECK_INT(records[3].calls, 0);
}

static void start_another(kolo_loop *loop, kolo_hook hook, void *user) {
    (void)hook;
    CHECK_OK(kolo_hook_start(loop, *(kolo_hook *)user));
}

TEST(starting_another_of_its_kind_in_a_callback) {
    for (int i = 0; i < KINDS; i++) {
        record started;
        kolo_hook starter = 0;
        open_record(loop, &started, kinds[i]);
        CHECK_OK(kolo_hook_open(loop, kinds[i], start_another, &started.hook, &starter));
        CHECK_OK(kolo_hook_start(loop, starter));
        CHECK(kolo_loop_run(loop, KOLO_RUN_NOWAIT) == 1);
        CHECK_INT(started.calls, 0); /* from the next turn on */
        CHECK(kolo_loop_run(loop, KOLO_RUN_NOWAIT) == 1);
        CHECK_INT(started.calls, 1);
        CHECK_OK(kolo_close(loop, starter));
        CHECK_OK(kolo_close(loop, started.hook));
        run_to_end(loop);
    }
}

TEST(an_unreferenced_hook_does_not_hold_the_loop) {
    for (int i = 0; i < KINDS; i++) {
        record one;
        open_record(loop, &one, kinds[i]);
        CHECK_OK(kolo_hook_start(loop, one.hook));
        CHECK_INT(kolo_loop_alive(loop), 1);
        CHECK_OK(kolo_unref(loop, one.hook));
        CHECK_INT(kolo_loop_alive(loop), 0);
        run_to_end(loop);
        CHECK_OK(kolo_close(loop, one.hook));
        run_to_end(loop);
    }
}

TEST(a_kind_that_there_is_not) {
    kolo_hook hook = 0;
    static const int wrong[] = {0, 4, -1, 1000};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        CHECK_ERROR(kolo_hook_open(loop, wrong[i], count, NULL, &hook), KOLO_EINVAL);
    CHECK_INT(hook, 0);
}
