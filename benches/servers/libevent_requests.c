/* Requests on libevent's bufferevents: bufferevent_write for each answer. They leave together, in the loop's next turn. */
#include "requests.h"

#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <event2/listener.h>

static void on_readable(struct bufferevent *stream, void *user);
static void on_event(struct bufferevent *stream, short what, void *user);
static void on_finished_readable(struct bufferevent *stream, void *user);

static void on_drained(struct bufferevent *stream, void *user) {
  (void)user;
  bufferevent_setcb(stream, on_readable, NULL, on_event, NULL);
  bufferevent_setwatermark(stream, EV_WRITE, 0, 0);
  if (bufferevent_enable(stream, EV_READ) < 0) die("bufferevent_enable failed");
  on_readable(stream, NULL); /* for what came in one read too many */
}

static void end_side(struct bufferevent *stream, void *user) {
  (void)user;
  bufferevent_setcb(stream, on_finished_readable, NULL, on_event, NULL);
  shutdown(bufferevent_getfd(stream), SHUT_WR);
}

static void on_finished_readable(struct bufferevent *stream, void *user) {
  (void)user;
  struct evbuffer *input = bufferevent_get_input(stream);
  evbuffer_drain(input, evbuffer_get_length(input));
}

/* The last answer was written: our side ends when it has left. */
static void finish(struct bufferevent *stream) {
  on_finished_readable(stream, NULL);
  bufferevent_setwatermark(stream, EV_WRITE, 0, 0);
  bufferevent_setcb(stream, on_finished_readable, end_side, on_event, NULL);
}

/* The input buffer keeps the beginning of a request by itself. */
static void on_readable(struct bufferevent *stream, void *user) {
  (void)user;
  struct evbuffer *input = bufferevent_get_input(stream);
  size_t length = evbuffer_get_length(input), taken = 0;
  const uint8_t *bytes = evbuffer_pullup(input, -1);
  struct request request;
  enum verdict verdict = REQUEST_INCOMPLETE;
  while (taken < length && (verdict = next_request(bytes + taken, length - taken, &request)) != REQUEST_INCOMPLETE) {
    if (bufferevent_write(stream, request.answer, request.answer_length) < 0) die("bufferevent_write failed");
    if (verdict == REQUEST_LAST) {
      finish(stream);
      return;
    }
    taken += request.length;
  }
  evbuffer_drain(input, taken);
  if (evbuffer_get_length(bufferevent_get_output(stream)) < HELD_BYTES_HIGH) return;
  bufferevent_disable(stream, EV_READ);
  bufferevent_setwatermark(stream, EV_WRITE, HELD_BYTES_LOW, 0);
  bufferevent_setcb(stream, on_readable, on_drained, on_event, NULL);
}

static void on_last_drained(struct bufferevent *stream, void *user) {
  (void)user;
  bufferevent_free(stream);
}

static void on_event(struct bufferevent *stream, short what, void *user) {
  (void)user;
  bool owes_bytes = evbuffer_get_length(bufferevent_get_output(stream)) > 0;
  if ((what & BEV_EVENT_EOF) && owes_bytes) {
    bufferevent_disable(stream, EV_READ);
    bufferevent_setwatermark(stream, EV_WRITE, 0, 0);
    bufferevent_setcb(stream, NULL, on_last_drained, on_event, NULL);
  } else {
    bufferevent_free(stream);
  }
}

static void on_accept(struct evconnlistener *listener, evutil_socket_t fd, struct sockaddr *peer, int length, void *user) {
  (void)peer, (void)length, (void)user;
  struct bufferevent *stream = bufferevent_socket_new(evconnlistener_get_base(listener), fd, BEV_OPT_CLOSE_ON_FREE);
  if (stream == NULL) die("bufferevent_socket_new failed");
  bufferevent_setcb(stream, on_readable, NULL, on_event, NULL);
  if (bufferevent_enable(stream, EV_READ | EV_WRITE) < 0) die("bufferevent_enable failed");
}

static void on_accept_error(struct evconnlistener *listener, void *user) {
  (void)listener, (void)user;
  die("accept: %s", strerror(errno));
}

static void on_stdin(evutil_socket_t fd, short what, void *user) {
  (void)fd, (void)what;
  if (stdin_ended()) event_base_loopbreak(user);
}

int main(int argc, char **argv) {
  parse_request_flags(argc, argv, false);
  struct event_base *base = event_base_new();
  if (base == NULL) die("event_base_new failed");
  int descriptor = listen_on_free_port();
  struct evconnlistener *listener =
      evconnlistener_new(base, on_accept, NULL, LEV_OPT_CLOSE_ON_FREE, 0 /* listening already */, descriptor);
  struct event *control = event_new(base, STDIN_FILENO, EV_READ | EV_PERSIST, on_stdin, base);
  if (listener == NULL || control == NULL || event_add(control, NULL) < 0) die("could not watch the listener or stdin");
  evconnlistener_set_error_cb(listener, on_accept_error);
  announce_listener(descriptor);
  if (event_base_dispatch(base) < 0) die("event_base_dispatch failed");
  event_free(control);
  evconnlistener_free(listener);
  event_base_free(base);
  return 0;
}
