// How the server listens: addresses, the sockets behind them, failures of accept(), limits.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "server/net/accept_health.h"
#include "server/net/descriptors.h"
#include "server/net/listen_address.h"
#include "server/net/listener.h"
#include "server/net/listening_sockets.h"
#include "server/net/open_sockets.h"
#include "tests/server/short_folder.h"
#include "tests/server/test_server.h"

namespace packrat {
namespace {

using std::chrono::milliseconds;

// A connected socket; -1: refused. Host "::1" or an IPv4 address.
int Connect(const std::string& host, int port) {
  sockaddr_storage to = {};
  socklen_t size;
  if (host == "::1") {
    auto* in6 = reinterpret_cast<sockaddr_in6*>(&to);
    *in6 = {AF_INET6, htons(port), 0, in6addr_loopback, 0};
    size = sizeof(*in6);
  } else {
    auto* in = reinterpret_cast<sockaddr_in*>(&to);
    in->sin_family = AF_INET;
    in->sin_port = htons(port);
    inet_pton(AF_INET, host.c_str(), &in->sin_addr);
    size = sizeof(*in);
  }
  const int fd = socket(to.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (connect(fd, reinterpret_cast<sockaddr*>(&to), size) == 0) return fd;
  close(fd);
  return -1;
}

bool HasIpv6() {
  const auto sockets = ListeningSockets::Open({"::1", 0, ""});
  return sockets.ok();
}

// True: the other end has closed it.
bool IsClosed(int fd) {
  char byte;
  return recv(fd, &byte, 1, 0) <= 0;
}

TEST(ListenAddress, TheFormsThatThereAre) {
  const struct {
    const char* text;
    const char* host;
    int port;
    const char* path;
  } cases[] = {
      {"127.0.0.1:50051", "127.0.0.1", 50051, ""},
      {"localhost:0", "localhost", 0, ""},
      {"a-b.example:65535", "a-b.example", 65535, ""},
      {":50051", "", 50051, ""},
      {"[::]:80", "::", 80, ""},
      {"[fe80::1%eth0]:80", "fe80::1%eth0", 80, ""},
      {"unix:/run/packrat.sock", "", 0, "/run/packrat.sock"},
      {"unix:///run/packrat.sock", "", 0, "/run/packrat.sock"},
      {"unix:relative.sock", "", 0, "relative.sock"},
  };
  for (const auto& c : cases) {
    const auto address = ParseListenAddress(c.text);
    ASSERT_TRUE(address.ok()) << c.text << ": " << address.status();
    EXPECT_EQ(address->host, c.host) << c.text;
    EXPECT_EQ(address->port, c.port) << c.text;
    EXPECT_EQ(address->path, c.path) << c.text;
  }
}

TEST(ListenAddress, WhatElseIsRefusedWithTheForms) {
  for (const std::string text :
       {"", "localhost", "50051", ":", "localhost:", "localhost:http", "localhost:-1",
        "localhost:65536", "::1:50051", "[::1]", "[::1:50051", "::1]:50051", "[localhost]:1",
        "http://localhost:80", "*:50051", "a b:1", "unix:", "unix://", "unix://host/path"}) {
    const auto status = ParseListenAddress(text).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << text;
    EXPECT_TRUE(absl::StrContains(status.message(), "host:port, [IPv6]:port, :port")) << status;
  }
  const auto too_long = ParseListenAddress("unix:/" + std::string(107, 'x')).status();
  EXPECT_TRUE(absl::StrContains(too_long.message(), "at most 107 bytes")) << too_long;
  EXPECT_TRUE(ParseListenAddress("unix:/" + std::string(106, 'x')).ok());
}

TEST(ListeningSockets, NoHostIsBothFamilies) {
  const auto sockets = ListeningSockets::Open({"", 0, ""});
  ASSERT_TRUE(sockets.ok()) << sockets.status();
  EXPECT_GT(sockets->port(), 0);
  for (const std::string host : {"127.0.0.1", "::1"}) {
    if (host == "::1" && !HasIpv6()) continue;
    const int fd = Connect(host, sockets->port());
    EXPECT_GE(fd, 0) << host;
    close(fd);
  }
}

TEST(ListeningSockets, AnswersAreNotHeldBack) {
  const auto sockets = ListeningSockets::Open({"127.0.0.1", 0, ""});
  ASSERT_TRUE(sockets.ok());
  const int client = Connect("127.0.0.1", sockets->port());
  const int fd = accept(sockets->fds()[0], nullptr, nullptr);
  int no_delay = 0;
  socklen_t size = sizeof(no_delay);
  ASSERT_EQ(getsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &no_delay, &size), 0);
  EXPECT_EQ(no_delay, 1);
  close(fd);
  close(client);
}

TEST(ListeningSockets, ATakenPortIsRefusedAndAFreedOneTaken) {
  int port;
  {
    const auto first = ListeningSockets::Open({"127.0.0.1", 0, ""});
    ASSERT_TRUE(first.ok());
    port = first->port();
    const auto second = ListeningSockets::Open({"127.0.0.1", port, ""});
    EXPECT_TRUE(absl::IsUnavailable(second.status()));
    EXPECT_EQ(second.status().message(), "the address is taken");
    // Of the two families one is taken: half a port is none.
    EXPECT_FALSE(ListeningSockets::Open({"", port, ""}).ok());
  }
  EXPECT_TRUE(ListeningSockets::Open({"127.0.0.1", port, ""}).ok());
}

TEST(ListeningSockets, SayWhatIsWrongWithAHost) {
  const auto status = ListeningSockets::Open({"no-such-host.invalid", 0, ""}).status();
  EXPECT_TRUE(absl::StrContains(status.message(), "no-such-host.invalid")) << status;
  // An address for documentation: no machine has it.
  const auto foreign = ListeningSockets::Open({"192.0.2.1", 0, ""}).status();
  EXPECT_TRUE(absl::IsUnavailable(foreign)) << foreign;
}

TEST(ListeningSockets, UnixSocketsReplaceOnlyWhatIsDead) {
  const std::string path = ShortFolder() + "/s";
  struct stat file;
  {
    const auto first = ListeningSockets::Open({"", 0, path});
    ASSERT_TRUE(first.ok()) << first.status();
    EXPECT_EQ(ListeningSockets::Open({"", 0, path}).status().message(), "the address is taken");
    EXPECT_EQ(stat(path.c_str(), &file), 0);
  }
  EXPECT_NE(stat(path.c_str(), &file), 0);  // Gone with the server.

  // A server that was killed leaves its file.
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, path.size());
  const int dead = socket(AF_UNIX, SOCK_STREAM, 0);
  ASSERT_EQ(bind(dead, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  close(dead);
  EXPECT_TRUE(ListeningSockets::Open({"", 0, path}).ok());

  std::ofstream(path) << "somebody's text";
  const auto status = ListeningSockets::Open({"", 0, path}).status();
  EXPECT_EQ(status.message(), "there is a file of that name");
  EXPECT_EQ(stat(path.c_str(), &file), 0);
  unlink(path.c_str());
}

TEST(AcceptHealth, WaitsLongerEachTimeAndTellsOnceInAWhile) {
  AcceptHealth health{milliseconds(5000)};
  const AcceptHealth::Time start{std::chrono::hours(1)};
  AcceptHealth::Time now = start;
  std::vector<int> waits;
  int told = 0;
  for (int i = 0; i < 12; ++i) {
    const auto answer = health.OnFailure(now);
    waits.push_back(static_cast<int>(answer.wait.count()));
    told += answer.tell;
    now += answer.wait;
  }
  EXPECT_EQ(waits, (std::vector<int>{1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000, 1000}));
  EXPECT_EQ(told, 1);
  EXPECT_EQ(health.failures(), 12);
  EXPECT_FALSE(health.Deaf(start + milliseconds(4999)));
  EXPECT_TRUE(health.Deaf(start + milliseconds(5000)));
  EXPECT_TRUE(health.OnFailure(start + milliseconds(10000)).tell);

  EXPECT_TRUE(health.OnSuccess());
  EXPECT_FALSE(health.failing());
  EXPECT_FALSE(health.Deaf(start + milliseconds(20000)));
  EXPECT_FALSE(health.OnSuccess());
  // The next trouble begins anew, but is not told at once: failures can alternate with successes.
  const auto again = health.OnFailure(start + milliseconds(10001));
  EXPECT_EQ(again.wait, milliseconds(1));
  EXPECT_FALSE(again.tell);
  EXPECT_FALSE(health.OnSuccess());
  EXPECT_EQ(health.failures(), 14);
}

// A listener whose accept() fails with `error` while it is not 0.
class FailingListener {
 public:
  FailingListener() : log_(Logger::Format::kText, [this](const std::string&) { ++lines_; }) {
    Listener::Options options;
    options.flag = "--listen";
    options.address = "127.0.0.1:0";
    options.on_connection = [this](int fd) {
      ++accepted_;
      close(fd);
    };
    options.on_deaf = [this](bool deaf) { deaf_.store(deaf); };
    options.patience = milliseconds(20);
    options.accept = [this](int fd) {
      ++attempts_;
      if (error.load() == 0) return accept4(fd, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
      errno = error.load();
      return -1;
    };
    auto started = Listener::Start(options, &log_);
    EXPECT_TRUE(started.ok()) << started.status();
    listener_ = *std::move(started);
  }

  Listener& listener() { return *listener_; }
  int accepted() const { return accepted_.load(); }
  int attempts() const { return attempts_.load(); }
  int lines() const { return lines_.load(); }
  bool deaf() const { return deaf_.load(); }

  std::atomic<int> error{0};

 private:
  std::atomic<int> accepted_{0}, attempts_{0}, lines_{0};
  std::atomic<bool> deaf_{false};
  Logger log_;
  std::unique_ptr<Listener> listener_;
};

TEST(Listener, NoErrorMakesItDeafForGood) {
  FailingListener port;
  int expected = 0;
  for (const int error : {EMFILE, ENFILE, ENOMEM, ENOBUFS, EPERM, ECONNABORTED, EPROTO, ENETDOWN,
                          EINVAL, EBADF, ENOTSOCK}) {
    SCOPED_TRACE(strerror(error));
    const int64_t before = port.listener().failures();
    port.error.store(error);
    const int client = Connect("127.0.0.1", port.listener().port());
    ASSERT_GE(client, 0);
    ASSERT_TRUE(Eventually([&] { return port.deaf(); }));
    EXPECT_GT(port.listener().failures(), before + 1);
    EXPECT_EQ(port.accepted(), expected);
    port.error.store(0);
    ASSERT_TRUE(Eventually([&] { return port.accepted() == expected + 1; }));
    ASSERT_TRUE(Eventually([&] { return !port.deaf() && !port.listener().deaf(); }));
    ++expected;
    EXPECT_TRUE(IsClosed(client));
    close(client);
  }
  // The first failure, and that it works again: later ones come within ten seconds of it. On a slow
  // machine there may be a pair more.
  EXPECT_GE(port.lines(), 2);
  EXPECT_LT(port.lines(), 20);
}

TEST(Listener, DoesNotSpinWhileItFails) {
  FailingListener port;
  port.error.store(ENOMEM);
  const int client = Connect("127.0.0.1", port.listener().port());
  const int before = port.attempts();
  usleep(300000);
  // 1, 2, 4, ... ms apart: nine in 0.3 s.
  EXPECT_LT(port.attempts() - before, 20);
  close(client);
}

TEST(Listener, WithoutDescriptorsClientsAreTurnedAwayAndLaterServed) {
  Logger log(Logger::Format::kText, [](const std::string&) {});
  std::atomic<int> accepted{0};
  Listener::Options options;
  options.flag = "--listen";
  options.address = "127.0.0.1:0";
  options.on_connection = [&](int fd) {
    ++accepted;
    close(fd);
  };
  auto listener = Listener::Start(options, &log);
  ASSERT_TRUE(listener.ok());
  // The client's own socket comes first, then no descriptor is left.
  const int client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  rlimit limit;
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
  const rlimit none = {static_cast<rlim_t>(client), limit.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
  sockaddr_in to = {};
  to.sin_family = AF_INET;
  to.sin_port = htons((*listener)->port());
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  EXPECT_EQ(connect(client, reinterpret_cast<sockaddr*>(&to), sizeof(to)), 0);
  EXPECT_TRUE(IsClosed(client));
  EXPECT_EQ(accepted.load(), 0);
  EXPECT_GT((*listener)->failures(), 0);
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
  close(client);
  const int second = Connect("127.0.0.1", (*listener)->port());
  EXPECT_TRUE(Eventually([&] { return accepted.load() == 1; }));
  close(second);
}

TEST(Listener, StopsWithoutAConnection) {
  FailingListener port;
  const int number = port.listener().port();
  port.listener().Stop();
  port.listener().Stop();
  EXPECT_EQ(Connect("127.0.0.1", number), -1);
}

TEST(Descriptors, AreShared) {
  const auto many = ShareDescriptors(1 << 20, 0);
  EXPECT_EQ(many->grpc, 4096);
  EXPECT_EQ(many->http, 4096);
  const auto few = ShareDescriptors(1024, 0);
  EXPECT_EQ(few->grpc, 1024 - 128 - 128);
  EXPECT_EQ(few->http, 128);
  EXPECT_EQ(ShareDescriptors(1024, 768)->grpc, 768);
  const auto beyond = ShareDescriptors(1024, 769).status();
  EXPECT_TRUE(absl::IsResourceExhausted(beyond));
  EXPECT_TRUE(absl::StrContains(beyond.message(), "--max_connections is 769")) << beyond;
  EXPECT_TRUE(absl::StrContains(beyond.message(), "room for 768")) << beyond;
  EXPECT_EQ(ShareDescriptors(256, 0)->grpc, 96);
  EXPECT_FALSE(ShareDescriptors(255, 0).ok());
}

TEST(Descriptors, TheSoftLimitIsRaised) {
  rlimit limit;
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
  const rlimit low = {256, limit.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &low), 0);
  const int64_t raised = RaiseDescriptorLimit();
  rlimit now;
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &now), 0);
  EXPECT_EQ(static_cast<int64_t>(now.rlim_cur), raised);
  EXPECT_EQ(now.rlim_cur, std::min<rlim_t>(limit.rlim_max, 1 << 20));
}

TEST(OpenSockets, KnowsTheClosedOnes) {
  OpenSockets open(2);
  const OpenSockets::Time start{std::chrono::hours(1)};
  const auto make = [] { return socket(AF_INET, SOCK_STREAM, 0); };
  const int a = make(), b = make(), c = make();
  EXPECT_TRUE(open.Add(a, start));
  EXPECT_TRUE(open.Add(b, start));
  EXPECT_FALSE(open.Add(c, start));
  EXPECT_EQ(open.Count(), 2);
  close(a);
  // Looking costs: not again so soon.
  EXPECT_FALSE(open.Add(c, start + milliseconds(99)));
  EXPECT_TRUE(open.Add(c, start + milliseconds(100)));
  EXPECT_EQ(open.Count(), 2);
  close(b);
  EXPECT_EQ(open.Count(), 1);
  // The number is used again, by a socket that nobody added.
  const int other = make();
  ASSERT_EQ(dup2(other, c), c);
  EXPECT_EQ(open.Count(), 0);
  close(other);
  close(c);
}

}  // namespace
}  // namespace packrat
