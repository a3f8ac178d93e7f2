/* The load: a client that keeps its connections, sends what it is told to, and compares every byte that comes back.
 *
 *   load PORT echo CONNECTIONS SIZE DEPTH   DEPTH messages of SIZE bytes are on their way on each connection:
 *                                           1 is ping-pong, more is streaming
 *   load PORT pipeline CONNECTIONS SIZE DEPTH   DEPTH messages of SIZE bytes in one write; the next ones once all are back
 *   load PORT churn CONNECTIONS SIZE        so many at a time: connect, one echo of SIZE bytes, half-close, close
 *   load PORT check [SIZE]                  is this an echo server at all: back-pressure, half-close, resets, odd sizes;
 *                                           with SIZE, of a server that echoes SIZE bytes at a time
 *
 * After "ready", all but check take commands on stdin, each answered by "done MESSAGES WALL_NS" once every echo is
 * in (so nothing is on its way when the driver reads the server's processor time):
 *
 *   slice MS      go on for so long
 *   each COUNT    COUNT messages on each connection (echo alone)
 *
 * When stdin ends, all connections are half-closed, and each must end without a further byte. A wrong byte, a
 * connection lost, or half a minute without progress ends the program with exit status 1.
 *
 * What is sent is a pattern whose period is a prime, begun at another place by each connection: a byte lost,
 * doubled or misdirected shifts all that follows. */
#include "common.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <sys/epoll.h>

enum {
  PATTERN_PERIOD = 65521,
  CHUNK_BYTES = 64 * 1024,
  EVENTS_PER_WAIT = 1024,
  PATIENCE_MS = 30 * 1000,
  CONNECTS_PER_ACCEPT_CHECK = 128, /* well below the listeners' backlog */
  SOURCE_ADDRESSES = 32,           /* each closed connection keeps its port for a minute (TIME_WAIT) */
};

struct connection {
  int fd;
  bool watches_output, half_closed;
  uint32_t phase;
  uint64_t sent, received, goal; /* bytes of this connection's stream; goal: how far to send for now */
};

static int poller;
static uint16_t port;
static struct connection *connections;
static size_t connection_count;
static size_t message_bytes, depth;
static size_t unit_bytes = 1; /* what the server echoes at once at the least */
static uint8_t pattern[PATTERN_PERIOD + CHUNK_BYTES];
static uint8_t received_bytes[CHUNK_BYTES];
static struct epoll_event events[EVENTS_PER_WAIT];

static const uint8_t *expected(const struct connection *connection, uint64_t offset) {
  return pattern + (connection->phase + offset) % PATTERN_PERIOD;
}

static void fill_pattern(void) {
  uint64_t state = 0x9E3779B97F4A7C15u;
  for (size_t i = 0; i < PATTERN_PERIOD; i++) pattern[i] = (uint8_t)(random_next(&state) >> 56);
  for (size_t i = 0; i < CHUNK_BYTES; i++) pattern[PATTERN_PERIOD + i] = pattern[i];
}

static void watch(int operation, struct connection *connection) {
  struct epoll_event event = {.events = connection->watches_output ? EPOLLIN | EPOLLOUT : EPOLLIN, .data.ptr = connection};
  check_errno(epoll_ctl(poller, operation, connection->fd, &event), "epoll_ctl");
}

/* A blocking connect: on loopback it does not wait while the backlog has room. */
static void open_connection(struct connection *connection, uint32_t source, int receive_buffer) {
  int fd = check_errno(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket");
  int on = 1;
  check_errno(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on), "TCP_NODELAY");
  if (receive_buffer > 0)
    check_errno(setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof receive_buffer), "SO_RCVBUF");
  if (source > 0) {
    struct sockaddr_in local = loopback(0);
    local.sin_addr.s_addr = htonl(INADDR_LOOPBACK + source);
    check_errno(setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on), "IP_BIND_ADDRESS_NO_PORT");
    check_errno(bind(fd, (struct sockaddr *)&local, sizeof local), "bind");
  }
  struct sockaddr_in address = loopback(port);
  check_errno(connect(fd, (struct sockaddr *)&address, sizeof address), "connect");
  check_errno(fcntl(fd, F_SETFL, O_NONBLOCK), "O_NONBLOCK");
  static uint32_t opened;
  *connection = (struct connection){.fd = fd, .phase = (opened++ * 7919) % PATTERN_PERIOD};
  watch(EPOLL_CTL_ADD, connection);
}

static void watch_output(struct connection *connection, bool on) {
  if (connection->watches_output == on) return;
  connection->watches_output = on;
  watch(EPOLL_CTL_MOD, connection);
}

/* Sends up to the goal, or until the kernel takes no more. */
static void send_to_goal(struct connection *connection) {
  while (connection->sent < connection->goal) {
    uint64_t left = connection->goal - connection->sent;
    size_t length = left < CHUNK_BYTES ? (size_t)left : CHUNK_BYTES;
    ssize_t sent = send_some(connection->fd, expected(connection, connection->sent), length);
    if (sent < 0) die("connection lost while sending: %s", strerror(errno));
    connection->sent += (uint64_t)sent;
    if ((size_t)sent < length) {
      watch_output(connection, true);
      return;
    }
  }
  watch_output(connection, false);
}

/* Reads once and compares. False at the end of the stream. */
static bool receive(struct connection *connection) {
  ssize_t count = recv(connection->fd, received_bytes, sizeof received_bytes, 0);
  if (count < 0 && (errno == EAGAIN || errno == EINTR)) return true;
  check_errno((int)count, "connection lost while receiving");
  if (count == 0) return false;
  if (connection->received + (uint64_t)count > connection->sent)
    die("%zd bytes came, %llu were asked for", count, (unsigned long long)(connection->sent - connection->received));
  if (memcmp(received_bytes, expected(connection, connection->received), (size_t)count) != 0)
    die("wrong bytes in the echo, after %llu right ones", (unsigned long long)connection->received);
  connection->received += (uint64_t)count;
  return true;
}

static void receive_more(struct connection *connection) {
  if (!receive(connection)) die("the server closed a connection that owes %llu bytes",
                                (unsigned long long)(connection->sent - connection->received));
}

/* Waits for events; running into the time limit is an error, with what is missing as the message. */
static int wait_events(void) {
  for (;;) {
    int count = epoll_wait(poller, events, EVENTS_PER_WAIT, PATIENCE_MS);
    if (count > 0) return count;
    if (count < 0 && errno == EINTR) continue;
    check_errno(count, "epoll_wait");
    uint64_t missing = 0;
    for (size_t i = 0; i < connection_count; i++) missing += connections[i].goal - connections[i].received;
    die("no progress for %d s; %llu bytes are missing", PATIENCE_MS / 1000, (unsigned long long)missing);
  }
}

/* Until each connection has received up to its goal. A positive deadline moves the goals on until it has passed. */
static void exchange(uint64_t deadline_ns) {
  bool moves_on = deadline_ns > 0;
  size_t busy = 0;
  for (size_t i = 0; i < connection_count; i++) {
    struct connection *connection = &connections[i];
    if (moves_on) connection->goal += depth * message_bytes;
    if (connection->received < connection->goal) busy++;
    send_to_goal(connection);
  }
  while (busy > 0) {
    int count = wait_events();
    if (moves_on && wall_ns() >= deadline_ns) moves_on = false;
    for (int i = 0; i < count; i++) {
      struct connection *connection = events[i].data.ptr;
      bool was_busy = connection->received < connection->goal;
      if (events[i].events & ~(uint32_t)EPOLLOUT) receive_more(connection);
      while (moves_on && connection->goal - connection->received <= (depth - 1) * message_bytes)
        connection->goal += message_bytes;
      if (connection->sent < connection->goal) send_to_goal(connection);
      if (was_busy && connection->received == connection->goal) busy--;
    }
  }
}

static void end_streams(void) {
  size_t open = connection_count;
  for (size_t i = 0; i < connection_count; i++) check_errno(shutdown(connections[i].fd, SHUT_WR), "shutdown");
  while (open > 0) {
    int count = wait_events();
    for (int i = 0; i < count; i++) {
      struct connection *connection = events[i].data.ptr;
      if (receive(connection)) continue;
      if (connection->received < connection->goal) receive_more(connection);
      close(connection->fd);
      open--;
    }
  }
}

/* Now and then one echo on the newest connection: then the server has accepted it and all before it. */
static void open_connections(size_t count, int receive_buffer) {
  connections = checked_alloc(count, sizeof *connections);
  for (connection_count = 0; connection_count < count;) {
    struct connection *connection = &connections[connection_count++];
    open_connection(connection, 0, receive_buffer);
    if (connection_count % CONNECTS_PER_ACCEPT_CHECK != 0 && connection_count != count) continue;
    connection->goal += unit_bytes;
    exchange(0);
  }
}

static void close_all(void) {
  end_streams();
  free(connections);
  connection_count = 0;
}

static uint64_t total_received(void) {
  uint64_t total = 0;
  for (size_t i = 0; i < connection_count; i++) total += connections[i].received;
  return total;
}

/* ---- churn ---- */

static void churn_open(struct connection *connection) {
  static uint32_t opened;
  open_connection(connection, opened++ % SOURCE_ADDRESSES, 0);
  connection->goal = message_bytes;
  send_to_goal(connection);
}

/* False once the connection has gone its whole way. */
static bool churn_step(struct connection *connection, uint32_t ready) {
  if (ready & EPOLLOUT) send_to_goal(connection);
  if (!(ready & ~(uint32_t)EPOLLOUT)) return true;
  if (!receive(connection)) {
    if (connection->received < message_bytes) receive_more(connection);
    close(connection->fd);
    return false;
  }
  if (connection->received == message_bytes && !connection->half_closed) {
    connection->half_closed = true;
    check_errno(shutdown(connection->fd, SHUT_WR), "shutdown");
  }
  return true;
}

static uint64_t churn(uint64_t deadline_ns) {
  uint64_t served = 0;
  size_t open = connection_count;
  for (size_t i = 0; i < connection_count; i++) churn_open(&connections[i]);
  while (open > 0) {
    int count = wait_events();
    bool goes_on = wall_ns() < deadline_ns;
    for (int i = 0; i < count; i++) {
      struct connection *connection = events[i].data.ptr;
      if (churn_step(connection, events[i].events)) continue;
      served++;
      if (goes_on) churn_open(connection);
      else open--;
    }
  }
  return served;
}

/* ---- check ---- */

/* Sends without reading: a server that holds back must stop taking, however much is offered. Then reads it all,
 * the stream's half-close being sent long before its last byte is back. */
static void check_back_pressure(void) {
  enum { OFFERED_BYTES = 32 * 1024 * 1024, SMALL_BUFFER = 16 * 1024, QUIET_MS = 200 };
  /* A small buffer that fills with small packets has TCP crawl, by its timers: not for servers that send such. */
  open_connections(2, unit_bytes == 1 ? SMALL_BUFFER : 0);
  for (size_t i = 0; i < connection_count; i++) connections[i].goal += OFFERED_BYTES;
  for (size_t i = 0; i < connection_count; i++) {
    struct epoll_event only_output = {.events = EPOLLOUT, .data.ptr = &connections[i]};
    check_errno(epoll_ctl(poller, EPOLL_CTL_MOD, connections[i].fd, &only_output), "epoll_ctl");
    connections[i].watches_output = true;
  }
  for (;;) {
    int count = epoll_wait(poller, events, EVENTS_PER_WAIT, QUIET_MS);
    if (count == 0) break;
    for (int i = 0; i < count; i++) {
      struct connection *connection = events[i].data.ptr;
      send_to_goal(connection);
      if (connection->sent == connection->goal) die("the server takes without end while nobody reads its echoes");
    }
  }
  for (size_t i = 0; i < connection_count; i++) watch(EPOLL_CTL_MOD, &connections[i]);
  size_t sending = connection_count;
  while (sending > 0) {
    int count = wait_events();
    for (int i = 0; i < count; i++) {
      struct connection *connection = events[i].data.ptr;
      if (events[i].events & ~(uint32_t)EPOLLOUT) receive_more(connection);
      if (connection->sent == connection->goal) continue;
      send_to_goal(connection);
      if (connection->sent == connection->goal) sending--;
    }
  }
  close_all();
}

static void check_resets(void) {
  enum { RESETS = 64 };
  for (int i = 0; i < RESETS; i++) {
    struct connection connection;
    open_connection(&connection, 0, 0);
    connection.goal = (uint64_t)i * CHUNK_BYTES / 8;
    while (connection.sent < connection.goal && !connection.watches_output) send_to_goal(&connection);
    struct linger at_once = {.l_onoff = 1, .l_linger = 0};
    check_errno(setsockopt(connection.fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once), "SO_LINGER");
    close(connection.fd);
  }
}

static void check_odd_sizes(void) {
  enum { ROUNDS = 200, ROUNDS_OF_UNITS = 40, LONGEST = 70000 };
  uint64_t state = 42;
  open_connections(8, 0);
  for (int round = 0; round < (unit_bytes == 1 ? ROUNDS : ROUNDS_OF_UNITS); round++) {
    for (size_t i = 0; i < connection_count; i++) connections[i].goal += (1 + random_next(&state) % (LONGEST / unit_bytes)) * unit_bytes;
    exchange(0);
  }
  close_all();
}

/* ---- */

static size_t positive(const char *text, const char *what) {
  char *end;
  long long value = strtoll(text, &end, 10);
  if (*text == 0 || *end != 0 || value <= 0) die("%s: not a positive number: %s", what, text);
  return (size_t)value;
}

static void say(const char *line) {
  puts(line);
  fflush(stdout);
}

static void obey_commands(bool churning, size_t counted_bytes) {
  char line[128];
  say("ready");
  while (fgets(line, sizeof line, stdin) != NULL) {
    unsigned long long number;
    uint64_t start = wall_ns(), before = total_received(), messages;
    if (sscanf(line, "slice %llu", &number) == 1) {
      uint64_t deadline = start + number * 1000000;
      if (churning) {
        messages = churn(deadline);
      } else {
        exchange(deadline);
        messages = (total_received() - before) / counted_bytes;
      }
    } else if (!churning && sscanf(line, "each %llu", &number) == 1) {
      for (messages = 0; messages < number * connection_count; messages += connection_count) {
        for (size_t i = 0; i < connection_count; i++) connections[i].goal += message_bytes;
        exchange(0);
      }
    } else {
      die("what is: %s", line);
    }
    printf("done %llu %llu\n", (unsigned long long)messages, (unsigned long long)(wall_ns() - start));
    fflush(stdout);
  }
}

int main(int argc, char **argv) {
  bool checking = (argc == 3 || argc == 4) && strcmp(argv[2], "check") == 0;
  bool churning = argc == 5 && strcmp(argv[2], "churn") == 0;
  bool echoing = argc == 6 && strcmp(argv[2], "echo") == 0;
  bool pipelining = argc == 6 && strcmp(argv[2], "pipeline") == 0;
  if (!checking && !churning && !echoing && !pipelining) die("usage: see the first lines of load.c");
  port = (uint16_t)positive(argv[1], "port");
  poller = check_errno(epoll_create1(EPOLL_CLOEXEC), "epoll_create1");
  fill_pattern();
  if (checking) {
    if (argc == 4) unit_bytes = positive(argv[3], "size");
    check_back_pressure();
    check_resets();
    check_odd_sizes();
    say("ok");
    return 0;
  }
  size_t size = message_bytes = positive(argv[4], "size");
  if (churning) {
    if (size > CHUNK_BYTES) die("churn: at most %d bytes", CHUNK_BYTES);
    connection_count = positive(argv[3], "connections");
    connections = checked_alloc(connection_count, sizeof *connections);
  } else {
    depth = positive(argv[5], "depth");
    if (pipelining) { /* all that is written at once is one message, until it is counted */
      unit_bytes = size;
      message_bytes = size * depth;
      depth = 1;
    }
    open_connections(positive(argv[3], "connections"), 0);
  }
  obey_commands(churning, size);
  if (!churning) close_all();
  return 0;
}
