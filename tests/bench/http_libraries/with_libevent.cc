// with_libevent PORT PACE_US: server-sent events by libevent's evhttp.
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <event2/http.h>
#include <event2/http_struct.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <csignal>
#include <list>

#include "steps.h"

namespace {

struct Stream {
  evhttp_request* request;
  int left;
  bool gone;
};
std::list<Stream> streams;

void OnRequest(evhttp_request* request, void*) {
  evbuffer* const in = evhttp_request_get_input_buffer(request);
  const size_t size = evbuffer_get_length(in);
  const int tokens = MaxTokens(reinterpret_cast<char*>(evbuffer_pullup(in, -1)), size);
  evkeyvalq* const head = evhttp_request_get_output_headers(request);
  evhttp_add_header(head, "Content-Type", "text/event-stream");
  evhttp_add_header(head, "Cache-Control", "no-cache");
  evhttp_connection* const connection = evhttp_request_get_connection(request);
  const int on = 1;
  setsockopt(bufferevent_getfd(evhttp_connection_get_bufferevent(connection)), IPPROTO_TCP,
             TCP_NODELAY, &on, sizeof on);
  evhttp_send_reply_start(request, 200, "OK");
  Stream* const stream = &streams.emplace_back(Stream{request, tokens, false});
  evhttp_connection_set_closecb(
      connection, [](evhttp_connection*, void* s) { static_cast<Stream*>(s)->gone = true; },
      stream);
}

void OnStep(evutil_socket_t, short, void* context) {
  const Engine& engine = *static_cast<Engine*>(context);
  engine.Begin();
  static evbuffer* const text = evbuffer_new();
  streams.remove_if([](Stream& stream) {
    if (stream.gone) return true;
    evbuffer_add_reference(text, kEvent, kEventSize, nullptr, nullptr);
    evhttp_send_reply_chunk(stream.request, text);
    if (--stream.left > 0) return false;
    evhttp_connection_set_closecb(evhttp_request_get_connection(stream.request), nullptr, nullptr);
    evhttp_send_reply_end(stream.request);
    return true;
  });
  engine.End(!streams.empty());
}

}  // namespace

int main(int, char** argv) {
  std::signal(SIGPIPE, SIG_IGN);
  event_base* const loop = event_base_new();
  evhttp* const server = evhttp_new(loop);
  evhttp_set_gencb(server, OnRequest, nullptr);
  if (evhttp_bind_socket(server, "127.0.0.1", static_cast<uint16_t>(std::atoi(argv[1]))) != 0) {
    return 1;
  }
  Engine engine(std::atoi(argv[2]));
  event_add(event_new(loop, engine.fd(), EV_READ | EV_PERSIST, OnStep, &engine), nullptr);
  event_base_dispatch(loop);
}
