/* Work on the threads of a pool, and the requests it is under. */
#include "harness.h"

#include <pthread.h>
#include <semaphore.h>

typedef struct job {
    pthread_t home;
    sem_t begun;
    sem_t go_on;
    bool waits;
    bool ran;
    bool elsewhere;
    int told;
    int status;
    kolo_request request;
    kolo_request told_request;
    bool closes_itself;
    struct job *next; /* submitted in done */
} job;

static void job_init(job *me) {
    memset(me, 0, sizeof *me);
    me->home = pthread_self();
    sem_init(&me->begun, 0, 0);
    sem_init(&me->go_on, 0, 0);
}

static void await(sem_t *semaphore) {
    while (sem_wait(semaphore) != 0) CHECK(errno == EINTR);
}

static void run(void *user) {
    job *me = user;
    sem_post(&me->begun);
    if (me->waits) await(&me->go_on);
    me->ran = true;
    me->elsewhere = !pthread_equal(pthread_self(), me->home);
}

static void submit(kolo_loop *loop, job *me, int work_class);

static void done(kolo_loop *loop, kolo_request request, int status, void *user) {
    job *me = user;
    CHECK(pthread_equal(pthread_self(), me->home));
    me->told++;
    me->status = status;
    me->told_request = request;
    /* The number is dead when it comes. */
    CHECK_ERROR(kolo_request_cancel(loop, request), KOLO_EBADF);
    CHECK_ERROR(kolo_close(loop, request), KOLO_EBADF);
    if (me->next != NULL) submit(loop, me->next, KOLO_WORK_COMPUTE);
}

static void submit(kolo_loop *loop, job *me, int work_class) {
    CHECK_OK(kolo_work_submit(loop, work_class, run, done, me, &me->request));
}

static kolo_pool small_pool(uint32_t queue_capacity) {
    kolo_pool_options options = KOLO_POOL_OPTIONS_INIT;
    kolo_pool pool = 0;
    options.compute_threads = options.file_threads = options.slow_threads = 1;
    options.queue_capacity = queue_capacity;
    options.idle_ns = SECONDS(1);
    options.stack_size = 256 * 1024;
    CHECK_OK(kolo_pool_open(&options, &pool));
    return pool;
}

static kolo_loop *loop_with(kolo_pool pool) {
    kolo_loop_options options = KOLO_LOOP_OPTIONS_INIT;
    kolo_loop *loop = NULL;
    options.pool = pool;
    CHECK_OK(kolo_loop_new(&options, &loop));
    return loop;
}

TEST(work_runs_elsewhere_and_is_told_here) {
    static const int classes[] = {KOLO_WORK_COMPUTE, KOLO_WORK_FILES, KOLO_WORK_SLOW};
    for (size_t i = 0; i < 3; i++) {
        job one;
        job_init(&one);
        submit(loop, &one, classes[i]);
        CHECK_INT(kolo_kind_of(loop, one.request), KOLO_KIND_REQUEST);
        CHECK_INT(kolo_is_active(loop, one.request), 1);
        CHECK_INT(one.told, 0);
        CHECK_INT(kolo_loop_run(loop, KOLO_RUN_DEFAULT), 0);
        CHECK(one.ran && one.elsewhere);
        CHECK_INT(one.told, 1);
        CHECK_INT(one.status, KOLO_OK);
        CHECK(one.told_request == one.request);
    }
}

TEST(the_number_is_not_needed) {
    job one;
    job_init(&one);
    CHECK_OK(kolo_work_submit(loop, KOLO_WORK_COMPUTE, run, done, &one, NULL));
    CHECK_INT(kolo_loop_run(loop, KOLO_RUN_DEFAULT), 0);
    CHECK_INT(one.told, 1);
}

TEST(work_is_submitted_in_done) {
    job one, two;
    job_init(&one);
    job_init(&two);
    one.next = &two;
    submit(loop, &one, KOLO_WORK_COMPUTE);
    CHECK_INT(kolo_loop_run(loop, KOLO_RUN_DEFAULT), 0);
    CHECK(two.ran);
    CHECK_INT(two.told, 1);
}

TEST_WITHOUT_LOOP(what_has_not_begun_is_taken_back) {
    kolo_pool pool = small_pool(10);
    kolo_loop *loop = loop_with(pool);
    job busy, waiting;
    job_init(&busy);
    job_init(&waiting);
    busy.waits = true;
    submit(loop, &busy, KOLO_WORK_COMPUTE);
    await(&busy.begun);
    submit(loop, &waiting, KOLO_WORK_COMPUTE);
    CHECK_ERROR(kolo_request_cancel(loop, busy.request), KOLO_EBUSY);
    CHECK_OK(kolo_request_cancel(loop, waiting.request));
    CHECK_ERROR(kolo_request_cancel(loop, waiting.request), KOLO_EBUSY);
    CHECK_INT(waiting.told, 0);
    RUN_UNTIL(loop, waiting.told == 1);
    CHECK_INT(waiting.status, KOLO_ECANCELED);
    sem_post(&busy.go_on);
    CHECK_INT(kolo_loop_run(loop, KOLO_RUN_DEFAULT), 0);
    CHECK_INT(busy.status, KOLO_OK);
    CHECK(!waiting.ran);
    CHECK_OK(kolo_loop_free(loop));
    CHECK_OK(kolo_pool_close(pool));
}

TEST_WITHOUT_LOOP(a_full_queue_refuses) {
    kolo_pool pool = small_pool(1);
    kolo_loop *loop = loop_with(pool);
    job busy, waiting, refused;
    kolo_request untouched = 7;
    job_init(&busy);
    job_init(&waiting);
    job_init(&refused);
    busy.waits = true;
    submit(loop, &busy, KOLO_WORK_SLOW);
    await(&busy.begun);
    submit(loop, &waiting, KOLO_WORK_SLOW);
    CHECK_ERROR(kolo_work_submit(loop, KOLO_WORK_SLOW, run, done, &refused, &untouched), KOLO_ENOBUFS);
    CHECK(untouched == 7);
    sem_post(&busy.go_on);
    CHECK_INT(kolo_loop_run(loop, KOLO_RUN_DEFAULT), 0);
    CHECK_INT(waiting.told, 1);
    CHECK_INT(refused.told, 0);
    CHECK(!refused.ran);
    CHECK_OK(kolo_loop_free(loop));
    CHECK_OK(kolo_pool_close(pool));
}

static void closed(kolo_loop *loop, kolo_handle handle, void *user) {
    job *me = user;
    (void)loop;
    CHECK(handle == me->request);
    CHECK_INT(me->told, 1); /* it is last */
    me->told = 100;
}

TEST(a_closed_request_is_told_when_no_thread_is_at_it) {
    job one;
    job_init(&one);
    one.waits = true;
    submit(loop, &one, KOLO_WORK_COMPUTE);
    await(&one.begun);
    CHECK_OK(kolo_on_close(loop, one.request, closed, &one));
    CHECK_OK(kolo_close(loop, one.request));
    CHECK_ERROR(kolo_close(loop, one.request), KOLO_EBADF);
    for (int i = 0; i < 3; i++) CHECK_INT(kolo_loop_run(loop, KOLO_RUN_NOWAIT), 1);
    CHECK_INT(one.told, 0);
    sem_post(&one.go_on);
    CHECK_INT(kolo_loop_run(loop, KOLO_RUN_DEFAULT), 0);
    CHECK_INT(one.status, KOLO_ECANCELED);
    CHECK_INT(one.told, 100);
}

static void *let_go(void *user) {
    sem_post(user);
    return NULL;
}

TEST_WITHOUT_LOOP(freeing_the_loop_waits_for_what_runs) {
    kolo_pool pool = small_pool(10);
    kolo_loop *loop = loop_with(pool);
    job busy, waiting;
    pthread_t helper;
    job_init(&busy);
    job_init(&waiting);
    busy.waits = true;
    submit(loop, &busy, KOLO_WORK_COMPUTE);
    await(&busy.begun);
    submit(loop, &waiting, KOLO_WORK_COMPUTE);
    CHECK(pthread_create(&helper, NULL, let_go, &busy.go_on) == 0);
    CHECK_OK(kolo_loop_free(loop));
    CHECK(busy.ran); /* the other one too, if a thread came to it before this thread did */
    CHECK_INT(busy.status, KOLO_ECANCELED);
    CHECK_INT(waiting.status, KOLO_ECANCELED);
    CHECK_INT(busy.told + waiting.told, 2);
    CHECK(pthread_join(helper, NULL) == 0);
    CHECK_OK(kolo_pool_close(pool));
}

TEST_WITHOUT_LOOP(a_pool_lives_as_long_as_its_loops) {
    kolo_pool pool = small_pool(10);
    kolo_loop *one = loop_with(pool), *two = loop_with(pool);
    kolo_loop_options options = KOLO_LOOP_OPTIONS_INIT;
    kolo_loop *none = NULL;
    job first, second;
    job_init(&first);
    job_init(&second);
    CHECK_OK(kolo_pool_close(pool));
    CHECK_ERROR(kolo_pool_close(pool), KOLO_EBADF);
    submit(one, &first, KOLO_WORK_COMPUTE);
    submit(two, &second, KOLO_WORK_COMPUTE);
    CHECK_INT(kolo_loop_run(one, KOLO_RUN_DEFAULT), 0);
    CHECK_INT(kolo_loop_run(two, KOLO_RUN_DEFAULT), 0);
    CHECK_INT(first.told + second.told, 2);
    options.pool = pool;
    CHECK_ERROR(kolo_loop_new(&options, &none), KOLO_EBADF);
    CHECK(none == NULL);
    CHECK_OK(kolo_loop_free(one));
    CHECK_OK(kolo_loop_free(two));
}

TEST(wrong_arguments) {
    kolo_pool_options options = KOLO_POOL_OPTIONS_INIT;
    kolo_pool pool = 7;
    kolo_request request = 7;
    CHECK_ERROR(kolo_work_submit(loop, KOLO_WORK_COMPUTE, NULL, done, NULL, &request), KOLO_EINVAL);
    CHECK_ERROR(kolo_work_submit(loop, KOLO_WORK_COMPUTE, run, NULL, NULL, &request), KOLO_EINVAL);
    CHECK_ERROR(kolo_work_submit(loop, -1, run, done, NULL, &request), KOLO_EINVAL);
    CHECK_ERROR(kolo_work_submit(loop, 3, run, done, NULL, &request), KOLO_EINVAL);
    CHECK(request == 7);
    CHECK_ERROR(kolo_pool_open(NULL, NULL), KOLO_EINVAL);
    options.size = 3;
    CHECK_ERROR(kolo_pool_open(&options, &pool), KOLO_EINVAL);
    CHECK(pool == 7);
    CHECK_ERROR(kolo_pool_close(0), KOLO_EBADF);
    CHECK_ERROR(kolo_pool_close(UINT64_MAX), KOLO_EBADF);
    CHECK_OK(kolo_pool_open(NULL, &pool));
    CHECK_OK(kolo_pool_close(pool));
    CHECK_INT(kolo_loop_run(loop, KOLO_RUN_DEFAULT), 0);
}
