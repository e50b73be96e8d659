#include "server/http/http_server.h"

#include <sys/socket.h>
#include <unistd.h>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/post.hpp>

#include <thread>
#include <utility>

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

}  // namespace

struct HttpServer::Impl {
  Impl(const Options& options, std::vector<HttpRoute> routes)
      : context{options, Router(std::move(routes)), {}, TlsContext(options.tls)} {}

  ~Impl() {
    if (listener != nullptr) listener->Stop();
    io.stop();
    if (thread.joinable()) thread.join();
  }

  // Called by the listener's thread.
  void Take(int fd) {
    HttpSocket socket(io.get_executor());
    boost::system::error_code error;
    socket.socket().assign(asio::generic::stream_protocol(FamilyOf(fd), 0), fd, error);
    if (error) {
      close(fd);
      return;
    }
    asio::post(io, [this, socket = std::move(socket)]() mutable {
      while (static_cast<int>(context.sessions.size()) >= context.options.max_connections) {
        context.sessions.front()->Close();
      }
      StartSession(std::move(socket), &context);
    });
  }

  SessionContext context;
  // Destroyed before the context, together with the sessions that still wait for something.
  asio::io_context io{1};
  asio::executor_work_guard<asio::io_context::executor_type> work = asio::make_work_guard(io);
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
  impl->thread = std::thread([io = &impl->io] { io->run(); });
  return std::unique_ptr<HttpServer>(new HttpServer(std::move(impl)));
}

HttpServer::HttpServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

HttpServer::~HttpServer() = default;

int HttpServer::port() const { return impl_->listener->port(); }

int64_t HttpServer::accept_failures() const { return impl_->listener->failures(); }

}  // namespace packrat
