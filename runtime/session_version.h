// Which text of a session one has, where replicas that share a store may change it side by side.
#ifndef PACKRAT_RUNTIME_SESSION_VERSION_H_
#define PACKRAT_RUNTIME_SESSION_VERSION_H_

#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "absl/status/status.h"

namespace packrat {

// Of two changes of one text both have the same revision, and each a number of its own.
struct SessionVersion {
  int64_t revision = 0;  // Grows by 1 whenever the text changes.
  uint64_t change = 0;   // A random number, of the change that made it; 0: the store does not tell.
  bool operator==(const SessionVersion& o) const {
    return revision == o.revision && change == o.change;
  }
};

// What a store has of a session that was deleted, for as long as a replica may still hold it: no
// text came from it.
inline constexpr SessionVersion kDeletedSession = {std::numeric_limits<int64_t>::max(), 0};

// The version of a text, and those that it came through since a store was known to have one of
// them.
class SessionPast {
 public:
  explicit SessionPast(const SessionVersion& now = {}) : versions_{now} {}

  const SessionVersion& now() const { return versions_.back(); }
  // The text is that one, or came from it. One with a lower revision than all that are known is
  // what a store had before them, and has again.
  bool Has(const SessionVersion& version) const;
  // It was changed since a store was known to have it.
  bool unstored() const { return versions_.size() > 1; }
  void Change(uint64_t change);
  // A store has it at this version. Allocates nothing.
  void Stored(const SessionVersion& version);

 private:
  // Of more the oldest stays, which a store is known to have, and the newest: the store may have
  // one of these if it took it and could not say so.
  static constexpr size_t kMost = 8;
  std::vector<SessionVersion> versions_;  // The oldest first; not empty.
};

// Whether a store may replace what it has by what came so. ABORTED: its own did not lead to that.
absl::Status CheckComesFrom(const SessionVersion& stored, const SessionPast& past);

}  // namespace packrat

#endif  // PACKRAT_RUNTIME_SESSION_VERSION_H_
