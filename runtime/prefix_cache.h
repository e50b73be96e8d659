// The texts whose states are kept, so that a request whose prompt begins like one of them need not
// compute that part again: a radix tree of token ids for each space, with snapshots at some of its
// nodes. A space is whatever may share states (tenant, salt, options that change state); what lies
// in one is not seen from another, nor does anything tell whether it is there.
//
// Texts are remembered without a snapshot too, so that two prompts that begin alike show where a
// snapshot is worth it. Nodes are bounded in number and tokens: the least recently used are
// forgotten.
//
// What is dropped first where the pool needs parts: snapshots of negative importance, which nobody
// is expected to begin with; if somebody does, they are as others from then on. Then the one of
// least priority, which is the clock plus the tokens that it saves (beyond the next shorter
// snapshot of its text that is not dropped first) for each byte that it holds; using a snapshot
// renews its priority, dropping one sets the clock to that one's priority. So what is unused ages,
// dear ones faster (GreedyDual by size: Cao and Irani, 1997). Of positive importance a snapshot
// counts kImportantWorth times: it outlives many others, but what nobody comes back to does not
// stay for ever. Of equals the least recently used goes first.
//
// Where a session comes to a state, those of shorter texts on its way that were important have
// served their turn: they are dropped first, but for those that another session goes on from, a
// fork or one that has said the same (text_end.h). So have those of earlier requests from which the
// text goes on in this way alone and that nobody but this one began with: the earlier turns of a
// chat whose client sends all of it each time. A state that is on its way here in pieces counts as
// an important one that each piece uses; one that stands still ages.
//
// What is dropped for room goes into a lower tier (state_tiers.h), where there is one and the state
// is worth the way: one of positive importance, or one that several texts began with. Its node then
// has its number there. It comes back into the pool when a sequence begins with it. What the tiers
// take in pieces alone is written ahead, while it is in the pool: what goes first of that which one
// more of the longest sequence would take the place of. Its file stays when it comes back.
//
// Not thread-safe: it belongs to the engine's thread. It holds references to the pool's parts, the
// cache's.
#ifndef PACKRAT_RUNTIME_PREFIX_CACHE_H_
#define PACKRAT_RUNTIME_PREFIX_CACHE_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "runtime/outbox.h"
#include "runtime/saved_state.h"
#include "runtime/sequence_state.h"
#include "runtime/state_pool.h"
#include "runtime/state_tiers.h"
#include "runtime/text_end.h"

namespace packrat {

inline constexpr int kImportantWorth = 16;
// Texts that began with a state after which it is worth a lower tier whatever its importance. One
// is the turn that follows, which leaves a state of its own.
inline constexpr int kWorthMoving = 2;

class PrefixCache {
 public:
  // The pool outlives it. `max_tokens`: of all texts that it remembers, at 4 bytes each and as many
  // for the nodes. `tiers` outlives it too; null: there are none.
  PrefixCache(StatePool* pool, int64_t max_tokens, StateTiers* tiers = nullptr);
  ~PrefixCache();
  PrefixCache(const PrefixCache&) = delete;
  PrefixCache& operator=(const PrefixCache&) = delete;

  // A place in a text that has a snapshot or may get one. Good until the next call that is not
  // const, but that snapshots may be dropped under it.
  struct Node;

  // How far the text of somebody who goes on with it is remembered, so that only what comes after
  // is looked for. Good for as long as he likes.
  class Place {
    friend class PrefixCache;
    std::shared_ptr<Node*> node_;  // Null, or of null since it was forgotten: nowhere.
  };
  // Tokens of its text; 0: it is nowhere.
  static int DepthOf(const Place& place);
  static void SetPlace(Node* node, Place* place);  // Throws std::bad_alloc, then it is unchanged.

  struct Found {
    // Of the longest state of a proper prefix in the pool or in memory; null: none.
    Node* node = nullptr;
    int position = 0;         // Its tokens.
    Node* on_disk = nullptr;  // Of a longer one that must be fetched first; null: none.
    int shared = 0;           // Tokens that some remembered text begins with, too.
    CacheMiss miss = CacheMiss::kFirstUse;  // Why there is none, or kNone.
  };
  // Counts as use of what is found. `whole`: a state of all of the text counts too.
  Found Find(const std::string& space, absl::Span<const int32_t> text, bool whole = false);
  // Begins to bring the state of such a node within reach; see StateTiers::Fetch(). Its number, for
  // IsFetching(). Those that come in pieces come one after the other. Throws std::bad_alloc.
  uint64_t Fetch(Node* node, int tenant, double weight);
  bool IsFetching(uint64_t state) const;
  // Between two steps: takes a piece of a state that comes, true if there was one; and hands over
  // one of a state that is written ahead, where the pool has fewer free parts than `longest`, those
  // of the longest sequence; null: none is. An error says that the device is lost. Throws
  // std::bad_alloc.
  absl::StatusOr<bool> MovePieces(const PartCounts* longest);

  // The one in the pool; of position 0: there is none.
  static const Snapshot& SnapshotAt(const Node* node);
  // The snapshot of a node that was found, for somebody who begins with it: brought back into the
  // pool if it is in memory. Null: there is no room for it. Throws std::bad_alloc; it is then, and
  // where it is null, gone.
  const Snapshot* Use(Node* node);
  // The state of a node that was found, as bytes: all, or `size` of its parts from `at` on. An
  // error says that the device is lost.
  absl::StatusOr<SavedState> Read(const Node* node) const;
  absl::Status Read(const Node* node, size_t at, size_t size, std::string* bytes) const;
  // Which state of its text it is: one that is put there later has another number, above 0.
  static uint64_t StateOf(const Node* node);

  // Remembers a text. Its end, which may have a snapshot already; null: the text has no room.
  // Throws std::bad_alloc, then all is as before but for a part of the text. With a `place` of the
  // same space, `text` is what comes after it, and it becomes the end.
  Node* Remember(const std::string& space, absl::Span<const int32_t> text, Place* place = nullptr);
  // Keeps a snapshot where there is none. `writer`: see DropOf(). `unread`: the results of its last
  // step are not known, so nobody finds it before Settle(). One of importance, to who comes to
  // `ends.to`, makes those on its way that were important to nobody else the first to be dropped,
  // and takes the place of the writer's own (0: nobody's) that no text began with. Throws
  // std::bad_alloc, and has then not taken it.
  void Put(Node* node, Snapshot* snapshot, uint64_t writer, int importance, bool unread = false,
           const TurnEnds& ends = {});
  // A turn comes to where there is a snapshot already, so that this is important to it as well.
  // Throws std::bad_alloc, then nothing has changed.
  void Join(Node* node, uint64_t writer, int importance, const TurnEnds& ends);
  // All that the writer has left is good.
  void Settle(uint64_t writer);

  // A state that comes in pieces, under a number of the caller's; `at` 0 begins it. It takes parts
  // of the pool as its bytes come, and nobody finds it before PutIncoming(). RESOURCE_EXHAUSTED:
  // there is no room; ABORTED: it has had to give way. Nothing is left of it then. Throws
  // std::bad_alloc, likewise.
  absl::Status Write(uint64_t number, int position, int dial, size_t at, absl::string_view bytes);
  // All of it has come. Put() for whom `text` begins like its own, important to who stands at
  // `end`; ABORTED as above, or if nobody does any more.
  absl::Status PutIncoming(uint64_t number, const std::string& space,
                           absl::Span<const int32_t> text, const SeenTextEnd& end = {});
  void DropIncoming(uint64_t number);  // Any number.

  // Drops one snapshot: this one, those of one writer in whatever tier, or out of the pool the
  // least worth keeping; false: there is none.
  void Drop(Node* node);
  void DropOf(uint64_t writer);
  bool DropOne();
  // Those of the beginnings of a text, in whatever tier: one of them was bad.
  void DropAlong(const std::string& space, absl::Span<const int32_t> text);
  // All texts of the spaces that `gone` names, with their states: nobody will ask for them.
  void ForgetSpaces(const std::function<bool(const std::string& space)>& gone);
  void Clear();

  int64_t num_snapshots() const { return static_cast<int64_t>(kept_.size()); }
  int64_t num_nodes() const { return nodes_; }
  int64_t num_tokens() const { return tokens_; }    // That are remembered.
  int64_t num_dropped() const { return dropped_; }  // Snapshots, for room, and not moved.

  template <class F>  // visit(snapshot)
  void ForEachSnapshot(F visit) const {
    for (const Node* node : kept_) visit(SnapshotAt(node));
    if (arrival_.snapshot.position > 0) visit(arrival_.snapshot);
    for (const Incoming& incoming : incoming_) visit(incoming.snapshot);
  }
  // The numbers of states in lower tiers, some of which may be gone.
  std::vector<uint64_t> Moved() const;

 private:
  struct DroppedFirst {
    bool operator()(const Node* a, const Node* b) const;
  };
  std::vector<int32_t> TextOf(const Node* node) const;
  // What decides when its snapshot is dropped changes; allocates nothing.
  template <class F>
  void Reorder(Node* node, F change);
  double WorthOf(const Node* node) const;
  // Of a state beyond the first `before` tokens of its text.
  double WorthOf(int position, int before, int dial, bool important) const;
  void Keep(Node* node, Snapshot* snapshot);
  // Of a node: makes room for one who stands there; counts him; and what a turn that has come to it
  // leaves on its way.
  static void ReserveEnd(Node* node);
  void Stand(Node* node, int importance, const TurnEnds& ends);
  void LeaveBehind(Node* node, uint64_t writer, const TurnEnds& ends);
  // Of a state that is about to be dropped out of the pool: its number in tiers_, and room for it
  // in moved_. 0: it is not worth it, or there is no room.
  uint64_t MoveDown(const Node* node);
  bool IsWorthMoving(const Node* node) const;
  void ForgetMoved(Node* node);
  absl::StatusOr<bool> TakeArrived();
  absl::Status WriteAhead(const PartCounts& longest);
  Node* ToWriteAhead(const PartCounts& longest);  // Null: none.
  int64_t PartBytes(int position, int dial) const;
  void StartArrival();
  void EndArrival();
  Node* Split(Node* child, size_t at);
  void SetPriority(Node* node);
  // Somebody is about to begin with it, so that it does not go first.
  void Renew(Node* node);
  void Unlink(Node* node);
  void LinkBefore(Node* node, Node* next);  // In order of use.
  void Touch(Node* node);                   // And all above it.
  void Forget(Node* leaf);

  StatePool* const pool_;
  StateTiers* const tiers_;
  const int64_t max_tokens_, max_nodes_;
  // Not Abseil's maps, which end the process where there is no memory.
  std::unordered_map<std::string, std::unique_ptr<Node>> spaces_;  // The roots.
  // All but roots, most recently used first. A node stands before those below it.
  std::unique_ptr<Node> list_;          // The ring's own place.
  std::set<Node*, DroppedFirst> kept_;  // With a snapshot.
  std::vector<Node*> unread_;           // Of them, those that are not settled.
  std::vector<Node*> moved_;       // With a number in tiers_, which may be of a state that is gone.
  Node* written_ahead_ = nullptr;  // In kept_ and moved_; what is not there yet goes on there.
  int64_t written_bytes_ = 0;
  std::vector<int32_t> missing_;  // Scratch of ToWriteAhead(): parts by kind.
  // A state that comes in pieces: its parts of the pool, and how far they are filled.
  struct Arrival {
    Node* node = nullptr;  // Null: nothing comes.
    Snapshot snapshot;
    int64_t at = 0;
  };
  Arrival arrival_;
  struct Wanted {
    Node* node;
    int tenant;
    double weight;
  };
  std::vector<Wanted> wanted_;  // What comes after it.
  // States that others bring, and how far they have come. Each piece renews its priority.
  struct Incoming {
    uint64_t number = 0;
    Snapshot snapshot;
    size_t at = 0;
    double priority = 0;
    uint64_t last_use = 0;
  };
  std::vector<Incoming> incoming_;
  // Of this number, out of the list; of position 0: there is none.
  Incoming TakeIncoming(uint64_t number);
  const Incoming* LeastIncoming() const;  // Null: there is none.
  uint64_t last_state_ = 0;
  int64_t tokens_ = 0, nodes_ = 0;
  int64_t dropped_ = 0;
  uint64_t uses_ = 0;  // Of snapshots.
  double clock_ = 0;
};

}  // namespace packrat

#endif  // PACKRAT_RUNTIME_PREFIX_CACHE_H_
