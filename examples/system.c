/* system.c: what kolo tells of the machine, without a loop.
 *
 * Build:  cc system.c $(pkg-config --cflags --libs kolo) -o system
 * Try:    ./system
 *
 * These functions may be called from any thread. What a system cannot tell is KOLO_ENOTSUP. Texts go into the caller's
 * memory. */
#include <kolo.h>

#include <stdint.h>
#include <stdio.h>

static void show(const char *what, int result, uint64_t value, const char *unit)
{
    if (result < 0) printf("%s: %s\n", what, kolo_strerror(result));
    else printf("%s: %llu%s\n", what, (unsigned long long)value, unit);
}

int main(void)
{
    char name[256];
    unsigned char random[8];
    uint64_t value = 0;
    int result;

    printf("kolo %s\n", kolo_version_string());
    result = kolo_hostname(name, sizeof name, NULL);
    printf("host: %s\n", result < 0 ? kolo_strerror(result) : name);
    show("threads at once", 0, kolo_available_parallelism(), "");
    result = kolo_uptime(&value);
    show("up for", result, value / UINT64_C(1000000000), " s");
    result = kolo_resident_memory(&value);
    show("memory of this process", result, value / 1024, " KiB");
    result = kolo_total_memory(&value);
    show("memory of the machine", result, value / 1024, " KiB");
    result = kolo_random(random, sizeof random);
    if (result < 0) {
        fprintf(stderr, "system: random bytes: %s\n", kolo_strerror(result));
        return 1;
    }
    printf("random:");
    for (size_t i = 0; i < sizeof random; i++) printf(" %02x", (unsigned)random[i]);
    printf("\n");
    return 0;
}
