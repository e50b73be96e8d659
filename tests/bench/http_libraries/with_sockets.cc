// with_sockets PORT PACE_US: the floor: a request is one read, and an event one write that fits.
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <csignal>
#include <list>
#include <string>

#include "steps.h"

namespace {

struct Stream {
  int fd;
  int left;
};

void Send(int fd, const std::string& text) {
  if (send(fd, text.data(), text.size(), 0) != static_cast<ssize_t>(text.size())) std::abort();
}

}  // namespace

int main(int, char** argv) {
  std::signal(SIGPIPE, SIG_IGN);
  const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const int on = 1;
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  sockaddr_in at = {};
  at.sin_family = AF_INET;
  at.sin_port = htons(static_cast<uint16_t>(std::atoi(argv[1])));
  at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (bind(listener, reinterpret_cast<sockaddr*>(&at), sizeof at) != 0 ||
      listen(listener, 4096) != 0) {
    return 1;
  }
  Engine engine(std::atoi(argv[2]));
  const int poll = epoll_create1(EPOLL_CLOEXEC);
  const auto watch = [&](int fd) {
    epoll_event event = {};
    event.events = EPOLLIN;
    event.data.fd = fd;
    epoll_ctl(poll, EPOLL_CTL_ADD, fd, &event);
  };
  watch(listener);
  watch(engine.fd());
  const std::string head =
      "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n"
      "Transfer-Encoding: chunked\r\n\r\n";
  char size[16];
  snprintf(size, sizeof size, "%zx\r\n", kEventSize);
  const std::string chunk = std::string(size) + kEvent + "\r\n";
  std::list<Stream> streams;
  epoll_event ready[256];
  for (;;) {
    const int n = epoll_wait(poll, ready, 256, -1);
    for (int i = 0; i < n; ++i) {
      const int fd = ready[i].data.fd;
      if (fd == listener) {
        const int accepted = accept4(fd, nullptr, nullptr, SOCK_CLOEXEC);
        setsockopt(accepted, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        watch(accepted);
      } else if (fd == engine.fd()) {
        engine.Begin();
        streams.remove_if([&](Stream& stream) {
          const bool last = --stream.left == 0;
          Send(stream.fd, last ? chunk + "0\r\n\r\n" : chunk);
          return last;
        });
        engine.End(!streams.empty());
      } else {
        char request[4096];
        const ssize_t read = recv(fd, request, sizeof request, 0);
        if (read <= 0) {
          close(fd);
        } else {
          Send(fd, head);
          streams.push_back({fd, MaxTokens(request, read)});
        }
      }
    }
  }
}
