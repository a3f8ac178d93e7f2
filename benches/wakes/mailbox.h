/* What a program on a library without `post` writes for itself: a bounded queue under a mutex. The poster wakes the
 * loop when the queue was empty; the loop takes the whole queue at once and runs it outside the mutex. */
#ifndef BENCH_MAILBOX_H
#define BENCH_MAILBOX_H

#include "message.h"

#include <pthread.h>

enum { MAILBOX_CAPACITY = 65536 }; /* as kolo's default */

struct mailbox {
  pthread_mutex_t mutex;
  struct message **waiting, **running;
  size_t count;
};

static inline void mailbox_open(struct mailbox *box) {
  if (pthread_mutex_init(&box->mutex, NULL) != 0) die("no mutex");
  box->waiting = checked_alloc(MAILBOX_CAPACITY, sizeof *box->waiting);
  box->running = checked_alloc(MAILBOX_CAPACITY, sizeof *box->running);
  box->count = 0;
}

static inline void mailbox_close(struct mailbox *box) {
  pthread_mutex_destroy(&box->mutex);
  free(box->waiting);
  free(box->running);
}

/* False: full. *first: the queue was empty, wake the loop. */
static inline bool mailbox_put(struct mailbox *box, struct message *message, bool *first) {
  pthread_mutex_lock(&box->mutex);
  bool fits = box->count < MAILBOX_CAPACITY;
  *first = fits && box->count == 0;
  if (fits) box->waiting[box->count++] = message;
  pthread_mutex_unlock(&box->mutex);
  return fits;
}

/* Runs all that waits; false when there was nothing. */
static inline bool mailbox_run(struct mailbox *box) {
  pthread_mutex_lock(&box->mutex);
  size_t count = box->count;
  struct message **batch = box->waiting;
  box->waiting = box->running;
  box->running = batch;
  box->count = 0;
  pthread_mutex_unlock(&box->mutex);
  for (size_t i = 0; i < count; i++) batch[i]->run(batch[i]);
  return count > 0;
}

#endif
