#include "server/http/session.h"

#include <openssl/ssl.h>

#include <boost/asio/ssl/stream.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http.hpp>
#include <boost/beast/ssl/ssl_stream.hpp>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>

namespace packrat {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
using Error = beast::error_code;

// Bytes that a refused request may still send before its connection is closed.
constexpr std::chrono::seconds kLinger{1};
constexpr size_t kReadBytes = 4096;

// The status for a request that could not be read; 0: the client has gone.
int StatusOf(const Error& error) {
  if (error == http::error::header_limit || error == http::error::buffer_overflow) return 431;
  if (error == http::error::body_limit) return 413;
  if (error == http::error::end_of_stream || error == http::error::partial_message) return 0;
  // All other errors of the parser mean a malformed request.
  const Error sample = http::error::bad_method;
  return error.category() == sample.category() ? 400 : 0;
}

using TlsStream = beast::ssl_stream<HttpSocket>;

// `Stream`: HttpSocket or TlsStream.
template <typename Stream>
class SessionOf final : public Session, public std::enable_shared_from_this<SessionOf<Stream>> {
 public:
  static constexpr bool kTls = std::is_same_v<Stream, TlsStream>;

  // `tls`: the context of the stream.
  SessionOf(Stream stream, std::shared_ptr<asio::ssl::context> tls, SessionContext* context)
      : tls_(std::move(tls)),
        stream_(std::move(stream)),
        context_(*context),
        buffer_(context->options.max_header_bytes + context->options.max_body_bytes + kReadBytes),
        place_(context_.sessions.insert(context_.sessions.end(), this)) {}
  ~SessionOf() override {
    if (listed_) context_.sessions.erase(place_);
  }

  void Start() {
    if constexpr (kTls) {
      socket().expires_after(context_.options.request);
      stream_.async_handshake(asio::ssl::stream_base::server,
                              [self = this->shared_from_this()](const Error& error) {
                                if (!error) self->AwaitRequest();
                              });
    } else {
      AwaitRequest();
    }
  }

  void Close() override {
    if (listed_) context_.sessions.erase(place_);
    listed_ = false;
    socket().close();
  }

 private:
  HttpSocket& socket() { return beast::get_lowest_layer(stream_); }

  // Also true if the server asks for no certificate.
  bool Trusted() {
    if constexpr (kTls) {
      if (!context_.tls.asks_clients()) return true;
      X509* const shown = SSL_get_peer_certificate(stream_.native_handle());  // Verified.
      X509_free(shown);
      return shown != nullptr;
    } else {
      return true;
    }
  }

  void AwaitRequest() {
    // The next request may have come with the last one.
    if (buffer_.size() > 0) return ReadRequest();
    socket().expires_after(context_.options.idle);
    stream_.async_read_some(buffer_.prepare(kReadBytes),
                            [self = this->shared_from_this()](const Error& error, size_t bytes) {
                              if (error) return;
                              self->buffer_.commit(bytes);
                              self->ReadRequest();
                            });
  }

  void ReadRequest() {
    parser_.emplace();
    parser_->header_limit(context_.options.max_header_bytes);
    parser_->body_limit(context_.options.max_body_bytes);
    // The limit is for the whole request; bytes that trickle in do not extend it.
    socket().expires_after(context_.options.request);
    http::async_read(
        stream_, buffer_, *parser_,
        [self = this->shared_from_this()](const Error& error, size_t) { self->OnRequest(error); });
  }

  void OnRequest(const Error& error) {
    if (error) {
      const int status = StatusOf(error);
      if (status == 0) return;
      RoutedAnswer refusal;
      refusal.answer.status = status;
      refusal.answer.body = error.message() + "\n";
      return Write(std::move(refusal), /*head=*/false, /*keep_alive=*/false, /*version=*/11);
    }
    // A connection with a request is the last to be closed.
    if (listed_) context_.sessions.splice(context_.sessions.end(), context_.sessions, place_);
    const auto& request = parser_->get();
    Write(
        context_.router.Answer(std::string(request.method_string()), std::string(request.target()),
                               std::string(request[http::field::authorization]), Trusted()),
        request.method() == http::verb::head, request.keep_alive(), request.version());
  }

  void Write(RoutedAnswer routed, bool head, bool keep_alive, unsigned version) {
    response_.emplace(static_cast<http::status>(routed.answer.status), version);
    response_->set(http::field::content_type, routed.answer.content_type);
    if (!routed.allow.empty()) response_->set(http::field::allow, routed.allow);
    if (!routed.answer.authenticate.empty()) {
      response_->set(http::field::www_authenticate, routed.answer.authenticate);
    }
    response_->body() = std::move(routed.answer.body);
    response_->content_length(response_->body().size());
    response_->keep_alive(keep_alive);
    serializer_.emplace(*response_);
    socket().expires_after(context_.options.answer);
    const auto done = [self = this->shared_from_this()](const Error& error, size_t) {
      self->OnWritten(error);
    };
    if (head) {
      http::async_write_header(stream_, *serializer_, done);
    } else {
      http::async_write(stream_, *serializer_, done);
    }
  }

  void OnWritten(const Error& error) {
    if (error) return;
    if (response_->keep_alive()) return AwaitRequest();
    socket().expires_after(kLinger);
    if constexpr (kTls) {
      stream_.async_shutdown([self = this->shared_from_this()](const Error&) {});
    } else {
      // If a socket is closed with unread bytes, the client may lose the answer.
      Error ignored;
      socket().socket().shutdown(HttpSocket::socket_type::shutdown_send, ignored);
      Discard();
    }
  }

  void Discard() {
    buffer_.clear();
    stream_.async_read_some(buffer_.prepare(kReadBytes),
                            [self = this->shared_from_this()](const Error& error, size_t) {
                              if (!error) self->Discard();
                            });
  }

  const std::shared_ptr<asio::ssl::context> tls_;
  Stream stream_;
  SessionContext& context_;
  beast::flat_buffer buffer_;
  SessionList::iterator place_;
  bool listed_ = true;
  std::optional<http::request_parser<http::string_body>> parser_;
  std::optional<http::response<http::string_body>> response_;
  std::optional<http::response_serializer<http::string_body>> serializer_;
};

}  // namespace

void StartSession(HttpSocket socket, SessionContext* context) {
  if (!context->tls.on()) {
    std::make_shared<SessionOf<HttpSocket>>(std::move(socket), nullptr, context)->Start();
    return;
  }
  const auto tls = context->tls.Get();
  std::make_shared<SessionOf<TlsStream>>(TlsStream(std::move(socket), *tls), tls, context)->Start();
}

}  // namespace packrat
