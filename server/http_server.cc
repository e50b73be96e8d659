#include "server/http_server.h"

#include <httplib.h>

#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/net/listen_address.h"

namespace packrat {

struct HttpServer::Impl {
  Handlers handlers;
  httplib::Server server;
  int port = 0;
  std::thread thread;

  void Route() {
    server.Get("/metrics", [this](const httplib::Request&, httplib::Response& response) {
      response.set_content(handlers.metrics(), "text/plain; version=0.0.4; charset=utf-8");
    });
    server.Get("/healthz", [](const httplib::Request&, httplib::Response& response) {
      response.set_content("ok\n", "text/plain");
    });
    server.Get("/readyz", [this](const httplib::Request&, httplib::Response& response) {
      const std::string why = handlers.not_ready();
      response.status = why.empty() ? 200 : 503;
      response.set_content(why.empty() ? "ready\n" : why + "\n", "text/plain");
    });
    server.Get("/version", [this](const httplib::Request&, httplib::Response& response) {
      response.set_content(handlers.version() + "\n", "application/json");
    });
  }
};

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Start(const std::string& address,
                                                              Handlers handlers) {
  auto impl = std::make_unique<Impl>();
  impl->handlers = std::move(handlers);
  // A connection that is open holds one of these. Scrapers and probes are few, but must get through
  // beside clients that connect and say nothing.
  impl->server.new_task_queue = [] { return new httplib::ThreadPool(16); };
  impl->server.set_keep_alive_timeout(2);
  impl->server.set_read_timeout(2);
  impl->server.set_write_timeout(5);
  impl->server.set_payload_max_length(1024);
  // The library's default lets a second process share the port and take half of the requests.
  impl->server.set_socket_options([](socket_t socket) {
    const int yes = 1;
    setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
  });
  impl->Route();
  const auto parsed = ParseListenAddress(address);
  if (!parsed.ok()) return parsed.status();
  const std::string host = parsed->host.empty() ? "::" : parsed->host;
  impl->port = parsed->port;
  if (impl->port == 0) {
    impl->port = impl->server.bind_to_any_port(host);
  } else if (!impl->server.bind_to_port(host, impl->port)) {
    impl->port = -1;
  }
  if (impl->port < 0) {
    return absl::UnavailableError(
        absl::StrCat("--http_listen: cannot listen at ", address, "; is the port taken?"));
  }
  impl->thread = std::thread([server = &impl->server] { server->listen_after_bind(); });
  // stop() has no effect before the loop runs.
  while (!impl->server.is_running()) std::this_thread::yield();
  return std::unique_ptr<HttpServer>(new HttpServer(std::move(impl)));
}

HttpServer::HttpServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

HttpServer::~HttpServer() {
  impl_->server.stop();
  impl_->thread.join();
}

int HttpServer::port() const { return impl_->port; }

}  // namespace packrat
