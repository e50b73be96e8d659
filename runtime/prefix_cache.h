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
// stay for ever. Of equals the least recently used goes first. Where one is kept, the important
// ones of shorter texts on its way have served their turn: they are dropped first.
//
// Not thread-safe: it belongs to the engine's thread. It holds references to the pool's parts, the
// cache's, and reads and writes no memory of it.
#ifndef PACKRAT_RUNTIME_PREFIX_CACHE_H_
#define PACKRAT_RUNTIME_PREFIX_CACHE_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "absl/types/span.h"
#include "runtime/outbox.h"
#include "runtime/sequence_state.h"
#include "runtime/state_pool.h"

namespace packrat {

inline constexpr int kImportantWorth = 16;

class PrefixCache {
 public:
  // The pool outlives it. `max_tokens`: of all texts that it remembers, at 4 bytes each and as many
  // for the nodes.
  PrefixCache(StatePool* pool, int64_t max_tokens);
  ~PrefixCache();
  PrefixCache(const PrefixCache&) = delete;
  PrefixCache& operator=(const PrefixCache&) = delete;

  // A place in a text that has a snapshot or may get one. Good until the next call that is not
  // const, but that snapshots may be dropped under it.
  struct Node;

  struct Found {
    Node* node = nullptr;  // Of the longest snapshot of a proper prefix; null: none.
    int shared = 0;        // Tokens that some remembered text begins with, too.
    CacheMiss miss = CacheMiss::kFirstUse;  // Why there is none, or kNone.
  };
  // Counts as use of what is found.
  Found Find(const std::string& space, absl::Span<const int32_t> text);
  static const Snapshot& SnapshotAt(const Node* node);

  // Remembers a text. Its end, if there may be a snapshot; null: there is one already, or the text
  // has no room. Throws std::bad_alloc, then all is as before but for a part of the text.
  Node* Remember(const std::string& space, absl::Span<const int32_t> text);
  // Keeps a snapshot there. `writer`: see DropOf(). `unread`: the results of its last step are not
  // known, so nobody finds it before Settle(). One of importance makes those on its way that had
  // some the first to be dropped. Throws std::bad_alloc, and has then not taken it.
  void Put(Node* node, Snapshot* snapshot, uint64_t writer, int importance, bool unread = false);
  // All that the writer has left is good.
  void Settle(uint64_t writer);

  // Drops one snapshot: this one, those of one writer, or the least worth keeping; false: there is
  // none.
  void Drop(Node* node);
  void DropOf(uint64_t writer);
  bool DropOne();
  void Clear();

  int64_t num_snapshots() const { return static_cast<int64_t>(kept_.size()); }
  int64_t num_nodes() const { return nodes_; }
  int64_t num_tokens() const { return tokens_; }    // That are remembered.
  int64_t num_dropped() const { return dropped_; }  // Snapshots, for room.

  template <class F>  // visit(snapshot)
  void ForEachSnapshot(F visit) const {
    for (const Node* node : kept_) visit(SnapshotAt(node));
  }

 private:
  Node* Split(Node* child, size_t at);
  void SetPriority(Node* node);
  void Unlink(Node* node);
  void LinkBefore(Node* node, Node* next);  // In order of use.
  void Touch(Node* node);                   // And all above it.
  void Forget(Node* leaf);

  StatePool* const pool_;
  const int64_t max_tokens_, max_nodes_;
  // Not Abseil's maps, which end the process where there is no memory.
  std::unordered_map<std::string, std::unique_ptr<Node>> spaces_;  // The roots.
  // All but roots, most recently used first. A node stands before those below it.
  std::unique_ptr<Node> list_;  // The ring's own place.
  std::vector<Node*> kept_;     // With a snapshot.
  std::vector<Node*> unread_;   // Of them, those that are not settled.
  int64_t tokens_ = 0, nodes_ = 0;
  int64_t dropped_ = 0;
  uint64_t uses_ = 0;  // Of snapshots.
  double clock_ = 0;
};

}  // namespace packrat

#endif  // PACKRAT_RUNTIME_PREFIX_CACHE_H_
