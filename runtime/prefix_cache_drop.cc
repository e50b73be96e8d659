// Which states the prefix cache keeps, which it drops, and which move to a lower tier.
#include <algorithm>
#include <tuple>
#include <utility>

#include "kernels/check.h"
#include "runtime/no_memory.h"
#include "runtime/prefix_cache.h"
#include "runtime/prefix_cache_node.h"

namespace packrat {

// No two nodes have the same last use, so that none are equal.
bool PrefixCache::DroppedFirst::operator()(const Node* a, const Node* b) const {
  const bool a_stays = a->importance >= 0, b_stays = b->importance >= 0;
  return std::tie(a_stays, a->priority, a->last_use) < std::tie(b_stays, b->priority, b->last_use);
}

template <class F>
void PrefixCache::Reorder(Node* node, F change) {
  if (!node->has_snapshot()) return change();
  auto place = kept_.extract(node->kept_at);
  change();
  node->kept_at = kept_.insert(std::move(place)).position;
}

void PrefixCache::ReserveEnd(Node* node) {
  if (node->ends.size() < node->ends.capacity()) return;
  node->DropLeft();
  if (node->ends.size() == node->ends.capacity()) node->ends.reserve(2 * node->ends.size() + 1);
}

// What others stand at keeps its importance, whoever computes it again.
void PrefixCache::Stand(Node* node, int importance, const TurnEnds& ends) {
  node->DropLeft();
  const int least = node->ends.empty() ? importance : node->importance;
  if (importance > 0 && !ends.to.expired()) node->ends.push_back(ends.to);
  Reorder(node, [&] { node->importance = std::max(importance, least); });
}

void PrefixCache::LeaveBehind(Node* node, uint64_t writer, const TurnEnds& ends) {
  for (Node* above = node->parent; above != nullptr; above = above->parent) {
    if (above->importance <= 0) continue;
    above->DropLeft(ends);
    if (!above->ends.empty()) continue;
    Reorder(above, [&] { above->importance = -1; });
    const bool own = above->has_snapshot() && above->writer == writer && writer != 0;
    if (!own || above->uses > 0) continue;
    Drop(above);
    ForgetMoved(above);
  }
}

void PrefixCache::Join(Node* node, uint64_t writer, int importance, const TurnEnds& ends) {
  if (importance <= 0) return;
  ReserveEnd(node);
  Stand(node, std::max(importance, node->importance), ends);
  LeaveBehind(node, writer, ends);
  SetPriority(node);
}

void PrefixCache::Put(Node* node, Snapshot* snapshot, uint64_t writer, int importance, bool unread,
                      const TurnEnds& ends) {
  if (importance > 0) ReserveEnd(node);
  ForgetMoved(node);
  if (unread) unread_.reserve(unread_.size() + 1);
  Keep(node, snapshot);
  node->state = ++last_state_;
  if (unread) unread_.push_back(node);
  node->unread = unread;
  node->had_one = node->had_one || !unread;
  node->writer = writer;
  Stand(node, importance, ends);
  if (importance > 0) LeaveBehind(node, writer, ends);
  for (Node* above = node->parent; above->parent != nullptr && above->children.size() == 1;
       above = above->parent) {
    const bool others = above->has_snapshot() && above->writer != writer;
    if (others && above->importance == 0 && above->uses <= 1) {
      Reorder(above, [&] { above->importance = -1; });
    }
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
  snapshot->Seal(pool_);  // If it has come from elsewhere.
  node->kept_at = kept_.insert(node).first;
  node->snapshot = std::exchange(*snapshot, Snapshot());
}

double PrefixCache::WorthOf(const Node* node) const {
  const Node* above = node->parent;
  while (above->parent != nullptr && (!above->has_snapshot() || above->importance < 0)) {
    above = above->parent;
  }
  return WorthOf(node->depth, above->snapshot.position, node->snapshot.dial, node->importance > 0);
}

double PrefixCache::WorthOf(int position, int before, int dial, bool important) const {
  const StateLayout& layout = pool_->layout().ForDial(dial);
  const auto bytes = static_cast<double>(Snapshot::Bytes(layout, position, before));
  return (position - before) / std::max(bytes, 1.0) * (important ? kImportantWorth : 1);
}

const PrefixCache::Incoming* PrefixCache::LeastIncoming() const {
  const auto least = std::min_element(
      incoming_.begin(), incoming_.end(), [](const Incoming& a, const Incoming& b) {
        return std::tie(a.priority, a.last_use) < std::tie(b.priority, b.last_use);
      });
  return least == incoming_.end() ? nullptr : &*least;
}

void PrefixCache::SetPriority(Node* node) {
  Reorder(node, [&] {
    node->priority = clock_ + WorthOf(node);
    node->last_use = ++uses_;
  });
}

void PrefixCache::Renew(Node* node) {
  Reorder(node, [&] { node->importance = std::max(node->importance, 0); });
  if (node->has_snapshot()) SetPriority(node);
}

void PrefixCache::Drop(Node* node) {
  PACKRAT_CHECK(node->has_snapshot());
  kept_.erase(node->kept_at);
  if (node->unread) unread_.erase(std::find(unread_.begin(), unread_.end(), node));
  node->unread = false;
  node->snapshot.Release(pool_);
  const bool partly =
      node == written_ahead_ && tiers_->PlaceOf(node->moved) == StateTiers::Place::kNowhere;
  if (partly) ForgetMoved(node);
}

void PrefixCache::ForgetMoved(Node* node) {
  if (node->moved == 0) return;
  if (written_ahead_ == node) written_ahead_ = nullptr;
  wanted_.erase(std::remove_if(wanted_.begin(), wanted_.end(),
                               [node](const Wanted& wanted) { return wanted.node == node; }),
                wanted_.end());
  if (arrival_.node == node) EndArrival();
  tiers_->Drop(std::exchange(node->moved, 0));
  Unlist(node, &moved_);
}

void PrefixCache::DropOf(uint64_t writer) {
  for (auto at = kept_.begin(); at != kept_.end();) {
    Node* const node = *at++;
    if (node->writer == writer) Drop(node);
  }
  for (size_t i = moved_.size(); i-- > 0;) {
    if (moved_[i]->writer == writer) ForgetMoved(moved_[i]);
  }
}

void PrefixCache::DropAlong(const std::string& space, absl::Span<const int32_t> text) {
  const auto root = spaces_.find(space);
  if (root == spaces_.end()) return;
  const Node* node = root->second.get();
  for (size_t at = 0; at < text.size();) {
    const auto next = node->children.find(text[at]);
    if (next == node->children.end()) return;
    Node* const child = next->second.get();
    if (SharedTokens(child->edge, text.subspan(at)) < child->edge.size()) return;
    if (child->has_snapshot()) Drop(child);
    ForgetMoved(child);
    at += child->edge.size();
    node = child;
  }
}

void PrefixCache::ForgetSpaces(const std::function<bool(const std::string&)>& gone) {
  for (auto root = spaces_.begin(); root != spaces_.end();) {
    Node* node = root->second.get();
    const bool goes = gone(root->first);
    ++root;  // With its last text a space is erased.
    while (goes && node != nullptr) {
      while (!node->children.empty()) node = node->children.begin()->second.get();
      if (node->has_snapshot()) Drop(node);
      ForgetMoved(node);
      Node* const above = node->parent;
      const bool last = above->parent == nullptr && above->children.size() == 1;
      Forget(node);
      node = last ? nullptr : above;
    }
  }
}

bool PrefixCache::DropOne() {
  Node* const least = kept_.empty() ? nullptr : *kept_.begin();
  const Incoming* const coming = LeastIncoming();
  const bool coming_goes =
      coming != nullptr && (least == nullptr || (least->importance >= 0 &&
                                                 std::tie(coming->priority, coming->last_use) <
                                                     std::tie(least->priority, least->last_use)));
  if (coming_goes) {
    clock_ = std::max(clock_, coming->priority);
    DropIncoming(coming->number);
    return true;
  }
  if (least == nullptr) {
    if (arrival_.node == nullptr) return false;
    EndArrival();
    return true;
  }
  if (least->importance >= 0) clock_ = std::max(clock_, least->priority);
  if (least->moved != 0) {
    // It is on the disk already, or has not got there in time.
    const bool stays =
        IsWorthMoving(least) && tiers_->PlaceOf(least->moved) != StateTiers::Place::kNowhere;
    Drop(least);
    if (stays) return true;
    ForgetMoved(least);
    ++dropped_;
    return true;
  }
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

bool PrefixCache::IsWorthMoving(const Node* node) const {
  return !node->unread &&
         (node->importance > 0 || (node->importance == 0 && node->uses >= kWorthMoving));
}

uint64_t PrefixCache::MoveDown(const Node* node) {
  if (tiers_ == nullptr || !IsWorthMoving(node) ||
      !tiers_->MakeRoom(tiers_->BytesOf(node->depth, node->snapshot.dial))) {
    return 0;
  }
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
  while (!kept_.empty()) Drop(*kept_.begin());
  while (!moved_.empty()) ForgetMoved(moved_.back());
  while (!incoming_.empty()) DropIncoming(incoming_.back().number);
  // From the leaves up: a tree as deep as its text is long must not be dropped by recursion.
  while (list_->before != list_.get()) Forget(list_->before);
}

// The least recently used has nothing below it, since whatever is used is used with all above it.
void PrefixCache::Forget(Node* leaf) {
  PACKRAT_CHECK(leaf->parent != nullptr && leaf->children.empty(), "forgets what is in use");
  const bool moved =
      leaf->moved != 0 && tiers_->PlaceOf(leaf->moved) != StateTiers::Place::kNowhere;
  if (leaf->has_snapshot() || moved) ++dropped_;
  if (leaf->has_snapshot()) Drop(leaf);
  ForgetMoved(leaf);
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
