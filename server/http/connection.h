// A socket, plain or over TLS, that is read and written without waiting. Private to server/http.
#ifndef PACKRAT_SERVER_HTTP_CONNECTION_H_
#define PACKRAT_SERVER_HTTP_CONNECTION_H_

#include <openssl/ssl.h>

#include <boost/asio/basic_stream_socket.hpp>
#include <boost/asio/generic/stream_protocol.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ssl/context.hpp>
#include <cstddef>
#include <functional>
#include <memory>

#include "absl/strings/string_view.h"

namespace packrat {

// TCP or a Unix domain socket.
using HttpSocket = boost::asio::basic_stream_socket<boost::asio::generic::stream_protocol,
                                                    boost::asio::io_context::executor_type>;

// All of it is called by the server's thread, which calls all callbacks, none of them in the call
// that is given it. Whoever waits keeps the connection until then.
//
// TLS reads and writes the socket itself: what OpenSSL keeps between them is then a few kilobytes a
// connection, since it gives its buffers back when they are empty (SSL_MODE_RELEASE_BUFFERS).
class HttpConnection {
 public:
  // `tls`: null, it is plain. The socket does not block.
  HttpConnection(HttpSocket socket, std::shared_ptr<boost::asio::ssl::context> tls);
  HttpConnection(const HttpConnection&) = delete;
  HttpConnection& operator=(const HttpConnection&) = delete;

  bool tls() const { return tls_ != nullptr; }
  int fd() { return socket_.native_handle(); }
  bool HasPeerCertificate() const;  // A verified one.

  // False: it is closed, or the other side cannot.
  using Ready = std::function<void(bool ok)>;
  // Of TLS, before all else.
  void Handshake(Ready done);

  enum class News { kBytes, kLater, kEnd, kFailed };
  struct Result {
    News news;
    size_t bytes = 0;           // Of kBytes: at least 1.
    bool wants_output = false;  // Of kLater: TLS waits until it can send.
  };
  Result Read(char* to, size_t size);
  // Of the first that is not empty at least something. After kLater it must be asked for the same.
  Result Write(absl::string_view first, absl::string_view second);
  // Until another try is worth it.
  void AwaitInput(Ready ready);
  void AwaitOutput(Ready ready);

  // Says that nothing more comes.
  void EndOutput();
  // Closes it so that the other side cannot take this for an end, and what the system still has to
  // send is dropped.
  void Cut();
  void Close();

 private:
  struct FreeTls {
    void operator()(SSL* tls) const { SSL_free(tls); }
  };
  Result TlsResult(int result);
  // For input, or output.
  void Await(bool output, Ready ready);

  HttpSocket socket_;
  const std::shared_ptr<boost::asio::ssl::context> context_;
  std::unique_ptr<SSL, FreeTls> tls_;
  bool drained_ = false;             // Nothing has been read that Read() has not given.
  bool input_wants_output_ = false;  // Result's, of the last Read().
};

}  // namespace packrat

#endif  // PACKRAT_SERVER_HTTP_CONNECTION_H_
