#include "server/net/tls_files.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <memory>
#include <vector>

#include "absl/strings/str_cat.h"

namespace packrat {
namespace {

constexpr size_t kMostBytes = 1 << 20;

struct Free {
  void operator()(BIO* p) const { BIO_free(p); }
  void operator()(X509* p) const { X509_free(p); }
  void operator()(EVP_PKEY* p) const { EVP_PKEY_free(p); }
  void operator()(SSL_CTX* p) const { SSL_CTX_free(p); }
  void operator()(std::FILE* p) const { std::fclose(p); }
};
template <typename T>
using Owned = std::unique_ptr<T, Free>;

absl::Status Wrong(const char* flag, const std::string& path, const std::string& why) {
  return absl::InvalidArgumentError(absl::StrCat("--", flag, ": ", path, ": ", why));
}

// OpenSSL's message about its last failure. Clears its list of errors.
std::string LastError() {
  const char* reason = ERR_reason_error_string(ERR_peek_error());
  const std::string text = reason == nullptr ? "unknown error" : reason;
  ERR_clear_error();
  return text;
}

absl::StatusOr<std::string> ReadAll(const char* flag, const std::string& path) {
  // Reading a pipe would wait, also when the files are read again.
  struct stat info;
  if (stat(path.c_str(), &info) == 0 && !S_ISREG(info.st_mode)) {
    return Wrong(flag, path, "is not a regular file");
  }
  const Owned<std::FILE> file(std::fopen(path.c_str(), "rb"));
  if (file == nullptr) return Wrong(flag, path, std::strerror(errno));
  std::string bytes(kMostBytes + 1, '\0');
  bytes.resize(std::fread(bytes.data(), 1, bytes.size(), file.get()));
  if (std::ferror(file.get()) != 0) return Wrong(flag, path, std::strerror(errno));
  if (bytes.size() > kMostBytes) return Wrong(flag, path, "is larger than 1 MiB");
  return bytes;
}

Owned<BIO> Open(const std::string& bytes) {
  return Owned<BIO>(BIO_new_mem_buf(bytes.data(), static_cast<int>(bytes.size())));
}

absl::StatusOr<std::vector<Owned<X509>>> Certificates(const char* flag, const std::string& path,
                                                      const std::string& bytes) {
  std::vector<Owned<X509>> found;
  const Owned<BIO> input = Open(bytes);
  while (X509* one = PEM_read_bio_X509(input.get(), nullptr, nullptr, nullptr)) {
    found.emplace_back(one);
  }
  const bool at_the_end = ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE;
  const std::string error = LastError();
  if (found.empty()) return Wrong(flag, path, "has no certificate in PEM");
  if (!at_the_end) return Wrong(flag, path, absl::StrCat("a certificate is damaged: ", error));
  return found;
}

// For keys with a password, since nobody is there to enter it.
int NoPassword(char*, int, int, void*) { return -1; }

absl::Status CheckPair(const TlsPaths& paths, const TlsFiles& files, X509* certificate) {
  const Owned<BIO> input = Open(files.key);
  const Owned<EVP_PKEY> key(PEM_read_bio_PrivateKey(input.get(), nullptr, &NoPassword, nullptr));
  ERR_clear_error();
  if (key == nullptr) {
    return Wrong("tls_key", paths.key, "has no private key in PEM, or one with a password");
  }
  if (X509_check_private_key(certificate, key.get()) != 1) {
    ERR_clear_error();
    return Wrong("tls_key", paths.key,
                 absl::StrCat("is not the key of the certificate in ", paths.certificate));
  }
  const Owned<SSL_CTX> context(SSL_CTX_new(TLS_server_method()));
  if (SSL_CTX_use_certificate(context.get(), certificate) != 1 ||
      SSL_CTX_use_PrivateKey(context.get(), key.get()) != 1) {
    return Wrong("tls_certificate", paths.certificate, absl::StrCat("is refused: ", LastError()));
  }
  return absl::OkStatus();
}

absl::Time Expiry(const X509* certificate) {
  std::tm tm = {};
  if (ASN1_TIME_to_tm(X509_get0_notAfter(certificate), &tm) != 1) return absl::InfiniteFuture();
  return absl::FromTM(tm, absl::UTCTimeZone());
}

}  // namespace

absl::StatusOr<TlsFiles> ReadTlsFiles(const TlsPaths& paths) {
  TlsFiles files;
  auto certificate = ReadAll("tls_certificate", paths.certificate);
  if (!certificate.ok()) return certificate.status();
  files.certificate = *std::move(certificate);
  auto key = ReadAll("tls_key", paths.key);
  if (!key.ok()) return key.status();
  files.key = *std::move(key);
  const auto chain = Certificates("tls_certificate", paths.certificate, files.certificate);
  if (!chain.ok()) return chain.status();
  const absl::Status pair = CheckPair(paths, files, chain->front().get());
  if (!pair.ok()) return pair;
  files.expires = Expiry(chain->front().get());
  if (paths.client_ca.empty()) return files;
  auto authorities = ReadAll("tls_client_ca", paths.client_ca);
  if (!authorities.ok()) return authorities.status();
  files.client_ca = *std::move(authorities);
  const auto list = Certificates("tls_client_ca", paths.client_ca, files.client_ca);
  if (!list.ok()) return list.status();
  return files;
}

}  // namespace packrat
