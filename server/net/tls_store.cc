#include "server/net/tls_store.h"

#include <string>
#include <utility>

#include "absl/time/clock.h"

namespace packrat {
namespace {

// With less time left, the log reports the certificate's end as an error.
constexpr absl::Duration kSoon = absl::Hours(24 * 7);

}  // namespace

absl::StatusOr<std::unique_ptr<TlsStore>> TlsStore::Open(TlsPaths paths, Logger* log,
                                                         std::chrono::milliseconds interval) {
  auto files = ReadTlsFiles(paths);
  if (!files.ok()) return files.status();
  return std::unique_ptr<TlsStore>(
      new TlsStore(std::move(paths), *std::move(files), log, interval));
}

TlsStore::TlsStore(TlsPaths paths, TlsFiles files, Logger* log, std::chrono::milliseconds interval)
    : paths_(std::move(paths)),
      log_(log),
      interval_(interval),
      files_(std::make_shared<const TlsFiles>(std::move(files))) {
  TellExpiry(*this->files());
  thread_ = std::thread([this] { Loop(); });
}

TlsStore::~TlsStore() {
  {
    MutexLock lock(&mutex_);
    stop_ = true;
    stopping_.notify_all();
  }
  thread_.join();
}

std::shared_ptr<const TlsFiles> TlsStore::files() const {
  MutexLock lock(&mutex_);
  return files_;
}

void TlsStore::Look() {
  auto read = ReadTlsFiles(paths_);
  std::string error;
  {
    MutexLock lock(&mutex_);
    if (!read.ok()) {
      const std::string now(read.status().message());
      const bool again = now == last_error_;
      last_error_ = now;
      if (!again) told_ = false;
      if (!again || told_) return;
      told_ = true;
      error = now;
    } else {
      last_error_.clear();
      if (*read == *files_) return;
      files_ = std::make_shared<const TlsFiles>(*read);
    }
  }
  if (!error.empty()) {
    log_->Error("new TLS files are not used; the old ones hold", {{"error", error}});
    return;
  }
  log_->Info("new TLS files are used", {{"certificate", paths_.certificate}});
  TellExpiry(*read);
}

void TlsStore::Loop() {
  for (;;) {
    {
      MutexLock lock(&mutex_);
      const auto until = std::chrono::steady_clock::now() + interval_;
      while (!stop_ && std::chrono::steady_clock::now() < until) lock.WaitUntil(&stopping_, until);
      if (stop_) return;
    }
    Look();
  }
}

void TlsStore::TellExpiry(const TlsFiles& files) {
  const absl::Duration left = files.expires - absl::Now();
  if (left > kSoon) return;
  log_->Error(
      left > absl::ZeroDuration() ? "the TLS certificate expires soon"
                                  : "the TLS certificate has expired",
      {{"certificate", paths_.certificate},
       {"expires", absl::FormatTime(absl::RFC3339_sec, files.expires, absl::UTCTimeZone())}});
}

}  // namespace packrat
