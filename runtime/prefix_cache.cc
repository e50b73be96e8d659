#include "runtime/prefix_cache.h"

#include <algorithm>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "kernels/check.h"
#include "runtime/prefix_cache_node.h"
#include "runtime/state_transfer.h"

namespace packrat {
namespace {

// A node takes some 250 bytes, so many tokens take 256.
constexpr int kTokensPerNode = 64;

}  // namespace

PrefixCache::PrefixCache(StatePool* pool, int64_t max_tokens, StateTiers* tiers)
    : pool_(pool),
      tiers_(tiers),
      max_tokens_(max_tokens),
      max_nodes_(16 + max_tokens / kTokensPerNode),
      list_(std::make_unique<Node>()) {
  list_->before = list_->after = list_.get();
}

PrefixCache::~PrefixCache() { Clear(); }

const Snapshot& PrefixCache::SnapshotAt(const Node* node) { return node->snapshot; }

PrefixCache::Found PrefixCache::Find(const std::string& space, absl::Span<const int32_t> text,
                                     bool whole) {
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
    if (at == text.size() && !whole) break;  // The last token is computed in any case.
    const StateTiers::Place place =
        child->moved == 0 ? StateTiers::Place::kNowhere : tiers_->PlaceOf(child->moved);
    const bool in_pool = child->has_snapshot() && !child->unread;
    if (in_pool || place == StateTiers::Place::kMemory) {
      found.node = child;
      found.on_disk = nullptr;
      found.position = child->depth;
    } else if (place == StateTiers::Place::kDisk &&
               child->depth >=
                   found.position + kMinSnapshotTokens) {  // Else it is as soon computed.
      found.on_disk = child;
    }
    had_one = had_one || child->had_one;
  }
  if (last->parent != nullptr) Touch(last);
  if (found.node != nullptr) {
    Renew(found.node);
  }
  found.miss = found.node != nullptr                ? CacheMiss::kNone
               : had_one                            ? CacheMiss::kEvicted
               : found.shared >= kMinSnapshotTokens ? CacheMiss::kNoSnapshot
                                                    : CacheMiss::kFirstUse;
  return found;
}

const Snapshot* PrefixCache::Use(Node* node) {
  if (!node->has_snapshot()) {
    const std::shared_ptr<const SavedState> state = tiers_->Get(node->moved);
    tiers_->Return(node->moved);
    ForgetMoved(node);
    absl::StatusOr<Snapshot> snapshot = WriteParts(*state, pool_);
    if (!snapshot.ok()) {
      ++dropped_;
      return nullptr;
    }
    // Where it was not kept for want of memory.
    const absl::Cleanup give_back = [&] { snapshot->Release(pool_); };
    Keep(node, &*snapshot);
    SetPriority(node);
  }
  ++node->uses;
  return &node->snapshot;
}

std::vector<int32_t> PrefixCache::TextOf(const Node* node) const {
  std::vector<int32_t> text(node->depth);
  for (; node->parent != nullptr; node = node->parent) {
    std::copy(node->edge.begin(), node->edge.end(),
              text.begin() + (node->depth - static_cast<int>(node->edge.size())));
  }
  return text;
}

// The new node at the first `at` tokens of the child's edge.
PrefixCache::Node* PrefixCache::Split(Node* child, size_t at) {
  auto middle = std::make_unique<Node>();
  middle->edge = Edge(child->edge.begin(), child->edge.begin() + at);
  middle->parent = child->parent;
  middle->depth = child->depth - static_cast<int>(child->edge.size() - at);
  std::unique_ptr<Node>& below = middle->children[child->edge[at]];
  std::unique_ptr<Node>& place = child->parent->children[child->edge[0]];
  child->edge.DropFirst(at);
  // From here on nothing is refused.
  below = std::move(place);
  child->parent = middle.get();
  place = std::move(middle);
  ++nodes_;
  LinkBefore(place.get(), child);
  return place.get();
}

int PrefixCache::DepthOf(const Place& place) {
  return place.node_ == nullptr || *place.node_ == nullptr ? 0 : (*place.node_)->depth;
}

void PrefixCache::SetPlace(Node* node, Place* place) {
  if (node->place == nullptr) node->place = std::make_shared<Node*>(node);
  place->node_ = node->place;
}

PrefixCache::Node* PrefixCache::Remember(const std::string& space, absl::Span<const int32_t> text,
                                         Place* place) {
  const int from = place == nullptr ? 0 : DepthOf(*place);
  const int64_t tokens = from + static_cast<int64_t>(text.size());
  if (tokens == 0 || tokens > max_tokens_) return nullptr;
  const auto root = spaces_.try_emplace(space).first;
  // A space without texts is none, also where there was no memory for its first.
  const absl::Cleanup forget_space = [&] {
    if (root->second == nullptr || root->second->children.empty()) spaces_.erase(root);
  };
  if (root->second == nullptr) {
    root->second = std::make_unique<Node>();
    root->second->space = &root->first;
  }
  Node* node = from > 0 ? *place->node_ : root->second.get();
  for (size_t at = 0; at < text.size();) {
    const auto next = node->children.find(text[at]);
    if (next == node->children.end()) {
      auto leaf = std::make_unique<Node>();
      leaf->edge = Edge(text.begin() + at, text.end());
      leaf->parent = node;
      leaf->depth = static_cast<int>(tokens);
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
  if (place != nullptr) SetPlace(node, place);
  return node;
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

}  // namespace packrat
