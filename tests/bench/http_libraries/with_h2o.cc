// with_h2o PORT PACE_US: server-sent events by libh2o with its own loop.
#include <h2o.h>
#include <h2o/http1.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <csignal>
#include <list>

#include "steps.h"

namespace {

h2o_globalconf_t config;
h2o_context_t context;
h2o_accept_ctx_t accepting;

struct Stream {
  h2o_generator_t generator;  // First, so that its address is the stream's.
  h2o_req_t* request;
  int left;
  int waiting;  // Events for which the way was not free.
  bool sending;
};
std::list<Stream*> streams;

void Send(Stream* stream) {
  static h2o_iovec_t events[64];
  const int count = std::min(stream->waiting, 64);
  for (int i = 0; i < count; ++i) events[i] = {const_cast<char*>(kEvent), kEventSize};
  stream->waiting -= count;
  stream->sending = true;
  const bool last = stream->left == 0 && stream->waiting == 0;
  h2o_send(stream->request, events, count,
           last ? H2O_SEND_STATE_FINAL : H2O_SEND_STATE_IN_PROGRESS);
}

void Proceed(h2o_generator_t* generator, h2o_req_t*) {
  auto* const stream = reinterpret_cast<Stream*>(generator);
  stream->sending = false;
  if (stream->waiting > 0) Send(stream);
}

void Stop(h2o_generator_t* generator, h2o_req_t*) {
  streams.remove(reinterpret_cast<Stream*>(generator));
}

int OnRequest(h2o_handler_t*, h2o_req_t* request) {
  auto* const stream =
      static_cast<Stream*>(h2o_mem_alloc_shared(&request->pool, sizeof(Stream), nullptr));
  *stream = {
      {Proceed, Stop}, request, MaxTokens(request->entity.base, request->entity.len), 0, false};
  request->res.status = 200;
  request->res.reason = "OK";
  h2o_add_header(&request->pool, &request->res.headers, H2O_TOKEN_CONTENT_TYPE, nullptr,
                 H2O_STRLIT("text/event-stream"));
  h2o_add_header(&request->pool, &request->res.headers, H2O_TOKEN_CACHE_CONTROL, nullptr,
                 H2O_STRLIT("no-cache"));
  h2o_start_response(request, &stream->generator);
  streams.push_back(stream);
  return 0;
}

void OnStep(h2o_socket_t* socket, const char*) {
  const Engine& engine = *static_cast<Engine*>(socket->data);
  // Of a descriptor that is only watched, the loop reads nothing.
  engine.Begin();
  streams.remove_if([](Stream* stream) {
    --stream->left;
    ++stream->waiting;
    const bool over = stream->left == 0;
    if (!stream->sending) Send(stream);
    return over;
  });
  engine.End(!streams.empty());
}

void OnConnection(h2o_socket_t* listener, const char* error) {
  if (error != nullptr) return;
  h2o_socket_t* const socket = h2o_evloop_socket_accept(listener);
  if (socket == nullptr) return;
  const int on = 1;
  setsockopt(h2o_socket_get_fd(socket), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  h2o_accept(&accepting, socket);
}

}  // namespace

int main(int, char** argv) {
  std::signal(SIGPIPE, SIG_IGN);
  const int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
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
  h2o_config_init(&config);
  h2o_hostconf_t* const host =
      h2o_config_register_host(&config, h2o_iovec_init(H2O_STRLIT("default")), 65535);
  h2o_pathconf_t* const path = h2o_config_register_path(host, "/", 0);
  h2o_create_handler(path, sizeof(h2o_handler_t))->on_req = OnRequest;
  h2o_loop_t* const loop = h2o_evloop_create();
  h2o_context_init(&context, loop, &config);
  accepting.ctx = &context;
  accepting.hosts = config.hosts;
  h2o_socket_read_start(h2o_evloop_socket_create(loop, listener, H2O_SOCKET_FLAG_DONT_READ),
                        OnConnection);
  Engine engine(std::atoi(argv[2]));
  h2o_socket_t* const steps =
      h2o_evloop_socket_create(loop, engine.fd(), H2O_SOCKET_FLAG_DONT_READ);
  steps->data = &engine;
  h2o_socket_read_start(steps, OnStep);
  while (h2o_evloop_run(loop, INT32_MAX) == 0) {
  }
}
