// One connection: requests and answers in turn, each within its time. Private to server/http.
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

// The connections that are open, those that have asked for nothing for the longest time first.
// One thread.
using SessionList = std::list<Session*>;

class Session {
 public:
  virtual ~Session() = default;
  // Ends what it waits for; it goes soon after.
  virtual void Close() = 0;
};

// What all sessions share; outlives them.
struct SessionContext {
  HttpServer::Options options;
  Router router;
  SessionList sessions;
  TlsContext tls;
};

// Serves the socket until it ends. The session owns itself.
void StartSession(HttpSocket socket, SessionContext* context);

}  // namespace packrat

#endif  // PACKRAT_SERVER_HTTP_SESSION_H_
