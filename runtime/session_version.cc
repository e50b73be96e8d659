#include "runtime/session_version.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace packrat {

bool SessionPast::Has(const SessionVersion& version) const {
  return version.revision < versions_.front().revision ||
         std::find(versions_.begin(), versions_.end(), version) != versions_.end();
}

void SessionPast::Change(uint64_t change) {
  const SessionVersion next = {now().revision + 1, change};
  if (versions_.size() == kMost) versions_.erase(versions_.begin() + 1);
  versions_.push_back(next);
}

void SessionPast::Stored(const SessionVersion& version) {
  const auto at = std::find(versions_.begin(), versions_.end(), version);
  if (at != versions_.end()) versions_.erase(versions_.begin(), at);
}

absl::Status CheckComesFrom(const SessionVersion& stored, const SessionPast& past) {
  if (past.Has(stored)) return absl::OkStatus();
  if (stored == kDeletedSession) return absl::AbortedError("the session was deleted");
  return absl::AbortedError(absl::StrCat("the store has version ", stored.revision,
                                         " of the session; this is ", past.now().revision,
                                         ", which did not come from it"));
}

}  // namespace packrat
