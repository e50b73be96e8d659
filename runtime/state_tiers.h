// Where kept states go that the pool has no room for: as bytes into the process's memory, and from
// there into files of a folder (state_folder.h), each with a budget. They come back the same way: a
// file is read into memory, and out of memory a state is taken. A state is in one place at a time,
// but that its file is left until what was read of it goes on: removing one may take the disk
// longer than reading it, and who waits for a state is not to wait for that too.
//
// Who holds one has a number. A state that had to give way, or whose file could not be written or
// read, is gone: its number then names nothing, and nobody is told.
//
// Memory has three uses, and its budget counts them all: states at rest, those that a thread writes
// into the folder, and those that one reads. Beyond half of it what rests is written, so that what
// comes next finds room. What comes faster than it can be written is not kept.
//
// A state that is larger than all of this memory goes into the folder in pieces and comes back in
// pieces: nothing of it rests in memory, and it is there only once all of it is. Its file stays
// while the state is in the pool.
//
// What goes first, in memory and in the folder, is what the prefix cache would drop first: each of
// them has a clock of its own (prefix_cache.h).
//
// All calls come from one thread, the engine's, and none waits for the disk. Two threads do, one
// that reads and one that writes and removes; what they have done counts from the next Poll() on.
#ifndef PACKRAT_RUNTIME_STATE_TIERS_H_
#define PACKRAT_RUNTIME_STATE_TIERS_H_

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "runtime/mutex.h"
#include "runtime/saved_state.h"
#include "runtime/state_folder.h"

namespace packrat {

// What so many bytes take in a file.
int64_t WholeBlocks(int64_t bytes);

struct StateTierOptions {
  int64_t memory_bytes = 0;
  std::string folder;  // Empty: none.
  int64_t disk_bytes = 0;
};

class StateTiers {
 public:
  // `wake` is called by a thread of this object when Poll() has something to do. Errors of
  // StateFolder::Open().
  static absl::StatusOr<std::unique_ptr<StateTiers>> Open(const StateTierOptions& options,
                                                          const StateOwner& owner,
                                                          std::function<void()> wake);
  ~StateTiers();
  StateTiers(const StateTiers&) = delete;
  StateTiers& operator=(const StateTiers&) = delete;

  // Bytes of a file with a state at this position, with its text and whatever is beside it, in
  // whole blocks of the disk. It counts as much in memory.
  int64_t BytesOf(int position, int dial) const;
  // Whether a state of so many bytes could be kept, were nothing else there.
  bool Fits(int64_t bytes) const { return bytes <= stats_.memory.limit; }

  // Whether one of so many bytes could be kept in pieces, since memory is too small for it.
  bool FitsInPieces(int64_t bytes) const {
    return !Fits(bytes) && piece_bytes_ > 0 && bytes <= stats_.disk.limit;
  }

  // Whether there is room for a state of so many bytes: what rests and is worth least gives way for
  // it, and is gone or on its way to the disk. So that who asks first copies nothing in vain.
  bool MakeRoom(int64_t bytes);
  // Keeps a state whose text ends where it does; `worth` as of prefix_cache.h. 0: there is no room.
  // Throws std::bad_alloc, then nothing has changed.
  uint64_t Add(SavedState state, double worth);

  // Room on the disk for a state whose parts take `size` bytes at `position`; it is nowhere until
  // Append() has been given all of them. Errors as of Add().
  uint64_t AddInPieces(int position, int dial, int64_t size, double worth);
  // How many bytes of it Append() may be given now; 0: none, because of what is being written.
  int64_t Wants(uint64_t id) const;
  void Append(uint64_t id, std::string piece);

  enum class Place { kNowhere, kMemory, kDisk };
  Place PlaceOf(uint64_t id) const;
  bool IsInPieces(uint64_t id) const;
  // The bytes of a state in memory.
  std::shared_ptr<const SavedState> Get(uint64_t id) const;
  // Begins to bring a state from the disk into memory. Tenants take turns of bytes by their
  // weights, above 0, as in the scheduler; what one asks for comes in order.
  void Fetch(uint64_t id, int tenant, double weight);
  // Whether that goes on. Then it is in memory or nowhere, until the next call that is not const;
  // one that comes in pieces is back on the disk, or nowhere.
  bool IsFetching(uint64_t id) const;
  // Of a state that comes in pieces, one after the other: the one that is here, null: none is. Once
  // it is taken the next one is read. After the last: whether they are what was written; if not,
  // the state is gone.
  const std::string* Piece(uint64_t id) const;
  bool TakePiece(uint64_t id);
  // Nobody waits for its pieces any more.
  void StopFetching(uint64_t id);
  void Drop(uint64_t id);    // Any number.
  void Return(uint64_t id);  // Likewise; it is in the pool again.

  // Takes notice of what the threads have done.
  void Poll();
  // How often the disk has answered: what was read of it, by pieces, whatever came of it; and what
  // was written, while nothing was to be read, since memory to read into may wait for that. Who
  // waits for a state sees by it a disk that is slow, or has much to do, from one that is dead.
  int64_t answers() const { return answers_; }
  // Somebody has waited for a state so long, and waits no more: a failure to read.
  void HasNotAnswered(absl::Duration time);

  struct Tier {
    int64_t states = 0, bytes = 0, limit = 0;
  };
  struct Stats {
    Tier memory, disk;
    int64_t moved_to_memory = 0, moved_to_disk = 0;  // From the pool, from memory.
    int64_t read_from_disk = 0, returned = 0;        // To memory, to the pool.
    int64_t dropped = 0;                             // For want of room, after they were kept.
    int64_t read_failures = 0, write_failures = 0;
  };
  const Stats& stats() const { return stats_; }
  // By any thread: the last failure of the folder that nobody has asked for; OK: none.
  absl::Status TakeTrouble();

  // INTERNAL: what a budget counts is not what is there. `held`: the numbers that somebody
  // holds, some of states that are gone.
  absl::Status CheckIntegrity(const std::vector<uint64_t>& held) const;
  // For tests: until the threads have nothing to do, and Poll() neither.
  void WaitForThreads();

 private:
  enum class Stage {
    kMemory,    // At rest.
    kFilling,   // On the disk, but for pieces that are still to come.
    kWriting,   // In memory, all of it or a piece, with the writer. Counts in both.
    kDisk,      // At rest.
    kWanted,    // On the disk, and waits for memory to be read into.
    kReading,   // With the reader. Counts in both.
    kPiece,     // A piece of it is in memory, and waits to be taken. Counts in both.
    kRemoving,  // Counts in neither.
  };
  struct Entry;
  using Order = std::multimap<double, Entry*>;
  struct Entry {
    uint64_t id = 0;
    int64_t bytes = 0;
    int64_t size = 0;         // Of the parts of a state that goes in pieces; 0: it goes as a whole.
    int64_t at = 0;           // Of them, how far they have been written, or read again.
    int64_t piece_bytes = 0;  // Of the piece in memory.
    double worth = 0;
    Stage stage = Stage::kMemory;
    bool whole = true;                 // All of it has been written.
    bool has_file = false;             // At rest in memory, as it was read: counts in both.
    bool unwanted = false;             // Of the piece that is being read.
    double weight = 1;                 // Of the tenant that waits for it.
    std::atomic<bool> dropped{false};  // While a thread has it: nobody holds it any more.
    // At rest its place in an order, else the means to take one, so that only Add() allocates.
    Order::iterator place;
    Order::node_type node;
    Entry* next = nullptr;  // In a queue.
    // While it is wanted or read: whose turn, from where in the order of turns to where.
    int tenant = 0;
    double turn = 0, turn_end = 0;
    // The threads' own while they have it.
    std::shared_ptr<const SavedState> state;  // Null on the disk.
    StateFolder::Seal seal;
    std::string piece;
    uint64_t written_hash = 0, read_hash = 0;  // Of the pieces so far.
    absl::Status status;
  };
  struct Queue {
    Entry *first = nullptr, *last = nullptr;
    void Push(Entry* entry);
    void PushByTurn(Entry* entry);
    Entry* Pop();  // Null: empty.
    void Remove(const Entry* entry);
  };
  struct Budget {
    Tier* tier;           // All that counts.
    int64_t resting = 0;  // Bytes of what is in `order`.
    double clock = 0;
    Order order;
    bool Has(int64_t more) const { return tier->bytes + more <= tier->limit; }
  };

  StateTiers(const StateTierOptions& options, const StateOwner& owner,
             std::unique_ptr<StateFolder> folder, std::function<void()> wake);
  // What it takes in memory while it is there.
  static int64_t InMemory(const Entry& entry) {
    return entry.size > 0 ? entry.piece_bytes : entry.bytes;
  }
  void CountInMemory(const Entry& entry, int states);
  void CountOnDisk(const Entry& entry, int states);
  static void Rest(Budget* budget, Entry* entry, bool used_now);
  static void Lift(Budget* budget, Entry* entry);
  static Entry* LiftLeast(Budget* budget);  // Null: nothing rests.
  bool MakeRoomOnDisk(int64_t bytes);
  // Has the folder take what rests in memory beyond so many bytes.
  void WriteBeyond(int64_t resting);
  void Write(Entry* entry);
  void Remove(Entry* entry);
  void ReadWanted();
  void Want(Entry* entry);
  void Finish(Entry* entry);
  void FinishPiece(Entry* entry);
  void Erase(Entry* entry) { entries_.erase(entry->id); }
  Entry* Find(uint64_t id) const;  // Null: nobody holds it.
  void Hand(Entry* entry);
  // The threads.
  void Work(bool reads);
  absl::Status Do(Entry* entry);
  absl::Status DoPiece(Entry* entry) const;

  const StateLayout layout_;
  const int64_t header_bytes_;                 // Of a file, but for its text.
  const int64_t piece_bytes_;                  // At most; 0: no state goes in pieces.
  const std::unique_ptr<StateFolder> folder_;  // Null: none.
  const std::function<void()> wake_;
  std::unordered_map<uint64_t, std::unique_ptr<Entry>> entries_;
  uint64_t last_id_ = 0;
  Stats stats_;
  Budget memory_{&stats_.memory}, disk_{&stats_.disk};
  Queue wanted_;
  double turn_ = 0;  // Of what was handed to the reader last.
  // What the reader has: enough that it has work while a step goes on, and few for another tenant
  // to wait for.
  static constexpr size_t kMostReading = 8;
  std::vector<Entry*> reading_;
  std::atomic<int64_t> answers_{0};

  Mutex mutex_;
  std::condition_variable work_, done_;
  Queue to_read_ ABSL_GUARDED_BY(mutex_), to_write_ ABSL_GUARDED_BY(mutex_),
      finished_ ABSL_GUARDED_BY(mutex_);
  int busy_ ABSL_GUARDED_BY(mutex_) = 0;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status trouble_ ABSL_GUARDED_BY(mutex_);
  std::atomic<bool> any_finished_{false};
  std::thread reader_, writer_;  // The last.
};

}  // namespace packrat

#endif  // PACKRAT_RUNTIME_STATE_TIERS_H_
