// A node of the prefix cache's tree. Private to prefix_cache.cc, which finds, prefix_cache_drop.cc,
// which keeps and drops, and prefix_cache_pieces.cc.
#ifndef PACKRAT_RUNTIME_PREFIX_CACHE_NODE_H_
#define PACKRAT_RUNTIME_PREFIX_CACHE_NODE_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "runtime/prefix_cache.h"

namespace packrat {

// The text from a node's parent to it. To drop its beginning takes, on average, no longer than what
// is dropped: a long prompt is cut every few thousand tokens.
class Edge {
 public:
  Edge() = default;
  template <class Iterator>
  Edge(Iterator begin, Iterator end) : tokens_(begin, end) {}
  const int32_t* data() const { return tokens_.data() + dropped_; }
  size_t size() const { return tokens_.size() - dropped_; }
  const int32_t* begin() const { return data(); }
  const int32_t* end() const { return data() + size(); }
  int32_t operator[](size_t i) const { return data()[i]; }
  // Throws std::bad_alloc, then it is unchanged.
  void DropFirst(size_t count) {
    if (dropped_ + count <= size() - count) {
      dropped_ += count;
      return;
    }
    tokens_ = std::vector<int32_t>(begin() + count, end());
    dropped_ = 0;
  }

 private:
  std::vector<int32_t> tokens_;  // The dropped ones still take room, as much as the rest at most.
  size_t dropped_ = 0;
};

struct PrefixCache::Node {
  Edge edge;                                          // Roots have none.
  int depth = 0;                                      // Tokens to its end.
  Node* parent = nullptr;                             // Null: a root.
  std::map<int32_t, std::unique_ptr<Node>> children;  // By their first token.
  const std::string* space = nullptr;                 // Of a root: its key.
  Node *before = nullptr, *after = nullptr;           // In order of use.

  Snapshot snapshot;   // position 0: none.
  uint64_t state = 0;  // StateOf(): of the snapshot, or of what has moved.
  bool had_one = false;
  bool unread = false;
  // Number in StateTiers; 0: none. It has a snapshot too only if it goes in pieces.
  uint64_t moved = 0;
  int moved_dial = 0;  // Of a state that goes in pieces.
  uint64_t writer = 0;
  int importance = 0;             // Above 0 if somebody stands here.
  std::vector<SeenTextEnd> ends;  // Who does; some may have left.
  int uses = 0;                   // By texts that began with it.
  double priority = 0;
  uint64_t last_use = 0;
  std::set<Node*, DroppedFirst>::iterator kept_at;
  size_t moved_at = 0;
  std::shared_ptr<Node*> place;  // What a Place of this node has; null: there has been none.
  ~Node() {
    if (place != nullptr) *place = nullptr;
  }
  bool has_snapshot() const { return snapshot.position > 0; }
  // Those who stand here, but for the session of a turn that comes past.
  void DropLeft(const TurnEnds& passing = {}) {
    const auto left = [&](const SeenTextEnd& end) {
      const bool its_own = IsSame(end, passing.from) && end.use_count() == 1;
      return its_own || IsSame(end, passing.to) || end.expired();
    };
    ends.erase(std::remove_if(ends.begin(), ends.end(), left), ends.end());
  }
};

// Of a list in which a node knows its place.
template <class Node>
void List(Node* node, std::vector<Node*>* in) {
  in->push_back(node);
  node->moved_at = in->size() - 1;
}
template <class Node>
void Unlist(Node* node, std::vector<Node*>* in) {
  in->back()->moved_at = node->moved_at;
  std::swap((*in)[node->moved_at], in->back());
  in->pop_back();
}

inline size_t SharedTokens(absl::Span<const int32_t> a, absl::Span<const int32_t> b) {
  const size_t most = std::min(a.size(), b.size());
  return std::mismatch(a.begin(), a.begin() + most, b.begin()).first - a.begin();
}

}  // namespace packrat

#endif  // PACKRAT_RUNTIME_PREFIX_CACHE_NODE_H_
