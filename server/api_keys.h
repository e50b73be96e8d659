// Decides who may call, by bearer keys from a file. A front end passes the value of its header or
// metadata `authorization`.
//
// The file has one key per line. Empty lines and lines that begin with # are skipped:
//
//   NAME sha256:HEX [limit=value ...]
//
// NAME, of 1 to 64 letters, digits and . _ -, is the tenant's name in logs and metrics. Several
// keys of one name, with the same limits, belong to one tenant, so that a new key can overlap with
// the old one. HEX is the SHA-256 of the key. Limits: streams, tokens_per_minute, queue_share,
// session_share, weight and priority=LOW..HIGH; see TenantLimits.
#ifndef PACKRAT_SERVER_API_KEYS_H_
#define PACKRAT_SERVER_API_KEYS_H_

#include <sys/stat.h>

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "runtime/mutex.h"
#include "server/api_tenant.h"

namespace packrat {

inline constexpr int kMaxApiKeys = 10000;
using KeyHash = std::array<unsigned char, 32>;  // SHA-256

// A fresh key, and its line for the file.
std::string MakeApiKey();
KeyHash HashApiKey(absl::string_view key);
std::string ApiKeyLine(absl::string_view name, absl::string_view key);
// INVALID_ARGUMENT says which names are allowed.
absl::Status CheckTenantName(absl::string_view name);

// One line of a file.
struct ApiKeyEntry {
  std::string name;
  KeyHash hash;
  TenantLimits limits;
};
// INVALID_ARGUMENT names the line.
absl::StatusOr<std::vector<ApiKeyEntry>> ParseApiKeys(absl::string_view text);

class ApiKeys {
 public:
  // Errors name the file and what is wrong with it.
  static absl::StatusOr<std::unique_ptr<ApiKeys>> Load(const std::string& path);

  // The owner of the key in the value of `authorization`, which is "Bearer KEY", or empty if the
  // call has none. UNAUTHENTICATED says what is wrong with it. All keys are compared, each to its
  // end, so the time tells nothing about them.
  absl::StatusOr<std::shared_ptr<ApiTenant>> Authenticate(absl::string_view authorization) const;

  // Reads the file again if it has changed, and returns whether it had. If the file is broken, the
  // keys stay as they were, and the error is returned once. What tenants use stays counted.
  absl::StatusOr<bool> ReloadIfChanged();

 private:
  struct Key {
    KeyHash hash;
    std::shared_ptr<ApiTenant> tenant;
  };
  explicit ApiKeys(std::string path) : path_(std::move(path)) {}
  absl::Status Read();

  const std::string path_;
  struct stat seen_ = {};  // Of the file that was read last. Only the thread that reloads uses it.
  // By name. A tenant that is no longer in the file is kept while a call of it runs.
  std::map<std::string, std::weak_ptr<ApiTenant>> tenants_;
  mutable Mutex mutex_;
  std::shared_ptr<const std::vector<Key>> keys_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace packrat

#endif  // PACKRAT_SERVER_API_KEYS_H_
