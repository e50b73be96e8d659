#include "server/api_keys.h"

#include <openssl/crypto.h>
#include <openssl/sha.h>
#include <sys/random.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>
#include <sstream>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "kernels/check.h"
#include "models/bounds.h"

namespace packrat {
namespace {

constexpr absl::string_view kKeyPrefix = "pk-";
constexpr size_t kMaxKeyBytes = 1024;
constexpr int64_t kMaxFileBytes = 8 << 20;

absl::Status Wrong(absl::string_view what, absl::string_view value, absl::string_view range) {
  return absl::InvalidArgumentError(
      absl::StrCat(what, " is \"", absl::CHexEscape(value), "\"; ", range));
}

absl::Status ParsePriority(absl::string_view value, TenantLimits* limits) {
  const std::vector<absl::string_view> ends = absl::StrSplit(value, "..");
  if (ends.size() == 2 && absl::SimpleAtoi(ends[0], &limits->min_priority) &&
      absl::SimpleAtoi(ends[1], &limits->max_priority) &&
      bounds::kPriority.Holds(limits->min_priority) &&
      limits->min_priority <= limits->max_priority &&
      bounds::kPriority.Holds(limits->max_priority)) {
    return absl::OkStatus();
  }
  return Wrong("priority", value,
               absl::StrCat("LOW..HIGH with both in ", bounds::kPriority.Range()));
}

absl::Status ParseLimit(absl::string_view option, TenantLimits* limits) {
  const std::pair<absl::string_view, absl::string_view> parts =
      absl::StrSplit(option, absl::MaxSplits('=', 1));
  const auto [name, value] = parts;
  if (name == "streams") {
    if (absl::SimpleAtoi(value, &limits->streams) && limits->streams >= 1 &&
        limits->streams <= 1000000) {
      return absl::OkStatus();
    }
    return Wrong(name, value, "range [1, 1000000]");
  }
  if (name == "tokens_per_minute") {
    if (absl::SimpleAtoi(value, &limits->tokens_per_minute) && limits->tokens_per_minute >= 1 &&
        limits->tokens_per_minute <= 1000000000000) {
      return absl::OkStatus();
    }
    return Wrong(name, value, "range [1, 1000000000000]");
  }
  if (name == "queue_share" || name == "session_share") {
    double& share = name == "queue_share" ? limits->queue_share : limits->session_share;
    if (absl::SimpleAtod(value, &share) && share > 0 && share <= 1) return absl::OkStatus();
    return Wrong(name, value, "range (0, 1]");
  }
  if (name == "weight") {
    if (absl::SimpleAtod(value, &limits->weight) && limits->weight >= 0.01 &&
        limits->weight <= 100) {
      return absl::OkStatus();
    }
    return Wrong(name, value, "range [0.01, 100]");
  }
  if (name == "priority") return ParsePriority(value, limits);
  return Wrong("limit", option,
               "one of streams=, tokens_per_minute=, queue_share=, session_share=, weight=, "
               "priority=");
}

absl::StatusOr<ApiKeyEntry> ParseLine(absl::string_view line) {
  const std::vector<absl::string_view> words =
      absl::StrSplit(line, absl::ByAnyChar(" \t"), absl::SkipEmpty());
  ApiKeyEntry entry;
  entry.name = std::string(words[0]);
  if (absl::Status status = CheckTenantName(entry.name); !status.ok()) return status;
  absl::string_view hex = words.size() > 1 ? words[1] : "";
  const bool digits = absl::ConsumePrefix(&hex, "sha256:") && hex.size() == 64 &&
                      std::all_of(hex.begin(), hex.end(), absl::ascii_isxdigit);
  if (!digits) {
    // The value is not shown: it may be a secret, if somebody wrote the key itself here.
    return absl::InvalidArgumentError(
        "the second word must be sha256: and 64 hexadecimal digits, as `packrat key` prints them "
        "below the key");
  }
  const std::string bytes = absl::HexStringToBytes(hex);
  std::memcpy(entry.hash.data(), bytes.data(), entry.hash.size());
  for (size_t i = 2; i < words.size(); ++i) {
    if (absl::Status status = ParseLimit(words[i], &entry.limits); !status.ok()) return status;
  }
  return entry;
}

bool SameFile(const struct stat& a, const struct stat& b) {
  return a.st_dev == b.st_dev && a.st_ino == b.st_ino && a.st_size == b.st_size &&
         a.st_mtim.tv_sec == b.st_mtim.tv_sec && a.st_mtim.tv_nsec == b.st_mtim.tv_nsec;
}

}  // namespace

std::string MakeApiKey() {
  char bytes[32];
  PACKRAT_CHECK(getrandom(bytes, sizeof bytes, 0) == sizeof bytes, "no random numbers");
  return absl::StrCat(kKeyPrefix,
                      absl::WebSafeBase64Escape(absl::string_view(bytes, sizeof bytes)));
}

KeyHash HashApiKey(absl::string_view key) {
  KeyHash hash;
  SHA256(reinterpret_cast<const unsigned char*>(key.data()), key.size(), hash.data());
  return hash;
}

std::string ApiKeyLine(absl::string_view name, absl::string_view key) {
  const KeyHash hash = HashApiKey(key);
  return absl::StrCat(name, " sha256:",
                      absl::BytesToHexString(absl::string_view(
                          reinterpret_cast<const char*>(hash.data()), hash.size())));
}

absl::Status CheckTenantName(absl::string_view name) {
  bool good = !name.empty() && name.size() <= 64;
  for (char c : name) {
    good = good &&
           (absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '.' || c == '_' || c == '-');
  }
  if (good) return absl::OkStatus();
  return Wrong("the name", name, "1 to 64 letters, digits, dots, underscores and dashes");
}

absl::StatusOr<std::vector<ApiKeyEntry>> ParseApiKeys(absl::string_view text) {
  std::vector<ApiKeyEntry> entries;
  std::map<std::string, TenantLimits> limits;
  int number = 0;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    ++number;
    line = absl::StripAsciiWhitespace(line);
    if (line.empty() || line[0] == '#') continue;
    auto entry = ParseLine(line);
    absl::Status status = entry.status();
    if (status.ok()) {
      const auto [known, added] = limits.emplace(entry->name, entry->limits);
      if (!added && !(known->second == entry->limits)) {
        status = absl::InvalidArgumentError(
            absl::StrCat(entry->name,
                         " has other limits on an earlier line; keys of one name "
                         "share theirs"));
      }
    }
    if (status.ok() && static_cast<int>(entries.size()) == kMaxApiKeys) {
      status = absl::InvalidArgumentError(absl::StrCat("more than ", kMaxApiKeys, " keys"));
    }
    if (!status.ok()) {
      return absl::InvalidArgumentError(absl::StrCat("line ", number, ": ", status.message()));
    }
    entries.push_back(*std::move(entry));
  }
  if (entries.empty()) return absl::InvalidArgumentError("it has no keys");
  return entries;
}

absl::StatusOr<std::unique_ptr<ApiKeys>> ApiKeys::Load(const std::string& path) {
  std::unique_ptr<ApiKeys> keys(new ApiKeys(path));
  absl::Status status = keys->Read();
  if (!status.ok()) return status;
  return keys;
}

absl::Status ApiKeys::Read() {
  const auto refuse = [&](absl::string_view why) {
    return absl::InvalidArgumentError(absl::StrCat("--api_keys: ", path_, ": ", why));
  };
  // This comes before reading, so that what is written meanwhile counts as a change.
  struct stat now = {};
  if (stat(path_.c_str(), &now) != 0) {
    seen_ = now;
    return refuse(strerror(errno));
  }
  seen_ = now;
  if (!S_ISREG(now.st_mode)) return refuse("is not a file");
  if (now.st_size > kMaxFileBytes) return refuse("is larger than 8 MiB");
  std::ifstream file(path_);
  std::stringstream text;
  text << file.rdbuf();
  if (!file) return refuse("cannot be read");
  auto entries = ParseApiKeys(text.str());
  if (!entries.ok()) return refuse(entries.status().message());

  auto keys = std::make_shared<std::vector<Key>>();
  std::map<std::string, std::shared_ptr<ApiTenant>> named;
  for (const ApiKeyEntry& entry : *entries) {
    std::shared_ptr<ApiTenant>& tenant = named[entry.name];
    if (tenant == nullptr) {
      tenant = tenants_[entry.name].lock();
      if (tenant == nullptr) tenant = std::make_shared<ApiTenant>(entry.name, entry.limits);
      tenant->SetLimits(entry.limits);
    }
    keys->push_back({entry.hash, tenant});
  }
  {
    MutexLock lock(&mutex_);
    keys_ = std::move(keys);
  }
  for (const auto& [name, tenant] : named) tenants_[name] = tenant;
  for (auto it = tenants_.begin(); it != tenants_.end();) {
    it = it->second.expired() ? tenants_.erase(it) : std::next(it);
  }
  return absl::OkStatus();
}

absl::StatusOr<bool> ApiKeys::ReloadIfChanged() {
  struct stat now = {};
  stat(path_.c_str(), &now);  // All zero if the file is gone.
  if (SameFile(now, seen_)) return false;
  absl::Status status = Read();
  if (!status.ok()) return status;
  return true;
}

absl::StatusOr<std::shared_ptr<ApiTenant>> ApiKeys::Authenticate(
    absl::string_view authorization) const {
  if (authorization.empty()) {
    return absl::UnauthenticatedError(
        "this server wants an API key: send \"authorization: Bearer KEY\"");
  }
  const std::pair<absl::string_view, absl::string_view> parts =
      absl::StrSplit(authorization, absl::MaxSplits(' ', 1));
  const absl::string_view key = absl::StripAsciiWhitespace(parts.second);
  if (!absl::EqualsIgnoreCase(parts.first, "bearer") || key.empty() || key.size() > kMaxKeyBytes) {
    return absl::UnauthenticatedError("authorization must be \"Bearer KEY\"");
  }
  std::shared_ptr<const std::vector<Key>> keys;
  {
    MutexLock lock(&mutex_);
    keys = keys_;
  }
  const KeyHash hash = HashApiKey(key);
  const Key* found = nullptr;
  for (const Key& known : *keys) {
    if (CRYPTO_memcmp(known.hash.data(), hash.data(), hash.size()) == 0) found = &known;
  }
  if (found == nullptr) return absl::UnauthenticatedError("this server does not know the API key");
  return found->tenant;
}

}  // namespace packrat
