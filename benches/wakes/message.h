/* A piece of work for another thread's loop. */
#ifndef BENCH_MESSAGE_H
#define BENCH_MESSAGE_H

#include "../common.h"

struct message {
  void (*run)(struct message *);
  uint64_t number;
};

#endif
