#include "server/grpc/tls_credentials.h"

#include <grpc/grpc.h>
#include <grpc/grpc_security.h>

#include <string>

#include "kernels/check.h"
#include "runtime/mutex.h"

namespace packrat {
namespace {

// The library asks before each handshake whether there are new files. Its C++ interface only offers
// a watcher that takes whatever the files contain: with a broken certificate all handshakes would
// fail.
class Credentials final : public grpc::ServerCredentials {
 public:
  explicit Credentials(TlsStore* store) : store_(store) {}

  void SetAuthMetadataProcessor(
      const std::shared_ptr<grpc::AuthMetadataProcessor>& processor) override {
    PACKRAT_CHECK(false, "not supported");
  }

 private:
  int AddPortToServer(const std::string& address, grpc_server* server) override {
    const auto ask = store_->asks_clients()
                         ? GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY
                         : GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE;
    grpc_server_credentials* const credentials = grpc_ssl_server_credentials_create_with_options(
        grpc_ssl_server_credentials_create_options_using_config_fetcher(ask, &Fetch, this));
    const int port = grpc_server_add_http2_port(server, address.c_str(), credentials);
    grpc_server_credentials_release(credentials);
    return port;
  }

  static grpc_ssl_certificate_config_reload_status Fetch(
      void* self, grpc_ssl_server_certificate_config** config) {
    return static_cast<Credentials*>(self)->FetchNew(config);
  }

  grpc_ssl_certificate_config_reload_status FetchNew(grpc_ssl_server_certificate_config** config) {
    MutexLock lock(&mutex_);
    auto files = store_->files();
    if (files == given_) return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_UNCHANGED;
    const grpc_ssl_pem_key_cert_pair pair = {files->key.c_str(), files->certificate.c_str()};
    // The library needs authorities even if it asks clients for no certificate. Then it does not
    // use them.
    const std::string& roots = files->client_ca.empty() ? files->certificate : files->client_ca;
    *config = grpc_ssl_server_certificate_config_create(roots.c_str(), &pair, 1);
    given_ = std::move(files);
    return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_NEW;
  }

  TlsStore* const store_;
  Mutex mutex_;
  std::shared_ptr<const TlsFiles> given_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace

std::shared_ptr<grpc::ServerCredentials> TlsCredentials(TlsStore* store) {
  return std::make_shared<Credentials>(store);
}

}  // namespace packrat
