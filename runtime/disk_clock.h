// What time it is by the clock of a disk. Several machines that share one compare dates by it, for
// their own clocks differ, and may be set at any time.
#ifndef PACKRAT_RUNTIME_DISK_CLOCK_H_
#define PACKRAT_RUNTIME_DISK_CLOCK_H_

#include <functional>
#include <optional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"
#include "runtime/mutex.h"

namespace packrat {

// The time that a disk gives a file of this folder when it is changed: of a share, the server's.
// Nullopt: there can be no such file.
std::optional<absl::Time> AskDisk(const std::string& folder);

// Thread-safe.
class DiskClock {
 public:
  // `ask`: as AskDisk(). An answer counts for `fresh`, with what has passed since by the steady
  // clock.
  explicit DiskClock(std::function<std::optional<absl::Time>()> ask,
                     absl::Duration fresh = absl::Seconds(10));

  // A date. Takes as long as the disk does. While that gives no answer, goes on from the last one,
  // and before the first from this machine's clock.
  absl::Time Now();

 private:
  const std::function<std::optional<absl::Time>()> ask_;
  const absl::Duration fresh_;
  Mutex mutex_;
  absl::Time asked_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();  // By the steady clock.
  absl::Time answered_ ABSL_GUARDED_BY(mutex_);  // What was read, and when by the steady clock.
  absl::Time answered_at_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
};

}  // namespace packrat

#endif  // PACKRAT_RUNTIME_DISK_CLOCK_H_
