#include "server/net/listener.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/net/listen_address.h"

namespace packrat {
namespace {

// Connections taken from one socket before the other sockets, and Stop(), get their turn.
constexpr int kBurst = 64;

int OpenSpare() { return open("/dev/null", O_RDONLY | O_CLOEXEC); }

}  // namespace

absl::StatusOr<std::unique_ptr<Listener>> Listener::Start(Options options, Logger* log) {
  const std::string where = absl::StrCat(options.flag, ": ");
  auto address = ParseListenAddress(options.address);
  if (!address.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(where, address.status().message()));
  }
  auto sockets = ListeningSockets::Open(*address);
  if (!sockets.ok()) {
    return absl::UnavailableError(absl::StrCat(where, "cannot listen at ", options.address, ": ",
                                               sockets.status().message()));
  }
  const int wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (wake < 0) {
    return absl::UnavailableError(absl::StrCat(where, "no eventfd: ", std::strerror(errno)));
  }
  if (options.accept == nullptr) {
    options.accept = [](int fd) {
      return accept4(fd, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
    };
  }
  return std::unique_ptr<Listener>(
      new Listener(std::move(options), log, *std::move(sockets), wake));
}

Listener::Listener(Options options, Logger* log, ListeningSockets sockets, int wake)
    : options_(std::move(options)),
      log_(log),
      sockets_(std::move(sockets)),
      port_(sockets_.port()),
      wake_(wake),
      spare_(OpenSpare()),
      health_(options_.patience),
      thread_([this] { Loop(); }) {}

Listener::~Listener() {
  Stop();
  close(wake_);
  if (spare_ >= 0) close(spare_);
}

void Listener::Stop() {
  if (!thread_.joinable()) return;
  eventfd_write(wake_, 1);
  thread_.join();
  sockets_.Close();
}

void Listener::Loop() {
  for (;;) {
    // While it fails, only the time decides when to try again. The queue may be empty, or may be
    // the cause.
    const bool stop =
        health_.failing() ? Wait(static_cast<int>(pause_.count()), false) : Wait(-1, true);
    if (stop) return;
    if (spare_ < 0) spare_ = OpenSpare();
    bool good = true;
    for (const int fd : sockets_.fds()) good = AcceptWaiting(fd) && good;
    if (good && health_.OnSuccess()) {
      log_->Info("connections are accepted again", {{"flag", options_.flag}});
    }
    UpdateDeaf();
  }
}

bool Listener::Wait(int milliseconds, bool for_connections) {
  std::vector<pollfd> polled = {{wake_, POLLIN, 0}};
  if (for_connections) {
    for (const int fd : sockets_.fds()) polled.push_back({fd, POLLIN, 0});
  }
  poll(polled.data(), polled.size(), milliseconds);
  return (polled[0].revents & POLLIN) != 0;
}

bool Listener::AcceptWaiting(int fd) {
  for (int i = 0; i < kBurst; ++i) {
    const int connection = options_.accept(fd);
    if (connection >= 0) {
      options_.on_connection(connection);
    } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
      return true;
    } else if (errno != EINTR) {
      OnFailure(fd, errno);
      return false;
    }
  }
  return true;
}

// Some failures concern one connection (ECONNABORTED, EPERM by a firewall), others the process
// (EMFILE) or the machine (ENFILE, ENOMEM). All are handled in the same way.
void Listener::OnFailure(int fd, int error) {
  const AcceptHealth::Answer answer = health_.OnFailure(std::chrono::steady_clock::now());
  failures_.store(health_.failures());
  pause_ = answer.wait;
  if (answer.tell) {
    log_->Error("cannot accept connections", {{"flag", options_.flag},
                                              {"error", std::strerror(error)},
                                              {"failures", health_.failures()}});
  }
  if (error == EMFILE || error == ENFILE) DropOne(fd);
}

// A client that is refused can ask another replica; one that waits cannot.
void Listener::DropOne(int fd) {
  if (spare_ < 0) return;
  close(spare_);
  const int connection = options_.accept(fd);
  if (connection >= 0) close(connection);
  spare_ = OpenSpare();
}

void Listener::UpdateDeaf() {
  const bool deaf = health_.Deaf(std::chrono::steady_clock::now());
  if (deaf == deaf_.load()) return;
  deaf_.store(deaf);
  options_.on_deaf(deaf);
}

}  // namespace packrat
