// One connection: requests and answers in turn, each with a time limit. Private to server/http.
#ifndef PACKRAT_SERVER_HTTP_SESSION_H_
#define PACKRAT_SERVER_HTTP_SESSION_H_

#include <boost/asio/generic/stream_protocol.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/beast/core/basic_stream.hpp>
#include <list>

#include "server/http/http_server.h"
#include "server/http/router.h"
#include "server/http/tls_context.h"

namespace packrat {

// TCP or a Unix domain socket.
using HttpSocket = boost::beast::basic_stream<boost::asio::generic::stream_protocol,
                                              boost::asio::io_context::executor_type>;

class Session;

// The open connections. First are those that have sent no request for the longest time. For one
// thread.
using SessionList = std::list<Session*>;

class Session {
 public:
  virtual ~Session() = default;
  // Ends its waiting; it ends itself soon after.
  virtual void Close() = 0;
};

// Shared by all sessions; it outlives them.
struct SessionContext {
  HttpServer::Options options;
  Router router;
  SessionList sessions;
  TlsContext tls;
};

// Serves the socket until its end. The session owns itself.
void StartSession(HttpSocket socket, SessionContext* context);

}  // namespace packrat

#endif  // PACKRAT_SERVER_HTTP_SESSION_H_
