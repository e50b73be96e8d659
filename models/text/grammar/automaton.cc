#include "models/text/grammar/automaton.h"

#include <algorithm>

#include "kernels/check.h"

namespace packrat {
namespace {

using Kind = Grammar::Node::Kind;

// Places, splits and calls that are followed for one state: about a millisecond.
constexpr size_t kMaxReached = size_t{4} * GrammarAutomaton::kMaxPlaces;

uint64_t Mix(uint64_t a, uint64_t b) {
  uint64_t x = (a ^ (b + 0x9E3779B97F4A7C15u + (a << 6) + (a >> 2))) * 0xBF58476D1CE4E5B9u;
  x ^= x >> 29;
  x *= 0x94D049BB133111EBu;
  return x ^ (x >> 32);
}

}  // namespace

GrammarAutomaton::GrammarAutomaton(std::shared_ptr<const Grammar> grammar)
    : grammar_(std::move(grammar)) {
  Reach(grammar_->start(), -1);
  Intern();
}

int32_t GrammarAutomaton::Push(int32_t node, int32_t frame) {
  const auto known = frame_index_.find({node, frame});
  if (known != frame_index_.end()) return known->second;
  const auto number = static_cast<int32_t>(frames_.size());
  const uint64_t hash = Mix(HashOf(frame), static_cast<uint64_t>(node) + 1);
  frames_.push_back({node, frame, DepthOf(frame) + 1, hash});
  frame_index_[{node, frame}] = number;
  return number;
}

void GrammarAutomaton::Reach(int32_t node, int32_t frame) {
  left_.push_back({node, frame});
  while (!left_.empty()) {
    const Place at = left_.back();
    left_.pop_back();
    if (new_places_.size() > static_cast<size_t>(kMaxPlaces) || reached_.size() > kMaxReached) {
      new_too_many_ = true;
      left_.clear();
      return;
    }
    if (at.node == Grammar::kReturnNode) {
      if (at.frame < 0) {
        new_accepts_ = true;
      } else {
        left_.push_back({frames_[at.frame].node, frames_[at.frame].parent});
      }
      continue;
    }
    if (at.node < 0) continue;
    const Grammar::Node& way = grammar_->nodes()[at.node];
    // A way that has no end within the depth that is left.
    if (way.height == Grammar::kNoWay || DepthOf(at.frame) + way.height > kMaxGrammarDepth)
      continue;
    if (!reached_.insert({at.node, at.frame}).second) continue;
    switch (way.kind) {
      case Kind::kReturn:
        break;
      case Kind::kBytes:
        new_places_.push_back(at);
        break;
      case Kind::kSplit:
        left_.push_back({way.next, at.frame});
        if (way.other != way.next) left_.push_back({way.other, at.frame});
        break;
      case Kind::kCall:
        // Nothing is left to do in a rule that ends with a call: its caller is returned to.
        left_.push_back(
            {way.other, way.next == Grammar::kReturnNode ? at.frame : Push(way.next, at.frame)});
        break;
    }
  }
}

GrammarAutomaton::State GrammarAutomaton::Find(State state, uint8_t byte) {
  const Info from = states_[state];
  Clear();  // What was left behind where there was no memory.
  // The bytes around this one that lead to the same state.
  uint8_t low = 0, high = 255;
  for (int i = 0; i < from.num_places; ++i) {
    const Place place = places_[from.first_place + i];
    const Grammar::Node& node = grammar_->nodes()[place.node];
    if (byte < node.first) {
      high = std::min<uint8_t>(high, node.first - 1);
    } else if (byte > node.last) {
      low = std::max<uint8_t>(low, node.last + 1);
    } else {
      low = std::max(low, node.first);
      high = std::min(high, node.last);
      if (!new_too_many_) Reach(node.next, place.frame);
    }
  }
  work_ += 1 + from.num_places;
  const State next = Intern();
  std::fill(transitions_.begin() + static_cast<ptrdiff_t>(TransitionOf(state, low)),
            transitions_.begin() + static_cast<ptrdiff_t>(TransitionOf(state, high)) + 1, next);
  return next;
}

GrammarAutomaton::State GrammarAutomaton::Intern() {
  work_ += static_cast<int64_t>(4 * reached_.size() + 4 * new_places_.size());
  const bool accepts = new_accepts_;
  if (new_too_many_) {
    Clear();
    return kTooAmbiguous;
  }
  if (new_places_.empty() && !accepts) return kDead;
  // In an order that does not depend on the frames' numbers, which come from the past.
  std::sort(new_places_.begin(), new_places_.end(), [this](const Place& a, const Place& b) {
    return a.node != b.node ? a.node < b.node : HashOf(a.frame) < HashOf(b.frame);
  });
  uint64_t hash = accepts ? 1 : 2;
  for (const Place& place : new_places_) {
    hash = Mix(hash, Mix(HashOf(place.frame), static_cast<uint64_t>(place.node)));
  }
  const auto is_same = [&](State state) {
    const Info& info = states_[state];
    return info.accepts == accepts && static_cast<size_t>(info.num_places) == new_places_.size() &&
           std::equal(new_places_.begin(), new_places_.end(), places_.begin() + info.first_place,
                      [](const Place& a, const Place& b) {
                        return a.node == b.node && a.frame == b.frame;
                      });
  };
  auto known = state_index_.find(hash);
  for (; known != state_index_.end(); known = state_index_.find(++hash)) {
    if (!is_same(known->second)) continue;
    Clear();
    return known->second;
  }
  // In an order in which nothing that there is no memory for leaves a part behind.
  const auto number = static_cast<State>(states_.size());
  work_ += 16 + grammar_->num_classes() / 4;
  const auto first_place = static_cast<uint32_t>(places_.size());
  places_.insert(places_.end(), new_places_.begin(), new_places_.end());
  transitions_.resize((states_.size() + 1) * grammar_->num_classes(), kUnknown);
  states_.push_back({first_place, static_cast<int32_t>(new_places_.size()), accepts});
  state_index_[hash] = number;
  Clear();
  return number;
}

void GrammarAutomaton::Clear() {
  new_places_.clear();
  left_.clear();
  reached_.clear();
  new_accepts_ = new_too_many_ = false;
}

size_t GrammarAutomaton::bytes() const {
  // Of the indexes what their tables take, half full.
  return frames_.size() * (sizeof(Frame) + 2 * 13) + states_.size() * (sizeof(Info) + 2 * 17) +
         places_.size() * sizeof(Place) + transitions_.size() * sizeof(State);
}

void GrammarAutomaton::Forget(absl::Span<State> live) {
  GrammarAutomaton fresh(grammar_);
  std::vector<int32_t> moved(frames_.size(), -1), path;
  for (State& state : live) {
    PACKRAT_CHECK(state >= 0 && state < static_cast<State>(states_.size())) << state;
    const Info& info = states_[state];
    for (int i = 0; i < info.num_places; ++i) {
      const Place& place = places_[info.first_place + i];
      path.clear();
      for (int32_t f = place.frame; f >= 0 && moved[f] < 0; f = frames_[f].parent)
        path.push_back(f);
      for (; !path.empty(); path.pop_back()) {
        const Frame& frame = frames_[path.back()];
        moved[path.back()] = fresh.Push(frame.node, frame.parent < 0 ? -1 : moved[frame.parent]);
      }
      fresh.new_places_.push_back({place.node, place.frame < 0 ? -1 : moved[place.frame]});
    }
    fresh.new_accepts_ = info.accepts;
    state = fresh.Intern();
  }
  fresh.work_ += work_;
  *this = std::move(fresh);
}

}  // namespace packrat
