/* Echo on libevent's bufferevents: what came in is moved, not copied, to the output; reading pauses while the
 * output stands above the high mark. */
#include "../common.h"

#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <event2/listener.h>

static bool with_timeouts;

static void on_readable(struct bufferevent *stream, void *user);
static void on_event(struct bufferevent *stream, short what, void *user);

static void on_drained(struct bufferevent *stream, void *user) {
  (void)user;
  bufferevent_setcb(stream, on_readable, NULL, on_event, NULL);
  bufferevent_setwatermark(stream, EV_WRITE, 0, 0);
  if (bufferevent_enable(stream, EV_READ) < 0) die("bufferevent_enable failed");
}

static void on_readable(struct bufferevent *stream, void *user) {
  (void)user;
  struct evbuffer *output = bufferevent_get_output(stream);
  if (evbuffer_add_buffer(output, bufferevent_get_input(stream)) < 0) die("evbuffer_add_buffer failed");
  if (evbuffer_get_length(output) < HELD_BYTES_HIGH) return;
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
  if (with_timeouts) {
    struct timeval limit = {.tv_sec = IDLE_TIMEOUT_S};
    bufferevent_set_timeouts(stream, &limit, &limit);
  }
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
  with_timeouts = parse_server_flags(argc, argv);
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
