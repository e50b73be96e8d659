#include "server/http/connection.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <boost/asio/post.hpp>
#include <cerrno>
#include <climits>
#include <utility>

namespace packrat {
namespace {

using Error = boost::system::error_code;

// OpenSSL's own would end the process with SIGPIPE when the other side has gone.
int SendOfBio(BIO* bio, const char* bytes, int size) {
  int fd = -1;
  BIO_get_fd(bio, &fd);
  const auto sent = static_cast<int>(send(fd, bytes, size, MSG_NOSIGNAL));
  BIO_clear_retry_flags(bio);
  if (sent < 0 && BIO_sock_should_retry(sent) != 0) BIO_set_retry_write(bio);
  return sent;
}

const BIO_METHOD* SocketMethod() {
  static const BIO_METHOD* const kMethod = [] {
    const BIO_METHOD* const base = BIO_s_socket();
    BIO_METHOD* const method = BIO_meth_new(
        BIO_get_new_index() | BIO_TYPE_SOURCE_SINK | BIO_TYPE_DESCRIPTOR, "packrat socket");
    BIO_meth_set_read(method, BIO_meth_get_read(base));
    BIO_meth_set_write(method, &SendOfBio);
    BIO_meth_set_ctrl(method, BIO_meth_get_ctrl(base));
    BIO_meth_set_create(method, BIO_meth_get_create(base));
    BIO_meth_set_destroy(method, BIO_meth_get_destroy(base));
    return method;
  }();
  return kMethod;
}

int SizeForTls(size_t size) { return static_cast<int>(std::min<size_t>(size, INT_MAX)); }

HttpConnection::Result ResultOf(ssize_t result) {
  if (result > 0) return {HttpConnection::News::kBytes, static_cast<size_t>(result)};
  if (result == 0) return {HttpConnection::News::kEnd};
  const bool again = errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR;
  return {again ? HttpConnection::News::kLater : HttpConnection::News::kFailed};
}

}  // namespace

HttpConnection::HttpConnection(HttpSocket socket, std::shared_ptr<boost::asio::ssl::context> tls)
    : socket_(std::move(socket)), context_(std::move(tls)) {
  if (context_ == nullptr) return;
  tls_.reset(SSL_new(context_->native_handle()));
  BIO* const bio = BIO_new(SocketMethod());
  BIO_set_fd(bio, fd(), BIO_NOCLOSE);
  SSL_set_bio(tls_.get(), bio, bio);
}

bool HttpConnection::HasPeerCertificate() const {
  X509* const shown = SSL_get_peer_certificate(tls_.get());
  X509_free(shown);
  return shown != nullptr;
}

void HttpConnection::Handshake(Ready done) {
  ERR_clear_error();
  const Result result = TlsResult(SSL_accept(tls_.get()));
  if (result.news == News::kLater) {
    return Await(result.wants_output,
                 [this, done = std::move(done)](bool ok) { ok ? Handshake(done) : done(false); });
  }
  boost::asio::post(socket_.get_executor(),
                    [done = std::move(done), ok = result.news == News::kBytes] { done(ok); });
}

HttpConnection::Result HttpConnection::TlsResult(int result) {
  if (result > 0) return {News::kBytes, static_cast<size_t>(result)};
  switch (SSL_get_error(tls_.get(), result)) {
    case SSL_ERROR_WANT_WRITE:
      return {News::kLater, 0, true};
    case SSL_ERROR_WANT_READ:
      return {News::kLater};
    case SSL_ERROR_ZERO_RETURN:
      return {News::kEnd};
    default:
      return {News::kFailed};
  }
}

HttpConnection::Result HttpConnection::Read(char* to, size_t size) {
  if (!tls()) return ResultOf(recv(fd(), to, size, 0));
  ERR_clear_error();
  const Result result = TlsResult(SSL_read(tls_.get(), to, SizeForTls(size)));
  drained_ = result.news == News::kLater;
  input_wants_output_ = result.wants_output;
  return result;
}

HttpConnection::Result HttpConnection::Write(absl::string_view first, absl::string_view second) {
  if (tls()) {
    ERR_clear_error();
    const absl::string_view one = first.empty() ? second : first;
    const Result result = TlsResult(SSL_write(tls_.get(), one.data(), SizeForTls(one.size())));
    // Without renegotiation it waits for nothing else.
    const bool good = result.news == News::kBytes || result.wants_output;
    return good ? result : Result{News::kFailed};
  }
  std::array<iovec, 2> parts = {iovec{const_cast<char*>(first.data()), first.size()},
                                iovec{const_cast<char*>(second.data()), second.size()}};
  msghdr message = {};
  message.msg_iov = parts.data();
  message.msg_iovlen = parts.size();
  return ResultOf(sendmsg(fd(), &message, MSG_NOSIGNAL));
}

void HttpConnection::AwaitInput(Ready ready) {
  if (tls() && !drained_) {
    // It may have read more than it was asked for, of which the socket knows nothing.
    return boost::asio::post(socket_.get_executor(), [ready = std::move(ready)] { ready(true); });
  }
  Await(input_wants_output_, std::move(ready));
}

void HttpConnection::AwaitOutput(Ready ready) { Await(/*output=*/true, std::move(ready)); }

void HttpConnection::Await(bool output, Ready ready) {
  const auto what = output ? HttpSocket::wait_write : HttpSocket::wait_read;
  socket_.async_wait(what, [ready = std::move(ready)](const Error& error) { ready(!error); });
}

void HttpConnection::EndOutput() {
  if (tls()) {
    ERR_clear_error();
    SSL_shutdown(tls_.get());
  }
  Error ignored;
  socket_.shutdown(HttpSocket::shutdown_send, ignored);
}

void HttpConnection::Cut() {
  const linger none = {1, 0};
  setsockopt(fd(), SOL_SOCKET, SO_LINGER, &none, sizeof(none));
}

void HttpConnection::Close() {
  Error ignored;
  socket_.close(ignored);
}

}  // namespace packrat
