/* The system: clocks, random bytes, names, memory, processors, interfaces. No loop is needed, and any thread may ask. */
#include "harness.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <limits.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>

static int64_t read_clock(clockid_t clock) {
    struct timespec time;
    SYSTEM(clock_gettime(clock, &time));
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

TEST(the_monotonic_clock_is_the_loops_and_the_systems) {
    uint64_t before = clock_ns(), loop_time;
    uint64_t now = kolo_clock_monotonic();
    CHECK(before <= now && now <= clock_ns());
    CHECK_OK(kolo_loop_update_now(loop));
    CHECK_OK(kolo_loop_now(loop, &loop_time));
    CHECK(now <= loop_time && loop_time <= kolo_clock_monotonic());
}

TEST_WITHOUT_LOOP(the_wall_clock_is_the_systems) {
    int64_t before = read_clock(CLOCK_REALTIME);
    int64_t now = kolo_clock_wall();
    int64_t after = read_clock(CLOCK_REALTIME);
    /* Somebody may set the clock between two readings: then try once more. */
    if (now < before || now > after) {
        before = read_clock(CLOCK_REALTIME);
        now = kolo_clock_wall();
        after = read_clock(CLOCK_REALTIME);
    }
    CHECK(before <= now && now <= after);
}

TEST_WITHOUT_LOOP(random_fills_all_and_nothing_more) {
    enum { LENGTH = 4096, GUARD = 16 };
    static uint8_t memory[LENGTH + GUARD];
    unsigned zeros = 0;
    CHECK_OK(kolo_random(memory, LENGTH));
    for (size_t i = 0; i < LENGTH; i++) zeros += memory[i] == 0;
    CHECK(zeros < 100); /* 16 are to be expected */
    for (size_t i = LENGTH; i < LENGTH + GUARD; i++) CHECK_INT(memory[i], 0);
    /* Also the last of a length that one system call does not fill. */
    size_t much = (size_t)1 << 20;
    uint8_t *large = calloc(much, 1);
    CHECK(large != NULL);
    CHECK_OK(kolo_random(large, much));
    uint8_t any = 0;
    for (size_t i = much - 64; i < much; i++) any = (uint8_t)(any | large[i]);
    CHECK(any != 0);
    free(large);
}

TEST_WITHOUT_LOOP(random_of_nothing_and_to_nowhere) {
    CHECK_OK(kolo_random(NULL, 0));
    CHECK_ERROR(kolo_random(NULL, 1), KOLO_EINVAL);
    uint8_t byte;
    CHECK_ERROR(kolo_random(&byte, SIZE_MAX), KOLO_EINVAL);
}

TEST_WITHOUT_LOOP(a_forked_child_gets_other_random_bytes) {
    uint8_t ours[32], theirs[32], first;
    int ends[2];
    CHECK_OK(kolo_random(&first, 1)); /* so that there is a state to inherit, if there is one */
    SYSTEM(pipe(ends));
    pid_t child = (pid_t)SYSTEM(fork());
    if (child == 0) {
        if (kolo_random(theirs, sizeof theirs) != 0) _exit(1);
        _exit(write(ends[1], theirs, sizeof theirs) == sizeof theirs ? 0 : 1);
    }
    int status;
    CHECK_OK(kolo_random(ours, sizeof ours));
    SYSTEM(waitpid(child, &status, 0));
    CHECK_INT(status, 0);
    CHECK_INT(read(ends[0], theirs, sizeof theirs), sizeof theirs);
    CHECK(memcmp(ours, theirs, sizeof ours) != 0);
    raw_close(&ends[0]);
    raw_close(&ends[1]);
}

/* What holds for every function that hands out a text. */
static void check_text(int (*ask)(char *, size_t, size_t *), const char *expected) {
    char text[PATH_MAX + 2];
    size_t length = strlen(expected), needed = 0;
    CHECK_INT(ask(text, sizeof text, &needed), length);
    CHECK_STRING(text, expected);
    CHECK_INT(needed, length + 1);
    CHECK_INT(ask(text, length + 1, NULL), length);
    needed = 0;
    CHECK_ERROR(ask(NULL, 0, &needed), KOLO_ENOBUFS);
    CHECK_INT(needed, length + 1);
    text[0] = '#';
    needed = 0;
    CHECK_ERROR(ask(text, length, &needed), KOLO_ENOBUFS);
    CHECK_INT(needed, length + 1);
    CHECK_INT(text[0], '#');
    CHECK_ERROR(ask(NULL, 100, &needed), KOLO_EINVAL);
    CHECK_ERROR(ask(NULL, 0, NULL), KOLO_ENOBUFS);
}

TEST_WITHOUT_LOOP(hostname_is_the_systems) {
    char name[256];
    SYSTEM(gethostname(name, sizeof name));
    check_text(kolo_hostname, name);
}

TEST_WITHOUT_LOOP(home_is_that_of_the_environment_or_of_the_user) {
    SYSTEM(setenv("HOME", "/some/where", 1));
    check_text(kolo_home_directory, "/some/where");
    char path[PATH_MAX];
    SYSTEM(unsetenv("HOME"));
    CHECK(kolo_home_directory(path, sizeof path, NULL) > 0);
    CHECK_INT(path[0], '/');
    CHECK(strcmp(path, "/some/where") != 0);
}

TEST_WITHOUT_LOOP(temporary_directory_is_that_of_the_environment_without_a_slash) {
    SYSTEM(setenv("TMPDIR", "/some/where/", 1));
    check_text(kolo_temporary_directory, "/some/where");
    SYSTEM(setenv("TMPDIR", "/", 1));
    check_text(kolo_temporary_directory, "/");
    SYSTEM(unsetenv("TMPDIR"));
    check_text(kolo_temporary_directory, "/tmp");
    CHECK_INT(kolo_temporary_directory(NULL, 0, NULL), KOLO_ENOBUFS);
}

TEST_WITHOUT_LOOP(executable_path_is_this_program) {
    char path[PATH_MAX];
    CHECK(kolo_executable_path(path, sizeof path, NULL) > 0);
    check_text(kolo_executable_path, path);
    SYSTEM(access(path, X_OK));
#ifdef __linux__
    char link[PATH_MAX];
    long length = readlink("/proc/self/exe", link, sizeof link - 1);
    CHECK(length > 0);
    link[length] = '\0';
    CHECK_STRING(path, link);
#endif
}

TEST_WITHOUT_LOOP(uname_is_the_systems) {
    struct utsname theirs;
    kolo_operating_system ours;
    SYSTEM(uname(&theirs));
    memset(&ours, 0xa5, sizeof ours);
    CHECK_OK(kolo_uname(&ours));
    CHECK_STRING(ours.name, theirs.sysname);
    CHECK_STRING(ours.release, theirs.release);
    CHECK_STRING(ours.version, theirs.version);
    CHECK_STRING(ours.machine, theirs.machine);
    CHECK_ERROR(kolo_uname(NULL), KOLO_EINVAL);
}

TEST_WITHOUT_LOOP(uptime_grows) {
    uint64_t first = 0, second = 0;
    CHECK_OK(kolo_uptime(&first));
    CHECK_OK(kolo_uptime(&second));
    CHECK(first > 0 && first <= second);
#ifdef __linux__
    CHECK(second <= (uint64_t)read_clock(CLOCK_BOOTTIME));
#endif
    CHECK_ERROR(kolo_uptime(NULL), KOLO_EINVAL);
}

TEST_WITHOUT_LOOP(load_average_are_three_numbers) {
    double averages[4] = {-1, -1, -1, -1};
    CHECK_OK(kolo_load_average(averages));
    for (int i = 0; i < 3; i++) CHECK(averages[i] >= 0 && averages[i] < 100000);
    CHECK(averages[3] < 0);
    CHECK_ERROR(kolo_load_average(NULL), KOLO_EINVAL);
}

TEST_WITHOUT_LOOP(resident_memory_grows_with_what_is_used) {
#ifdef __linux__
    enum { MORE = 64 << 20 };
    uint64_t before = 0, after = 0, total = 0;
    CHECK_OK(kolo_resident_memory(&before));
    char *memory = malloc(MORE);
    CHECK(memory != NULL);
    memset(memory, 7, MORE);
    CHECK_OK(kolo_resident_memory(&after));
    CHECK_INT(memory[MORE / 2], 7);
    free(memory);
    CHECK_OK(kolo_total_memory(&total));
    CHECK(before > 4096 && after < total);
    CHECK(after > before + MORE / 2); /* some of it may have been swapped out already */
#endif
    CHECK_ERROR(kolo_resident_memory(NULL), KOLO_EINVAL);
}

TEST_WITHOUT_LOOP(memory_of_machine_and_group) {
    uint64_t total = 0, available = 0, limit = 1;
    CHECK_OK(kolo_total_memory(&total));
    CHECK_INT(total, (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE));
    CHECK_OK(kolo_memory_limit(&limit));
    CHECK(limit < total);
#ifdef __linux__
    CHECK_OK(kolo_available_memory(&available));
    CHECK(available <= total);
    if (limit > 0) CHECK(available <= limit);
#endif
    CHECK_ERROR(kolo_total_memory(NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_available_memory(NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_memory_limit(NULL), KOLO_EINVAL);
}

TEST_WITHOUT_LOOP(processors_are_those_that_are_switched_on) {
    CHECK(kolo_available_parallelism() >= 1);
#ifdef __linux__
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    size_t needed = 0;
    CHECK_ERROR(kolo_processors(NULL, 0, &needed), KOLO_ENOBUFS);
    CHECK_INT(needed, online);
    kolo_processor *list = calloc(needed + 1, sizeof *list);
    CHECK(list != NULL);
    CHECK_INT(kolo_processors(list, needed + 1, NULL), online);
    uint64_t together = 0;
    for (size_t i = 0; i < needed; i++) {
        CHECK(memchr(list[i].model, '\0', sizeof list[i].model) != NULL);
        if (i > 0) CHECK(list[i].number > list[i - 1].number);
        together += list[i].user_ns + list[i].system_ns + list[i].idle_ns;
    }
    CHECK(together > 0);
    CHECK_INT(list[needed].idle_ns, 0);
    memset(list, 0, sizeof *list);
    CHECK_ERROR(kolo_processors(list, needed - 1, NULL), KOLO_ENOBUFS);
    CHECK_INT(list[0].idle_ns, 0);
    CHECK_ERROR(kolo_processors(NULL, 9, NULL), KOLO_EINVAL);
    free(list);
#endif
}

static kolo_interface *interfaces(size_t *count) {
    kolo_interface *list = NULL;
    size_t capacity = 0;
    for (;;) {
        int result = kolo_interfaces(list, capacity, count);
        if (result != KOLO_ENOBUFS) {
            CHECK(result >= 0);
            CHECK_INT(result, *count);
            return list;
        }
        CHECK(*count > capacity);
        capacity = *count;
        free(list);
        list = calloc(capacity, sizeof *list);
        CHECK(list != NULL);
    }
}

TEST_WITHOUT_LOOP(interfaces_have_what_the_system_says) {
    size_t count = 0;
    kolo_interface *list = interfaces(&count);
    struct ifaddrs *first, *link;
    SYSTEM(getifaddrs(&first));
    size_t addresses = 0, listed = 0;
    for (link = first; link != NULL; link = link->ifa_next) {
        if (link->ifa_addr == NULL || (link->ifa_addr->sa_family != AF_INET && link->ifa_addr->sa_family != AF_INET6))
            continue;
        size_t length = link->ifa_addr->sa_family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
        kolo_address address;
        CHECK_OK(kolo_address_from_sockaddr(link->ifa_addr, length, &address));
        size_t i;
        for (i = 0; i < count; i++) {
            if (strcmp(list[i].name, link->ifa_name) == 0 && list[i].address.family != KOLO_FAMILY_NONE &&
                kolo_address_equal(&list[i].address, &address) == 1)
                break;
        }
        CHECK(i < count);
        CHECK_INT(list[i].index, if_nametoindex(link->ifa_name));
        CHECK_INT(list[i].netmask.family, list[i].address.family);
        CHECK_INT((list[i].flags & KOLO_INTERFACE_UP) != 0, (link->ifa_flags & IFF_UP) != 0);
        CHECK_INT((list[i].flags & KOLO_INTERFACE_LOOPBACK) != 0, (link->ifa_flags & IFF_LOOPBACK) != 0);
        addresses++;
    }
    freeifaddrs(first);
    for (size_t i = 0; i < count; i++) listed += list[i].address.family != KOLO_FAMILY_NONE;
    CHECK_INT(listed, addresses);
    free(list);
}

TEST_WITHOUT_LOOP(the_loopback_interface_is_there) {
    size_t count = 0;
    kolo_interface *list = interfaces(&count);
    bool found = false;
    for (size_t i = 0; i < count; i++) {
        if (list[i].address.family != KOLO_FAMILY_IPV4 || list[i].address.ip[0] != 127) continue;
        found = true;
        CHECK_INT(list[i].flags & KOLO_INTERFACE_LOOPBACK, KOLO_INTERFACE_LOOPBACK);
        CHECK_INT(list[i].prefix_length, 8);
        CHECK_INT(list[i].netmask.ip[0], 255);
        CHECK_INT(list[i].netmask.ip[1], 0);
        CHECK_INT(list[i].address.port, 0);
    }
    CHECK(found);
    free(list);
}

TEST_WITHOUT_LOOP(interfaces_need_room) {
    size_t count = 0;
    kolo_interface *list = interfaces(&count);
    CHECK(count > 0);
    kolo_interface *less = calloc(count, sizeof *less);
    CHECK(less != NULL);
    CHECK_ERROR(kolo_interfaces(less, count - 1, NULL), KOLO_ENOBUFS);
    CHECK_INT(less[0].name[0], '\0');
    CHECK_ERROR(kolo_interfaces(NULL, 9, NULL), KOLO_EINVAL);
    free(less);
    free(list);
}

TEST_WITHOUT_LOOP(features_are_known_ones) {
    uint32_t all = KOLO_FEATURE_NET | KOLO_FEATURE_LOCAL | KOLO_FEATURE_PROCESS | KOLO_FEATURE_FS | KOLO_FEATURE_DNS |
                   KOLO_FEATURE_WATCH | KOLO_FEATURE_TTY | KOLO_FEATURE_SIM;
    CHECK_INT(kolo_features() & ~all, 0);
    CHECK(kolo_features() & KOLO_FEATURE_NET); /* without it there would be no kolo_tcp_listen in these tests */
}

static void *ask_everything(void *unused) {
    char text[PATH_MAX];
    uint64_t number;
    uint8_t bytes[8];
    (void)unused;
    CHECK(kolo_clock_monotonic() > 0);
    CHECK_OK(kolo_random(bytes, sizeof bytes));
    CHECK(kolo_hostname(text, sizeof text, NULL) > 0);
    CHECK_OK(kolo_total_memory(&number));
    return NULL;
}

TEST_WITHOUT_LOOP(any_thread_may_ask) { on_another_thread(ask_everything, NULL); }
