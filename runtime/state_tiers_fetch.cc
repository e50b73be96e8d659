// What somebody waits for is read from the disk, in the order of turns: a tenant's next one begins
// where its last one ended, so that who wants many does not keep who wants one.
#include <algorithm>
#include <utility>

#include "runtime/state_tiers.h"

namespace packrat {

void StateTiers::Fetch(uint64_t id, int tenant, double weight) {
  Entry* const entry = Find(id);
  if (entry == nullptr || entry->stage != Stage::kDisk) return;
  Lift(&disk_, entry);
  entry->tenant = tenant;
  entry->weight = weight;
  entry->at = 0;
  Want(entry);
  ReadWanted();
}

void StateTiers::Want(Entry* entry) {
  entry->stage = Stage::kWanted;
  entry->turn = turn_;
  const auto comes_after = [entry](const Entry& other) {
    if (other.tenant == entry->tenant) entry->turn = std::max(entry->turn, other.turn_end);
  };
  for (const Entry* other : reading_) comes_after(*other);
  for (const Entry* other = wanted_.first; other != nullptr; other = other->next) {
    comes_after(*other);
  }
  if (entry->size > 0) entry->piece_bytes = std::min(piece_bytes_, entry->size - entry->at);
  entry->turn_end = entry->turn + static_cast<double>(InMemory(*entry)) / entry->weight;
  wanted_.PushByTurn(entry);
}

bool StateTiers::IsFetching(uint64_t id) const {
  const Entry* const entry = Find(id);
  return entry != nullptr && !entry->unwanted &&
         (entry->stage == Stage::kWanted || entry->stage == Stage::kReading ||
          entry->stage == Stage::kPiece);
}

void StateTiers::ReadWanted() {
  while (wanted_.first != nullptr && reading_.size() < kMostReading) {
    Entry* const entry = wanted_.first;
    const int64_t bytes = InMemory(*entry);
    if (!memory_.Has(bytes)) WriteBeyond(stats_.memory.limit - bytes);
    if (!memory_.Has(bytes)) return;  // Something is being written.
    wanted_.Pop();
    turn_ = entry->turn;
    reading_.push_back(entry);
    CountInMemory(*entry, 1);
    entry->stage = Stage::kReading;
    Hand(entry);
  }
}

void StateTiers::Queue::Push(Entry* entry) {
  entry->next = nullptr;
  (last == nullptr ? first : last->next) = entry;
  last = entry;
}

void StateTiers::Queue::PushByTurn(Entry* entry) {
  Entry* before = nullptr;
  for (Entry* at = first; at != nullptr && at->turn <= entry->turn; at = at->next) before = at;
  if (before == last) return Push(entry);
  entry->next =
      before == nullptr ? std::exchange(first, entry) : std::exchange(before->next, entry);
}

StateTiers::Entry* StateTiers::Queue::Pop() {
  Entry* const entry = first;
  if (entry == nullptr) return nullptr;
  first = entry->next;
  if (first == nullptr) last = nullptr;
  return entry;
}

void StateTiers::Queue::Remove(const Entry* entry) {
  Entry* before = nullptr;
  for (Entry* at = first; at != entry; at = at->next) before = at;
  (before == nullptr ? first : before->next) = entry->next;
  if (last == entry) last = before;
}

}  // namespace packrat
