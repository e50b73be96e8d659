#include "server/http/tls_context.h"

#include <openssl/ssl.h>

#include <boost/asio/buffer.hpp>
#include <string>

namespace packrat {
namespace {

namespace ssl = boost::asio::ssl;

int ChooseHttp11(SSL*, const unsigned char** chosen, unsigned char* size,
                 const unsigned char* offered, unsigned int offered_size, void*) {
  static constexpr unsigned char kOurs[] = "\x08http/1.1";
  unsigned char* out = nullptr;
  if (SSL_select_next_proto(&out, size, kOurs, sizeof(kOurs) - 1, offered, offered_size) !=
      OPENSSL_NPN_NEGOTIATED) {
    return SSL_TLSEXT_ERR_ALERT_FATAL;
  }
  *chosen = out;
  return SSL_TLSEXT_ERR_OK;
}

// The files were checked before. If something fails here an invariant is broken, and it throws.
std::shared_ptr<ssl::context> Make(const TlsFiles& files) {
  auto context = std::make_shared<ssl::context>(ssl::context::tls_server);
  SSL_CTX* const native = context->native_handle();
  SSL_CTX_set_min_proto_version(native, TLS1_2_VERSION);
  SSL_CTX_set_alpn_select_cb(native, &ChooseHttp11, nullptr);
  // See HttpConnection.
  SSL_CTX_set_mode(native, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE |
                               SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
  SSL_CTX_set_read_ahead(native, 1);
  SSL_CTX_set_options(native, SSL_OP_NO_RENEGOTIATION | SSL_OP_IGNORE_UNEXPECTED_EOF);
  // Probes gain nothing by resuming a session, and would keep using old certificates.
  SSL_CTX_set_session_cache_mode(native, SSL_SESS_CACHE_OFF);
  SSL_CTX_set_options(native, SSL_OP_NO_TICKET);
  context->use_certificate_chain(boost::asio::buffer(files.certificate));
  context->use_private_key(boost::asio::buffer(files.key), ssl::context::pem);
  if (!files.client_ca.empty()) {
    context->add_certificate_authority(boost::asio::buffer(files.client_ca));
    // A client without a certificate is fine here, one with a wrong certificate is not. Each page
    // decides who may see it.
    context->set_verify_mode(ssl::verify_peer);
  }
  return context;
}

}  // namespace

std::shared_ptr<ssl::context> TlsContext::Get() {
  auto files = store_->files();
  if (files != files_) {
    context_ = Make(*files);
    files_ = std::move(files);
  }
  return context_;
}

}  // namespace packrat
