#include "runtime/state_tiers.h"

#include <algorithm>
#include <unordered_set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"

namespace packrat {

int64_t WholeBlocks(int64_t bytes) {
  constexpr int64_t kDiskBlock = 4096;
  return (bytes + kDiskBlock - 1) / kDiskBlock * kDiskBlock;
}

absl::StatusOr<std::unique_ptr<StateTiers>> StateTiers::Open(const StateTierOptions& options,
                                                             const StateOwner& owner,
                                                             std::function<void()> wake) {
  std::unique_ptr<StateFolder> folder;
  if (!options.folder.empty()) {
    auto opened = StateFolder::Open(options.folder, owner);
    if (!opened.ok()) return opened.status();
    folder = *std::move(opened);
  }
  return std::unique_ptr<StateTiers>(
      new StateTiers(options, owner, std::move(folder), std::move(wake)));
}

StateTiers::StateTiers(const StateTierOptions& options, const StateOwner& owner,
                       std::unique_ptr<StateFolder> folder, std::function<void()> wake)
    : layout_(owner.layout),
      header_bytes_(static_cast<int64_t>(EncodeHeader(SavedState(), owner).size())),
      // Two are in memory at once, of which half is for what comes next.
      piece_bytes_(folder == nullptr ? 0 : std::min(options.memory_bytes / 4, kMostPieceBytes)),
      folder_(std::move(folder)),
      wake_(std::move(wake)) {
  reading_.reserve(kMostReading);
  stats_.memory.limit = options.memory_bytes;
  stats_.disk.limit = folder_ == nullptr ? 0 : options.disk_bytes;
  if (folder_ == nullptr) return;
  reader_ = std::thread([this] { Work(/*reads=*/true); });
  writer_ = std::thread([this] { Work(/*reads=*/false); });
}

StateTiers::~StateTiers() {
  {
    MutexLock lock(&mutex_);
    stop_ = true;
  }
  work_.notify_all();
  if (reader_.joinable()) reader_.join();
  if (writer_.joinable()) writer_.join();
}

int64_t StateTiers::BytesOf(int position, int dial) const {
  const int64_t bytes = header_bytes_ + int64_t{position} * static_cast<int64_t>(sizeof(int32_t)) +
                        static_cast<int64_t>(SavedPartBytes(layout_.ForDial(dial), position));
  return WholeBlocks(bytes);
}

uint64_t StateTiers::Add(SavedState state, double worth) {
  PACKRAT_CHECK(static_cast<int>(state.tokens.size()) == state.position) << state.position;
  const int64_t bytes = BytesOf(state.position, state.dials.last);
  auto added = std::make_unique<Entry>();
  Entry* const entry = added.get();
  entry->id = last_id_ + 1;
  entry->bytes = bytes;
  entry->worth = worth;
  entry->state = std::make_shared<const SavedState>(std::move(state));
  Order one;
  entry->node = one.extract(one.emplace(0, entry));
  entries_.emplace(entry->id, std::move(added));
  // From here on nothing is refused.
  ++last_id_;
  if (!MakeRoom(bytes)) {
    Erase(entry);
    return 0;
  }
  CountInMemory(*entry, 1);
  ++stats_.moved_to_memory;
  Rest(&memory_, entry, /*used_now=*/false);
  const uint64_t id = entry->id;
  if (folder_ != nullptr) WriteBeyond(stats_.memory.limit / 2);
  return id;
}

bool StateTiers::MakeRoom(int64_t bytes) {
  if (!Fits(bytes)) return false;
  if (folder_ == nullptr) {
    while (!memory_.Has(bytes)) {
      Entry* const least = LiftLeast(&memory_);
      CountInMemory(*least, -1);
      ++stats_.dropped;
      Erase(least);
    }
  } else if (!memory_.Has(bytes)) {
    // For the next one, if what rests is in the way rather than what is being written.
    WriteBeyond(std::min(stats_.memory.limit / 2, stats_.memory.limit - bytes));
  }
  return memory_.Has(bytes);
}

void StateTiers::CountInMemory(const Entry& entry, int states) {
  stats_.memory.states += states;
  stats_.memory.bytes += states * InMemory(entry);
}

void StateTiers::CountOnDisk(const Entry& entry, int states) {
  stats_.disk.states += states;
  stats_.disk.bytes += states * entry.bytes;
}

void StateTiers::Rest(Budget* budget, Entry* entry, bool used_now) {
  double priority = budget->clock + entry->worth;
  // Somebody waits for it.
  if (used_now && !budget->order.empty()) {
    priority = std::max(priority, budget->order.rbegin()->first);
  }
  entry->node.key() = priority;
  entry->place = budget->order.insert(std::move(entry->node));
  budget->resting += entry->bytes;
}

void StateTiers::Lift(Budget* budget, Entry* entry) {
  entry->node = budget->order.extract(entry->place);
  budget->resting -= entry->bytes;
}

StateTiers::Entry* StateTiers::LiftLeast(Budget* budget) {
  if (budget->order.empty()) return nullptr;
  Entry* const least = budget->order.begin()->second;
  budget->clock = std::max(budget->clock, budget->order.begin()->first);
  Lift(budget, least);
  return least;
}

void StateTiers::WriteBeyond(int64_t resting) {
  while (memory_.resting > resting) Write(LiftLeast(&memory_));
}

bool StateTiers::MakeRoomOnDisk(int64_t bytes) {
  if (bytes > stats_.disk.limit) return false;
  while (!disk_.Has(bytes)) {
    Entry* const least = LiftLeast(&disk_);
    if (least == nullptr) return false;
    ++stats_.dropped;
    Remove(least);
  }
  return true;
}

void StateTiers::Write(Entry* entry) {
  if (std::exchange(entry->has_file, false)) {  // It has been written.
    entry->state = nullptr;
    CountInMemory(*entry, -1);
    entry->stage = Stage::kDisk;
    ++stats_.moved_to_disk;
    Rest(&disk_, entry, /*used_now=*/false);
    return;
  }
  if (!MakeRoomOnDisk(entry->bytes)) {
    CountInMemory(*entry, -1);
    ++stats_.dropped;
    Erase(entry);
    return;
  }
  CountOnDisk(*entry, 1);
  entry->stage = Stage::kWriting;
  Hand(entry);
}

void StateTiers::Remove(Entry* entry) {
  // The thread that removes it writes what takes its place after it.
  CountOnDisk(*entry, -1);
  entry->stage = Stage::kRemoving;
  Hand(entry);
}

StateTiers::Entry* StateTiers::Find(uint64_t id) const {
  const auto found = entries_.find(id);
  if (found == entries_.end()) return nullptr;
  Entry* const entry = found->second.get();
  return entry->dropped || entry->stage == Stage::kRemoving ? nullptr : entry;
}

StateTiers::Place StateTiers::PlaceOf(uint64_t id) const {
  const Entry* const entry = Find(id);
  if (entry == nullptr) return Place::kNowhere;
  if (!entry->whole) return Place::kNowhere;
  const bool in_memory = entry->stage == Stage::kMemory || entry->stage == Stage::kWriting;
  return in_memory ? Place::kMemory : Place::kDisk;
}

std::shared_ptr<const SavedState> StateTiers::Get(uint64_t id) const {
  PACKRAT_CHECK(PlaceOf(id) == Place::kMemory) << id;
  return Find(id)->state;
}

void StateTiers::Return(uint64_t id) {
  if (Find(id) != nullptr) ++stats_.returned;
  Drop(id);
}

void StateTiers::Drop(uint64_t id) {
  Entry* const entry = Find(id);
  if (entry == nullptr) return;
  switch (entry->stage) {
    case Stage::kMemory:
      Lift(&memory_, entry);
      CountInMemory(*entry, -1);
      if (entry->has_file) {
        entry->state = nullptr;
        Remove(entry);
      } else {
        Erase(entry);
      }
      break;
    case Stage::kFilling:
      Remove(entry);
      break;
    case Stage::kPiece:
      CountInMemory(*entry, -1);
      Remove(entry);
      break;
    case Stage::kDisk:
      Lift(&disk_, entry);
      Remove(entry);
      break;
    case Stage::kWanted:
      wanted_.Remove(entry);
      Remove(entry);
      break;
    case Stage::kWriting:
    case Stage::kReading:
      entry->dropped = true;
      break;
    case Stage::kRemoving:
      break;
  }
  ReadWanted();
}

void StateTiers::Poll() {
  if (!any_finished_) return;
  Queue finished;
  {
    MutexLock lock(&mutex_);
    std::swap(finished, finished_);
    any_finished_ = false;
  }
  while (Entry* entry = finished.Pop()) Finish(entry);
  ReadWanted();
}

void StateTiers::Finish(Entry* entry) {
  const bool failed = !entry->status.ok();
  if (entry->stage == Stage::kReading || reading_.empty()) ++answers_;
  if (entry->stage == Stage::kReading) {
    reading_.erase(std::find(reading_.begin(), reading_.end(), entry));
  }
  if (entry->stage == Stage::kRemoving) {
    Erase(entry);  // The file has been removed.
  } else if (entry->size > 0) {
    FinishPiece(entry);
  } else if (entry->stage == Stage::kWriting) {
    entry->state = nullptr;
    CountInMemory(*entry, -1);
    if (failed) {
      CountOnDisk(*entry, -1);
      if (!entry->dropped) ++stats_.write_failures;
      Erase(entry);
    } else if (entry->dropped) {
      Remove(entry);
    } else {
      entry->stage = Stage::kDisk;
      ++stats_.moved_to_disk;
      Rest(&disk_, entry, /*used_now=*/false);
    }
  } else {
    if (!failed && !entry->dropped) {
      entry->stage = Stage::kMemory;
      entry->has_file = true;
      ++stats_.read_from_disk;
      Rest(&memory_, entry, /*used_now=*/true);
      return;
    }
    if (!entry->dropped) ++stats_.read_failures;
    CountInMemory(*entry, -1);
    entry->state = nullptr;
    Remove(entry);
  }
}

absl::Status StateTiers::CheckIntegrity(const std::vector<uint64_t>& held) const {
  Tier memory, disk;
  int64_t resting = 0, on_disk = 0;
  size_t to_hold = 0;
  for (const auto& [id, entry] : entries_) {
    const Stage stage = entry->stage;
    if (stage == Stage::kMemory || stage == Stage::kWriting || stage == Stage::kReading ||
        stage == Stage::kPiece) {
      ++memory.states;
      memory.bytes += InMemory(*entry);
    }
    if (stage == Stage::kMemory ? entry->has_file : stage != Stage::kRemoving) {
      ++disk.states;
      disk.bytes += entry->bytes;
    }
    if (stage == Stage::kMemory) resting += entry->bytes;
    if (stage == Stage::kDisk) on_disk += entry->bytes;
    if (entry->id != id || (stage == Stage::kMemory && entry->state == nullptr)) {
      return absl::InternalError(absl::StrCat("state ", id, " has no bytes"));
    }
    to_hold += Find(id) != nullptr ? 1 : 0;
  }
  const auto agree = [](const Tier& counted, const Tier& found) {
    return counted.states == found.states && counted.bytes == found.bytes &&
           counted.bytes <= counted.limit;
  };
  if (!agree(stats_.memory, memory) || !agree(stats_.disk, disk) || memory_.resting != resting ||
      disk_.resting != on_disk) {
    return absl::InternalError(absl::StrCat(
        "states in memory: ", memory.states, " of ", memory.bytes, " bytes, counted ",
        stats_.memory.states, " of ", stats_.memory.bytes, " within ", stats_.memory.limit,
        "; on disk: ", disk.states, " of ", disk.bytes, ", counted ", stats_.disk.states, " of ",
        stats_.disk.bytes, " within ", stats_.disk.limit));
  }
  std::unordered_set<uint64_t> holds;
  for (uint64_t id : held) {
    if (Find(id) != nullptr && !holds.insert(id).second) {
      return absl::InternalError(absl::StrCat("state ", id, " is held twice"));
    }
  }
  if (holds.size() == to_hold) return absl::OkStatus();
  return absl::InternalError(
      absl::StrCat(to_hold, " states are kept, of which somebody holds ", holds.size()));
}

}  // namespace packrat
