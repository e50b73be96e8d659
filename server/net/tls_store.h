// The current TLS files. They are read at the start, and again whenever they change.
#ifndef PACKRAT_SERVER_NET_TLS_STORE_H_
#define PACKRAT_SERVER_NET_TLS_STORE_H_

#include <chrono>
#include <condition_variable>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "absl/status/statusor.h"
#include "runtime/mutex.h"
#include "server/log.h"
#include "server/net/tls_files.h"

namespace packrat {

// Thread-safe.
class TlsStore {
 public:
  // Looks at the files every `interval`. INVALID_ARGUMENT as ReadTlsFiles(). `log` outlives it.
  static absl::StatusOr<std::unique_ptr<TlsStore>> Open(
      TlsPaths paths, Logger* log, std::chrono::milliseconds interval = std::chrono::seconds(2));
  ~TlsStore();

  // Never null. There is a new object after each change.
  std::shared_ptr<const TlsFiles> files() const;
  bool asks_clients() const { return !paths_.client_ca.empty(); }

  // Reads the files. If they do not fit together nothing changes. This is logged only at the second
  // look, since somebody who replaces two files may have replaced only one of them yet.
  void Look();

 private:
  TlsStore(TlsPaths paths, TlsFiles files, Logger* log, std::chrono::milliseconds interval);
  void Loop();
  void TellExpiry(const TlsFiles& files);

  const TlsPaths paths_;
  Logger* const log_;
  const std::chrono::milliseconds interval_;
  mutable Mutex mutex_;
  std::shared_ptr<const TlsFiles> files_ ABSL_GUARDED_BY(mutex_);
  std::string last_error_ ABSL_GUARDED_BY(mutex_);  // Of the last look; empty: there was none.
  bool told_ ABSL_GUARDED_BY(mutex_) = false;       // Whether it was logged.
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  std::condition_variable stopping_;
  std::thread thread_;
};

}  // namespace packrat

#endif  // PACKRAT_SERVER_NET_TLS_STORE_H_
