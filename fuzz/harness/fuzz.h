/* What the fuzz targets share. Each target is one function, which takes any bytes and ends the process where a promise is
 * broken. */
#ifndef KOLO_FUZZ_H
#define KOLO_FUZZ_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Ends the process, so that the fuzzer keeps the input. */
#define REQUIRE(condition)                                                                                             \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);                                    \
            abort();                                                                                                   \
        }                                                                                                              \
    } while (0)

void fuzz_address(const uint8_t *data, size_t length);
void fuzz_http_request(const uint8_t *data, size_t length);
void fuzz_calls(const uint8_t *data, size_t length);
/* How many calls of kolo's functions fuzz_calls has made since the process began. */
unsigned long long fuzz_calls_made(void);

#endif
