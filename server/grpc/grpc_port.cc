#include "server/grpc/grpc_port.h"

#include <grpcpp/resource_quota.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <climits>
#include <condition_variable>
#include <functional>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "proto/packrat/v1/inference.grpc.pb.h"
#include "runtime/memory_plan.h"
#include "runtime/mutex.h"
#include "runtime/steady_clock.h"
#include "runtime/thread_name.h"
#include "server/grpc/goaway.h"
#include "server/grpc/health_service.h"
#include "server/grpc/reflection_service.h"
#include "server/grpc/tls_credentials.h"
#include "server/net/gentle_close.h"
#include "server/net/listener.h"
#include "server/net/open_sockets.h"

namespace packrat {
namespace {

using std::chrono::steady_clock;

// A connection that has sent no HTTP/2 by then is closed.
constexpr int kHandshakeMs = 20000;
// Clients may ping every ten seconds. The library allows two pings that come early, and after a
// ping that was delayed in the network the next one seems early. So the library is told half.
constexpr int kPingIntervalMs = 5000;
// A client whose machine is gone sends no reset, so we ping after half a minute of silence.
constexpr int kKeepaliveMs = 30000;
constexpr int kKeepaliveTimeoutMs = 10000;
// Time between two lines of the log about connections beyond the limit.
constexpr std::chrono::seconds kTellAgain{10};
// Time between two looks for calls whose message does not come and, while clients are sent away,
// for new connections. Clients may come back at once if their balancer has not noticed yet.
constexpr std::chrono::milliseconds kLookAgain{500};

int Milliseconds(absl::Duration duration) {
  return static_cast<int>(std::min<int64_t>(absl::ToInt64Milliseconds(duration), INT_MAX));
}

void SetLimits(const ServerOptions& options, grpc::ServerBuilder* builder) {
  // The memory of messages and of calls; the memory plan has both. UnreadCalls limits slow messages
  // to half of theirs. If fast messages need more, the library ends calls, no matter which.
  grpc::ResourceQuota memory("packrat");
  memory.Resize(options.message_bytes - HttpBodyBytes(options) + kCallBytes * OpenCalls(options));
  builder->SetResourceQuota(memory);
  builder->SetMaxReceiveMessageSize(options.max_message_bytes);
  // The library would inflate a compressed message before it checks the size.
  for (const auto algorithm : {GRPC_COMPRESS_DEFLATE, GRPC_COMPRESS_GZIP}) {
    builder->SetCompressionAlgorithmSupportStatus(algorithm, false);
  }
  builder->AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, options.max_connection_streams);
  // Windows do not grow for fast clients, so a call sends at most 64 KiB unasked. A message that is
  // being read gets the window that it needs.
  builder->AddChannelArgument(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  builder->AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, kHandshakeMs);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveMs);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveTimeoutMs);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
                              kPingIntervalMs);
  if (options.max_connection_age > absl::ZeroDuration()) {
    builder->AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_MS,
                                Milliseconds(options.max_connection_age));
    builder->AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_GRACE_MS,
                                Milliseconds(options.max_connection_age_grace));
  }
}

}  // namespace

struct GrpcPort::Impl {
  Impl(int max_connections, UnreadCalls* u, Logger* l)
      : unread(u),
        log(l),
        limit(max_connections),
        reflection({v1::Inference::service_full_name(), "grpc.health.v1.Health",
                    "grpc.reflection.v1.ServerReflection"},
                   u),
        health(u),
        open(max_connections) {}

  void OnConnection(int fd);
  void OnDeaf(bool deaf);
  void EndConnections(absl::Duration grace);
  void KeepHouse();
  void UpdateHealth() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);

  UnreadCalls* const unread;
  Logger* const log;
  const int limit;
  ReflectionService reflection;
  HealthService health;
  OpenSockets open;
  std::atomic<int64_t> refused{0};
  steady_clock::time_point last_told;  // The listener's thread.
  bool ever_told = false;              // Same.
  Mutex mutex;
  bool ready ABSL_GUARDED_BY(mutex) = false;
  bool deaf ABSL_GUARDED_BY(mutex) = false;
  std::unique_ptr<grpc::experimental::ExternalConnectionAcceptor> acceptor;
  std::unique_ptr<grpc::Server> server;
  // Ends before the server, since it calls the server's acceptor.
  std::unique_ptr<Listener> listener;
  int port = 0;
  bool dismiss ABSL_GUARDED_BY(mutex) = false;
  bool stop ABSL_GUARDED_BY(mutex) = false;
  std::condition_variable changed;  // One of the two has changed.
  std::thread house;
};

void GrpcPort::Impl::OnConnection(int fd) {
  const auto now = steady_clock::now();
  if (open.Add(fd, now)) {
    CloseGently(fd);
    grpc::experimental::ExternalConnectionAcceptor::NewConnectionParameters connection;
    connection.listener_fd = -1;
    connection.fd = fd;
    acceptor->HandleNewConnection(&connection);
    return;
  }
  close(fd);
  const int64_t count = ++refused;
  if (ever_told && now - last_told < kTellAgain) return;
  ever_told = true;
  last_told = now;
  log->Error("connection refused: as many as --max_connections are open",
             {{"limit", limit}, {"refused", count}});
}

void GrpcPort::Impl::OnDeaf(bool is_deaf) {
  MutexLock lock(&mutex);
  deaf = is_deaf;
  UpdateHealth();
}

void GrpcPort::Impl::UpdateHealth() {
  health.Set(v1::Inference::service_full_name(), ready && !deaf);
}

// While it shuts down, the library answers new calls with CANCELLED, which clients do not retry. So
// the connections end before that. First, what was written reaches the clients. Then nothing more
// is read, and the library sees the end of its inputs and closes the connections. A client that
// calls meanwhile finds its connection closed, which is UNAVAILABLE. Each of the two steps has
// `grace`.
void GrpcPort::Impl::EndConnections(absl::Duration grace) {
  const auto wait_while = [grace](const std::function<bool()>& condition) {
    const absl::Time until = SteadyNow() + grace;
    while (condition() && SteadyNow() < until) absl::SleepFor(absl::Milliseconds(5));
  };
  wait_while([this] { return open.AnyUnsent(); });
  wait_while([this] {
    open.EndReading();
    return open.Count() > 0;
  });
}

void GrpcPort::Impl::KeepHouse() {
  SetThreadName("packrat-grpc");
  for (;;) {
    bool send_away;
    {
      MutexLock lock(&mutex);
      const auto until = steady_clock::now() + kLookAgain;
      const bool before = dismiss;
      while (!stop && dismiss == before && steady_clock::now() < until) {
        lock.WaitUntil(&changed, until);
      }
      if (stop) return;
      send_away = dismiss;
    }
    unread->Sweep(steady_clock::now());
    if (send_away) SendGoaways(server.get());
  }
}

absl::StatusOr<std::unique_ptr<GrpcPort>> GrpcPort::Start(const ServerOptions& options,
                                                          int max_connections, TlsStore* tls,
                                                          grpc::Service* service,
                                                          UnreadCalls* unread, Logger* log) {
  auto impl = std::make_unique<Impl>(max_connections, unread, log);
  grpc::ServerBuilder builder;
  SetLimits(options, &builder);
  builder.RegisterService(service);
  builder.RegisterService(&impl->health);
  if (options.reflection) {
    builder.RegisterService(&impl->reflection);
    builder.RegisterService(impl->reflection.predecessor());
  }
  // We do not use the library's listener: in 1.51 it silently stops listening for good after the
  // first accept() that fails.
  impl->acceptor = builder.experimental().AddExternalConnectionAcceptor(
      grpc::ServerBuilder::experimental_type::ExternalConnectionType::FROM_FD,
      tls == nullptr ? grpc::InsecureServerCredentials() : TlsCredentials(tls));
  impl->server = builder.BuildAndStart();
  if (impl->server == nullptr) return absl::InternalError("gRPC does not start");
  auto port = std::unique_ptr<GrpcPort>(new GrpcPort(std::move(impl)));
  port->SetAlive(true);
  port->SetReady(false);

  Impl* const i = port->impl_.get();
  Listener::Options listen;
  listen.flag = "--listen";
  listen.address = options.listen;
  listen.on_connection = [i](int fd) { i->OnConnection(fd); };
  listen.on_deaf = [i](bool deaf) { i->OnDeaf(deaf); };
  auto listener = Listener::Start(std::move(listen), log);
  if (!listener.ok()) return listener.status();
  i->house = std::thread([i] { i->KeepHouse(); });
  i->listener = *std::move(listener);
  i->port = i->listener->port();
  return port;
}

GrpcPort::GrpcPort(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

GrpcPort::~GrpcPort() { Shutdown(absl::ZeroDuration()); }

void GrpcPort::SetAlive(bool alive) { impl_->health.Set("", alive); }

void GrpcPort::SetReady(bool ready) {
  MutexLock lock(&impl_->mutex);
  impl_->ready = ready;
  impl_->UpdateHealth();
}

void GrpcPort::Dismiss() {
  MutexLock lock(&impl_->mutex);
  impl_->dismiss = true;
  impl_->changed.notify_all();
}

void GrpcPort::Shutdown(absl::Duration grace) {
  {
    MutexLock lock(&impl_->mutex);
    impl_->stop = true;
    impl_->changed.notify_all();
  }
  if (impl_->house.joinable()) impl_->house.join();
  if (impl_->listener != nullptr) impl_->listener->Stop();
  impl_->EndConnections(grace);
  impl_->server->Shutdown(absl::ToChronoTime(absl::Now() + grace));
  impl_->server->Wait();
  WaitForGentleCloses(absl::ToChronoMilliseconds(grace));
}

int GrpcPort::port() const { return impl_->port; }

bool GrpcPort::deaf() const {
  MutexLock lock(&impl_->mutex);
  return impl_->deaf;
}

int GrpcPort::open_connections() const { return impl_->open.Count(); }

int64_t GrpcPort::refused_connections() const { return impl_->refused.load(); }

int64_t GrpcPort::accept_failures() const { return impl_->listener->failures(); }

}  // namespace packrat
