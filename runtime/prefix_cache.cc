#include "runtime/prefix_cache.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "kernels/check.h"

namespace packrat {

struct PrefixCache::Node {
  std::vector<int32_t> edge;  // The text from the parent's end to this one's. Roots have none.
  int depth = 0;              // Tokens to its end.
  Node* parent = nullptr;     // Null: a root.
  std::map<int32_t, std::unique_ptr<Node>> children;  // By their first token.
  const std::string* space = nullptr;                 // Of a root: its key.
  Node *before = nullptr, *after = nullptr;           // In order of use.

  Snapshot snapshot;  // position 0: none.
  bool had_one = false;
  bool unread = false;
  uint64_t writer = 0;
  int importance = 0;
  double priority = 0;
  uint64_t last_use = 0;
  size_t kept_at = 0;  // In kept_.
  bool has_snapshot() const { return snapshot.position > 0; }
};

namespace {

// A node takes some 250 bytes, so many tokens take 256.
constexpr int kTokensPerNode = 64;

size_t SharedTokens(absl::Span<const int32_t> a, absl::Span<const int32_t> b) {
  const size_t most = std::min(a.size(), b.size());
  return std::mismatch(a.begin(), a.begin() + most, b.begin()).first - a.begin();
}

}  // namespace

PrefixCache::PrefixCache(StatePool* pool, int64_t max_tokens)
    : pool_(pool),
      max_tokens_(max_tokens),
      max_nodes_(16 + max_tokens / kTokensPerNode),
      list_(std::make_unique<Node>()) {
  list_->before = list_->after = list_.get();
}

PrefixCache::~PrefixCache() { Clear(); }

const Snapshot& PrefixCache::SnapshotAt(const Node* node) { return node->snapshot; }

PrefixCache::Found PrefixCache::Find(const std::string& space, absl::Span<const int32_t> text) {
  Found found;
  const auto root = spaces_.find(space);
  if (root == spaces_.end()) return found;
  Node* last = root->second.get();
  bool had_one = false;
  for (size_t at = 0; at < text.size();) {
    const auto next = last->children.find(text[at]);
    if (next == last->children.end()) break;
    Node* child = next->second.get();
    const size_t shared = SharedTokens(child->edge, text.subspan(at));
    at += shared;
    found.shared = static_cast<int>(at);
    last = child;
    if (shared < child->edge.size()) break;
    if (at == text.size()) break;  // The last token is computed in any case.
    if (child->has_snapshot() && !child->unread) found.node = child;
    had_one = had_one || child->had_one;
  }
  if (last->parent != nullptr) Touch(last);
  if (found.node != nullptr) {
    found.node->importance = std::max(found.node->importance, 0);
    SetPriority(found.node);
  }
  found.miss = found.node != nullptr                ? CacheMiss::kNone
               : had_one                            ? CacheMiss::kEvicted
               : found.shared >= kMinSnapshotTokens ? CacheMiss::kNoSnapshot
                                                    : CacheMiss::kFirstUse;
  return found;
}

// The new node at the first `at` tokens of the child's edge.
PrefixCache::Node* PrefixCache::Split(Node* child, size_t at) {
  auto middle = std::make_unique<Node>();
  middle->edge.assign(child->edge.begin(), child->edge.begin() + at);
  middle->parent = child->parent;
  middle->depth = child->depth - static_cast<int>(child->edge.size() - at);
  std::unique_ptr<Node>& below = middle->children[child->edge[at]];
  // From here on nothing is refused.
  std::unique_ptr<Node>& place = child->parent->children[child->edge[0]];
  below = std::move(place);
  child->parent = middle.get();
  child->edge.erase(child->edge.begin(), child->edge.begin() + at);
  place = std::move(middle);
  ++nodes_;
  LinkBefore(place.get(), child);
  return place.get();
}

PrefixCache::Node* PrefixCache::Remember(const std::string& space, absl::Span<const int32_t> text) {
  if (text.empty() || static_cast<int64_t>(text.size()) > max_tokens_) return nullptr;
  const auto root = spaces_.try_emplace(space).first;
  // A space without texts is none, also where there was no memory for its first.
  const absl::Cleanup forget_space = [&] {
    if (root->second == nullptr || root->second->children.empty()) spaces_.erase(root);
  };
  if (root->second == nullptr) {
    root->second = std::make_unique<Node>();
    root->second->space = &root->first;
  }
  Node* node = root->second.get();
  for (size_t at = 0; at < text.size();) {
    const auto next = node->children.find(text[at]);
    if (next == node->children.end()) {
      auto leaf = std::make_unique<Node>();
      leaf->edge.assign(text.begin() + at, text.end());
      leaf->parent = node;
      leaf->depth = static_cast<int>(text.size());
      Node* const added_leaf = leaf.get();
      node->children.emplace(text[at], std::move(leaf));
      tokens_ += static_cast<int64_t>(added_leaf->edge.size());
      ++nodes_;
      LinkBefore(added_leaf, list_->after);
      node = added_leaf;
      break;
    }
    Node* child = next->second.get();
    const size_t shared = SharedTokens(child->edge, text.subspan(at));
    at += shared;
    node = shared < child->edge.size() ? Split(child, shared) : child;
  }
  Touch(node);
  // The text itself stands before the others, its end last.
  while ((tokens_ > max_tokens_ || nodes_ > max_nodes_) && list_->before != node) {
    Forget(list_->before);
  }
  return node->has_snapshot() ? nullptr : node;
}

void PrefixCache::Put(Node* node, Snapshot* snapshot, uint64_t writer, int importance,
                      bool unread) {
  PACKRAT_CHECK(!node->has_snapshot() && snapshot->position == node->depth) << node->depth;
  if (unread) unread_.reserve(unread_.size() + 1);
  kept_.push_back(node);
  if (unread) unread_.push_back(node);
  node->kept_at = kept_.size() - 1;
  node->snapshot = std::exchange(*snapshot, Snapshot());
  node->unread = unread;
  node->had_one = node->had_one || !unread;
  node->writer = writer;
  node->importance = importance;
  for (Node* above = node->parent; importance > 0 && above != nullptr; above = above->parent) {
    if (above->importance > 0) above->importance = -1;
  }
  SetPriority(node);
}

void PrefixCache::Settle(uint64_t writer) {
  for (size_t i = unread_.size(); i-- > 0;) {
    Node* const node = unread_[i];
    if (node->writer != writer) continue;
    node->unread = false;
    node->had_one = true;
    unread_.erase(unread_.begin() + i);
  }
}

void PrefixCache::SetPriority(Node* node) {
  const Node* above = node->parent;
  while (above->parent != nullptr && (!above->has_snapshot() || above->importance < 0)) {
    above = above->parent;
  }
  const auto bytes =
      static_cast<double>(Snapshot::Bytes(pool_->layout(), node->depth, above->snapshot.position));
  const double worth = (node->depth - above->snapshot.position) / std::max(bytes, 1.0);
  node->priority = clock_ + worth * (node->importance > 0 ? kImportantWorth : 1);
  node->last_use = ++uses_;
}

void PrefixCache::Drop(Node* node) {
  PACKRAT_CHECK(node->has_snapshot());
  kept_.back()->kept_at = node->kept_at;
  std::swap(kept_[node->kept_at], kept_.back());
  kept_.pop_back();
  if (node->unread) unread_.erase(std::find(unread_.begin(), unread_.end(), node));
  node->unread = false;
  node->snapshot.Release(pool_);
}

void PrefixCache::DropOf(uint64_t writer) {
  for (size_t i = kept_.size(); i-- > 0;) {
    if (kept_[i]->writer == writer) Drop(kept_[i]);
  }
}

bool PrefixCache::DropOne() {
  if (kept_.empty()) return false;
  Node* const least =
      *std::min_element(kept_.begin(), kept_.end(), [](const Node* a, const Node* b) {
        const bool a_first = a->importance < 0, b_first = b->importance < 0;
        if (a_first != b_first) return a_first;
        return std::tie(a->priority, a->last_use) < std::tie(b->priority, b->last_use);
      });
  if (least->importance >= 0) clock_ = std::max(clock_, least->priority);
  Drop(least);
  ++dropped_;
  return true;
}

void PrefixCache::Clear() {
  while (!kept_.empty()) Drop(kept_.back());
  // From the leaves up: a tree as deep as its text is long must not be dropped by recursion.
  while (list_->before != list_.get()) Forget(list_->before);
}

void PrefixCache::Unlink(Node* node) {
  if (node->before == nullptr) return;
  node->before->after = node->after;
  node->after->before = node->before;
}

void PrefixCache::LinkBefore(Node* node, Node* next) {
  if (node == next) return;
  Unlink(node);
  node->before = next->before;
  node->after = next;
  node->before->after = node->after->before = node;
}

void PrefixCache::Touch(Node* node) {
  for (; node->parent != nullptr; node = node->parent) LinkBefore(node, list_->after);
}

// The least recently used has nothing below it, since whatever is used is used with all above it.
void PrefixCache::Forget(Node* leaf) {
  PACKRAT_CHECK(leaf->parent != nullptr && leaf->children.empty(), "forgets what is in use");
  if (leaf->has_snapshot()) {
    Drop(leaf);
    ++dropped_;
  }
  Unlink(leaf);
  tokens_ -= static_cast<int64_t>(leaf->edge.size());
  --nodes_;
  Node* const parent = leaf->parent;
  parent->children.erase(leaf->edge[0]);
  if (parent->parent == nullptr && parent->children.empty()) {
    spaces_.erase(spaces_.find(*parent->space));
  }
}

}  // namespace packrat
