#include "server/http/http_server.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>
#include <boost/asio/executor_work_guard.hpp>

#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runtime/thread_name.h"
#include "server/http/session.h"
#include "server/net/listener.h"

namespace packrat {
namespace {

namespace asio = boost::asio;

int FamilyOf(int fd) {
  int family = AF_INET;
  socklen_t size = sizeof(family);
  getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &size);
  return family;
}

// What is not of TCP fails on other sockets, and nothing needs it there.
void Tune(int fd) {
  const auto set = [fd](int level, int option, int value) {
    setsockopt(fd, level, option, &value, sizeof(value));
  };
  set(IPPROTO_TCP, TCP_NODELAY, 1);  // A token does not wait for the next.
  // So little that was not sent yet waits in the system for a client that reads slowly: whoever
  // makes the answer notices it soon.
  set(IPPROTO_TCP, TCP_NOTSENT_LOWAT, 32 << 10);
  // A client whose machine is gone sends no reset. As gRPC's: half a minute of silence, and ten
  // seconds for an answer.
  set(SOL_SOCKET, SO_KEEPALIVE, 1);
  set(IPPROTO_TCP, TCP_KEEPIDLE, 30);
  set(IPPROTO_TCP, TCP_KEEPINTVL, 5);
  set(IPPROTO_TCP, TCP_KEEPCNT, 2);
  set(IPPROTO_TCP, TCP_USER_TIMEOUT, 40000);
}

}  // namespace

HttpAnswer PlainRefusal(int status, const std::string& message) {
  HttpAnswer answer;
  answer.status = status;
  answer.body = absl::StrCat(message, "\n");
  if (status == 503) answer.headers = {{"Retry-After", "1"}};
  return answer;
}

std::function<void(HttpRequest, std::shared_ptr<HttpReply>)> AtOnce(
    std::function<HttpAnswer(const HttpRequest&)> answer) {
  return [answer = std::move(answer)](const HttpRequest& request,
                                      const std::shared_ptr<HttpReply>& reply) {
    reply->Send(answer(request));
  };
}

struct HttpServer::Impl {
  Impl(const Options& options, std::vector<HttpRoute> routes)
      : context(options, std::move(routes)), work(asio::make_work_guard(context.loop->io())) {}

  // The thread ends when no session waits for anything, which is soon after they are closed.
  ~Impl() {
    if (listener != nullptr) listener->Stop();
    context.loop->Post([this] {
      while (!context.all.empty()) context.all.front()->Close();
    });
    context.loop->Stop();
    work.reset();
    if (thread.joinable()) thread.join();
  }

  // Called by the listener's thread.
  void Take(int fd) {
    Tune(fd);
    HttpSocket socket(context.loop->io().get_executor());
    boost::system::error_code error;
    socket.assign(asio::generic::stream_protocol(FamilyOf(fd), 0), fd, error);
    if (error) {
      close(fd);
      return;
    }
    context.loop->Post([this, socket = std::move(socket)]() mutable { Add(std::move(socket)); });
  }

  // Without room the new one goes, and its client sees a closed connection.
  void Add(HttpSocket socket) {
    while (context.open.load() >= context.options.max_connections) {
      SessionList& closable = context.waiting.empty() ? context.uploading : context.waiting;
      if (closable.empty()) {
        ++context.refused;
        return;
      }
      closable.front()->Close();
    }
    ++context.taken;
    StartSession(std::move(socket), &context);
  }

  SessionContext context;
  asio::executor_work_guard<asio::io_context::executor_type> work;
  std::unique_ptr<Listener> listener;
  std::thread thread;
};

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Start(const Options& options,
                                                              std::vector<HttpRoute> routes,
                                                              Logger* log) {
  auto impl = std::make_unique<Impl>(options, std::move(routes));
  Listener::Options listen;
  listen.flag = "--http_listen";
  listen.address = impl->context.options.address;
  listen.on_connection = [i = impl.get()](int fd) { i->Take(fd); };
  auto listener = Listener::Start(std::move(listen), log);
  if (!listener.ok()) return listener.status();
  impl->listener = *std::move(listener);
  impl->thread = std::thread([io = &impl->context.loop->io()] {
    SetThreadName("packrat-http");
    io->run();
  });
  return std::unique_ptr<HttpServer>(new HttpServer(std::move(impl)));
}

HttpServer::HttpServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

HttpServer::~HttpServer() = default;

void HttpServer::Dismiss() { impl_->context.dismiss.store(true); }

int HttpServer::port() const { return impl_->listener->port(); }

int64_t HttpServer::accept_failures() const { return impl_->listener->failures(); }

int HttpServer::open_connections() const { return impl_->context.open.load(); }

int64_t HttpServer::taken_connections() const { return impl_->context.taken.load(); }

int64_t HttpServer::refused_connections() const { return impl_->context.refused.load(); }

int64_t HttpServer::body_bytes() const { return impl_->context.bodies->used.load(); }

}  // namespace packrat
