#include "runtime/prefix_cache.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "kernels/check.h"
#include "runtime/no_memory.h"
#include "runtime/state_transfer.h"

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
  uint64_t moved = 0;  // Number in StateTiers; 0: none. It never has a snapshot too.
  uint64_t writer = 0;
  int importance = 0;
  int uses = 0;  // By texts that began with it.
  double priority = 0;
  uint64_t last_use = 0;
  size_t kept_at = 0;  // In kept_ or moved_.
  bool has_snapshot() const { return snapshot.position > 0; }
};

namespace {

// A node takes some 250 bytes, so many tokens take 256.
constexpr int kTokensPerNode = 64;

template <class Node>
void List(Node* node, std::vector<Node*>* in) {
  in->push_back(node);
  node->kept_at = in->size() - 1;
}
template <class Node>
void Unlist(Node* node, std::vector<Node*>* in) {
  in->back()->kept_at = node->kept_at;
  std::swap((*in)[node->kept_at], in->back());
  in->pop_back();
}

size_t SharedTokens(absl::Span<const int32_t> a, absl::Span<const int32_t> b) {
  const size_t most = std::min(a.size(), b.size());
  return std::mismatch(a.begin(), a.begin() + most, b.begin()).first - a.begin();
}

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
    const StateTiers::Place place =
        child->moved == 0 ? StateTiers::Place::kNowhere : tiers_->PlaceOf(child->moved);
    const bool in_pool = child->has_snapshot() && !child->unread;
    if (in_pool || place == StateTiers::Place::kMemory) {
      found.node = child;
      found.on_disk = 0;
      found.position = child->depth;
    } else if (place == StateTiers::Place::kDisk &&
               child->depth >=
                   found.position + kMinSnapshotTokens) {  // Else it is as soon computed.
      found.on_disk = child->moved;
    }
    had_one = had_one || child->had_one;
  }
  if (last->parent != nullptr) Touch(last);
  if (found.node != nullptr) {
    found.node->importance = std::max(found.node->importance, 0);
    if (found.node->has_snapshot()) SetPriority(found.node);
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
    absl::StatusOr<Snapshot> snapshot = WriteParts(state->position, state->parts, pool_);
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

absl::StatusOr<SavedState> PrefixCache::Read(const Node* node) const {
  if (!node->has_snapshot()) return *tiers_->Get(node->moved);
  SavedState state;
  state.tokens = TextOf(node);
  state.position = node->snapshot.position;
  const absl::Status status = ReadParts(node->snapshot, pool_, &state.parts);
  if (!status.ok()) return status;
  return state;
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
  ForgetMoved(node);
  if (unread) unread_.reserve(unread_.size() + 1);
  Keep(node, snapshot);
  if (unread) unread_.push_back(node);
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

void PrefixCache::Keep(Node* node, Snapshot* snapshot) {
  PACKRAT_CHECK(!node->has_snapshot() && snapshot->position == node->depth) << node->depth;
  PACKRAT_CHECK(node->moved == 0);
  List(node, &kept_);
  node->snapshot = std::exchange(*snapshot, Snapshot());
}

double PrefixCache::WorthOf(const Node* node) const {
  const Node* above = node->parent;
  while (above->parent != nullptr && (!above->has_snapshot() || above->importance < 0)) {
    above = above->parent;
  }
  const auto bytes =
      static_cast<double>(Snapshot::Bytes(pool_->layout(), node->depth, above->snapshot.position));
  const double worth = (node->depth - above->snapshot.position) / std::max(bytes, 1.0);
  return worth * (node->importance > 0 ? kImportantWorth : 1);
}

void PrefixCache::SetPriority(Node* node) {
  node->priority = clock_ + WorthOf(node);
  node->last_use = ++uses_;
}

void PrefixCache::Drop(Node* node) {
  PACKRAT_CHECK(node->has_snapshot());
  Unlist(node, &kept_);
  if (node->unread) unread_.erase(std::find(unread_.begin(), unread_.end(), node));
  node->unread = false;
  node->snapshot.Release(pool_);
}

void PrefixCache::ForgetMoved(Node* node) {
  if (node->moved == 0) return;
  tiers_->Drop(std::exchange(node->moved, 0));
  Unlist(node, &moved_);
}

void PrefixCache::DropOf(uint64_t writer) {
  for (size_t i = kept_.size(); i-- > 0;) {
    if (kept_[i]->writer == writer) Drop(kept_[i]);
  }
  for (size_t i = moved_.size(); i-- > 0;) {
    if (moved_[i]->writer == writer) ForgetMoved(moved_[i]);
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
  const uint64_t moved = MoveDown(least);
  Drop(least);
  if (moved == 0) {
    ++dropped_;
    return true;
  }
  least->moved = moved;
  List(least, &moved_);  // MoveDown() has made room.
  return true;
}

uint64_t PrefixCache::MoveDown(const Node* node) {
  const bool worth_it =
      node->importance > 0 || (node->importance == 0 && node->uses >= kWorthMoving);
  if (tiers_ == nullptr || !worth_it || node->unread || !tiers_->Fits(tiers_->BytesOf(node->depth)))
    return 0;
  uint64_t id = 0;
  (void)UnlessNoMemory([&] {
    if (moved_.size() == moved_.capacity()) moved_.reserve(2 * moved_.size() + 16);
    absl::StatusOr<SavedState> state = Read(node);
    if (state.ok()) id = tiers_->Add(*std::move(state), WorthOf(node));
    return absl::OkStatus();
  });
  return id;
}

std::vector<uint64_t> PrefixCache::Moved() const {
  std::vector<uint64_t> ids;
  for (const Node* node : moved_) ids.push_back(node->moved);
  return ids;
}

void PrefixCache::Clear() {
  while (!kept_.empty()) Drop(kept_.back());
  while (!moved_.empty()) ForgetMoved(moved_.back());
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
  if (leaf->moved != 0) {
    dropped_ += tiers_->PlaceOf(leaf->moved) != StateTiers::Place::kNowhere;
    ForgetMoved(leaf);
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
