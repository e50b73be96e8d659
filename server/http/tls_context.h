// OpenSSL's context for the current certificates.
#ifndef PACKRAT_SERVER_HTTP_TLS_CONTEXT_H_
#define PACKRAT_SERVER_HTTP_TLS_CONTEXT_H_

#include <boost/asio/ssl/context.hpp>
#include <memory>

#include "server/net/tls_store.h"

namespace packrat {

// One thread.
class TlsContext {
 public:
  // `store`: null, no TLS.
  explicit TlsContext(TlsStore* store) : store_(store) {}

  bool on() const { return store_ != nullptr; }
  // Whether a client needs a certificate for pages that are not open to all.
  bool asks_clients() const { return on() && store_->asks_clients(); }
  // There is a new context after the files have changed. Connections keep theirs.
  std::shared_ptr<boost::asio::ssl::context> Get();

 private:
  TlsStore* const store_;
  std::shared_ptr<const TlsFiles> files_;
  std::shared_ptr<boost::asio::ssl::context> context_;
};

}  // namespace packrat

#endif  // PACKRAT_SERVER_HTTP_TLS_CONTEXT_H_
