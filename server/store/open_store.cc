#include "server/store/open_store.h"

#include <cerrno>
#include <cstring>
#include <fstream>
#include <memory>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "runtime/bounded_store.h"
#include "runtime/directory_store.h"
#include "runtime/disk_clock.h"
#include "server/store/redis_store.h"

namespace packrat {
namespace {

absl::Status Wrong(absl::string_view flag, const absl::Status& status) {
  return absl::InvalidArgumentError(absl::StrCat(flag, ": ", status.message()));
}

}  // namespace

absl::Status CheckStoreFlags(const std::string& where, const std::string& password_file) {
  if (where.empty()) {
    if (password_file.empty()) return absl::OkStatus();
    return absl::InvalidArgumentError(
        "--session_store_password_file needs --session_store, which is not given");
  }
  if (absl::StartsWith(where, "/")) {
    if (password_file.empty()) return absl::OkStatus();
    return absl::InvalidArgumentError(
        "--session_store_password_file is for Redis; --session_store is a folder");
  }
  if (!absl::StartsWith(where, "redis")) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--session_store is \"", where,
        "\"; the absolute path of a folder, or redis://[USER@]HOST[:PORT][/DATABASE]"));
  }
  const auto address = ParseRedisAddress(where);
  return address.ok() ? absl::OkStatus() : Wrong("--session_store", address.status());
}

bool OthersMayUseStore(const std::string& where) {
  return absl::StartsWith(where, "/") && OthersMayReadOrWrite(where);
}

absl::StatusOr<std::unique_ptr<SessionStore>> OpenSessionStore(const std::string& where,
                                                               const std::string& password_file) {
  if (absl::StartsWith(where, "/")) {
    DirectoryStoreOptions options;
    options.folder = where;
    // Replicas on several machines have clocks of their own.
    const auto clock = std::make_shared<DiskClock>([where] { return AskDisk(where); });
    options.now = [clock] { return clock->Now(); };
    auto store = DirectoryStore::Open(std::move(options));
    if (!store.ok()) return Wrong("--session_store", store.status());
    return std::make_unique<BoundedStore>(*std::move(store));
  }
  const auto address = ParseRedisAddress(where);
  if (!address.ok()) return Wrong("--session_store", address.status());
  RedisStoreOptions options;
  options.address = *address;
  if (!password_file.empty()) {
    std::ifstream file(password_file);
    if (!std::getline(file, options.address.password) || options.address.password.empty()) {
      const std::string why = file.is_open() ? "its first line is empty" : std::strerror(errno);
      return absl::InvalidArgumentError(
          absl::StrCat("--session_store_password_file: no password can be read from \"",
                       password_file, "\": ", why));
    }
  }
  return std::make_unique<RedisStore>(std::move(options));
}

}  // namespace packrat
