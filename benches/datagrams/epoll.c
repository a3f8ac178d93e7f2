/* Datagrams on plain epoll: batches both ways (recvmmsg, sendmmsg), no library. */
#include "datagrams.h"

#include <fcntl.h>
#include <sys/epoll.h>

enum { BATCH = 64 };

static struct mmsghdr messages[BATCH];
static struct iovec pieces[BATCH];
static struct sockaddr_in addresses[BATCH];
static uint8_t bytes[BATCH][2048];
static int udp;
static enum role role;

static void send_batch(int count) {
  for (int sent = 0; sent < count;) {
    int now = sendmmsg(udp, messages + sent, (unsigned)(count - sent), 0);
    if (now < 0 && (errno == EAGAIN || errno == EINTR)) continue; /* on the loopback it never lasts */
    sent += check_errno(now, "sendmmsg");
  }
}

static void receive_all(void) {
  for (;;) {
    for (int i = 0; i < BATCH; i++) {
      pieces[i] = (struct iovec){bytes[i], sizeof bytes[i]};
      messages[i].msg_hdr = (struct msghdr){
          .msg_name = &addresses[i], .msg_namelen = sizeof addresses[i], .msg_iov = &pieces[i], .msg_iovlen = 1};
    }
    int count = recvmmsg(udp, messages, BATCH, 0, NULL);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && errno == EAGAIN) return;
    check_errno(count, "recvmmsg");
    for (int i = 0; i < count; i++) {
      pieces[i].iov_len = messages[i].msg_len;
      if (role == ROLE_SINK) datagram_count(bytes[i], messages[i].msg_len);
    }
    if (role == ROLE_ECHO) send_batch(count);
    if (count < BATCH) return;
  }
}

static void flood_burst(void) {
  for (int i = 0; i < BURST; i++) {
    flood_next(bytes[i]);
    pieces[i] = (struct iovec){bytes[i], datagram_bytes};
    messages[i].msg_hdr = (struct msghdr){.msg_iov = &pieces[i], .msg_iovlen = 1};
  }
  send_batch(BURST);
}

int main(int argc, char **argv) {
  uint16_t port;
  role = parse_role(argc, argv, &port);
  udp = check_errno(socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), "socket");
  struct sockaddr_in address = loopback(0), peer = loopback(port);
  check_errno(bind(udp, (struct sockaddr *)&address, sizeof address), "bind");
  if (role == ROLE_FLOOD) check_errno(connect(udp, (struct sockaddr *)&peer, sizeof peer), "connect");
  int poller = check_errno(epoll_create1(EPOLL_CLOEXEC), "epoll_create1");
  struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.fd = udp};
  check_errno(epoll_ctl(poller, EPOLL_CTL_ADD, udp, &event), "epoll_ctl");
  event = (struct epoll_event){.events = EPOLLIN, .data.fd = STDIN_FILENO};
  check_errno(epoll_ctl(poller, EPOLL_CTL_ADD, STDIN_FILENO, &event), "epoll_ctl");
  announce_listener(udp);

  for (bool flooding = false;;) {
    struct epoll_event events[8];
    int count = epoll_wait(poller, events, 8, flooding ? 0 : -1);
    if (count < 0 && errno == EINTR) continue;
    check_errno(count, "epoll_wait");
    for (int i = 0; i < count; i++) {
      char line[64];
      if (events[i].data.fd == udp) {
        if (role != ROLE_FLOOD) receive_all();
        continue;
      }
      enum control said = read_control(line, sizeof line);
      if (said == CONTROL_END) return 0;
      if (said == CONTROL_LINE && role == ROLE_SINK) sink_report();
      if (said == CONTROL_LINE && role == ROLE_FLOOD) {
        flood_start(line);
        flooding = true;
      }
    }
    if (flooding) {
      flooding = flood_goes_on();
      if (flooding) flood_burst();
    }
  }
}
