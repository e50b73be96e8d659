// States on their way out of an engine and into it, in pieces of any size, several at once, for a
// test that steps the engine by hand: some are cut off, some left half-way.
#ifndef PACKRAT_TESTS_RUNTIME_MOVING_STATES_H_
#define PACKRAT_TESTS_RUNTIME_MOVING_STATES_H_

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <random>
#include <tuple>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "runtime/engine.h"
#include "runtime/saved_state.h"
#include "tests/runtime/state_pieces.h"

namespace packrat {

class MovingStates {
 public:
  struct Whose {
    std::vector<int32_t> text;
    StateSpace space;
  };

  // Outlives the engine, which at its end answers what it was asked.
  MovingStates(Engine* engine, const StateLayout* layout, std::mt19937_64* random)
      : engine_(*engine),
        layout_(*layout),
        random_(*random),
        most_piece_(std::max<size_t>(6000, layout->SequenceBytes(300) / 8)) {}

  // What is kept of a text leaves.
  void Save(Whose of) {
    moving_.push_back(std::make_unique<Moving>());
    moving_.back()->of = std::move(of);
    Ask(moving_.back().get());
  }
  // One that has left comes, when the engine's own may be gone: to where it was, or, with another
  // origin than 0, as what a client brings. False: none has.
  bool Load(uint64_t origin) {
    if (saved_.empty()) return false;
    moving_.push_back(std::make_unique<Moving>());
    Moving* const comes = moving_.back().get();
    std::tie(comes->of, comes->state) = saved_[Pick(saved_.size())];
    if (origin != 0) comes->of.space.origin = origin;
    comes->number = Engine::NewStateNumber();
    Give(comes);
    return true;
  }
  // Whatever has an answer goes on, or is over. Returns whose states have come.
  std::vector<Whose> MoveOn() {
    std::vector<Whose> come;
    for (size_t i = 0; i < moving_.size();) {
      Moving* const one = moving_[i].get();
      const bool over = one->number != 0 ? HasCome(one, &come) : HasLeft(one);
      if (over) {
        moving_.erase(moving_.begin() + static_cast<std::ptrdiff_t>(i));
      } else {
        ++i;
      }
    }
    return come;
  }

  int64_t saved() const { return num_saved_; }
  int64_t loaded() const { return num_loaded_; }
  int64_t cut_off() const { return num_cut_off_; }      // Had to give way on their way.
  int64_t abandoned() const { return num_abandoned_; }  // By who brought them.

 private:
  struct Moving {
    Whose of;
    SavedState state;
    KeptState which;      // Of one that leaves.
    uint64_t number = 0;  // Of one that comes; 0: it leaves.
    int64_t at = 0, size = 0;
    bool last = false;
    // What the engine says. It takes no memory, which tests may refuse.
    std::optional<absl::StatusOr<StatePiece>> piece;
    std::optional<absl::Status> taken;
  };

  int Pick(size_t n) { return static_cast<int>(random_() % n); }

  void Ask(Moving* one) {
    one->size = 1 + Pick(most_piece_);
    one->piece.reset();
    engine_.ReadState(
        one->of.space, Shared(one->of.text), one->which, one->at, one->size,
        [one](absl::StatusOr<StatePiece> piece) { one->piece.emplace(std::move(piece)); });
  }
  void Give(Moving* one) {
    one->taken.reset();
    const auto took = [one](absl::Status status) { one->taken.emplace(std::move(status)); };
    const SavedState& state = one->state;
    const auto left = static_cast<int64_t>(state.parts.size()) - one->at;
    one->last = left == 0;
    if (one->last) {
      one->of.text.resize(state.position);
      engine_.KeepState(one->number, one->of.space, Shared(one->of.text), took);
      return;
    }
    const int64_t size = std::min<int64_t>(1 + Pick(most_piece_), left);
    engine_.WriteState(one->number, state.position, one->of.space.dials.last, one->at,
                       state.parts.substr(one->at, size), took);
    one->at += size;
  }

  // Whether that is its end.
  bool HasLeft(Moving* one) {
    if (!one->piece.has_value()) return false;
    if (!one->piece->ok()) {
      CheckRefusal(one->piece->status());
      return true;
    }
    const StatePiece& piece = **one->piece;
    one->which = piece.from;
    if (piece.from.position == 0) return true;
    SavedState& state = one->state;
    state.position = piece.from.position;
    state.parts += piece.bytes;
    one->at += static_cast<int64_t>(piece.bytes.size());
    if (static_cast<int64_t>(piece.bytes.size()) == one->size) {
      Ask(one);
      return false;
    }
    const StateLayout& layout = layout_.ForDial(one->of.space.dials.last);
    EXPECT_EQ(state.parts.size(), SavedPartBytes(layout, state.position));
    ++num_saved_;
    saved_.emplace_back(one->of, std::move(state));
    if (saved_.size() > 8) saved_.erase(saved_.begin());
    return true;
  }
  bool HasCome(Moving* one, std::vector<Whose>* come) {
    if (!one->taken.has_value()) return false;
    if (!one->taken->ok()) {
      CheckRefusal(*one->taken);
      return true;
    }
    if (one->last) {
      ++num_loaded_;
      come->push_back(one->of);
      return true;
    }
    if (Pick(20) == 0) {
      engine_.DropState(one->number);
      ++num_abandoned_;
      return true;
    }
    Give(one);
    return false;
  }
  void CheckRefusal(const absl::Status& status) {
    num_cut_off_ += absl::IsAborted(status);
    EXPECT_TRUE(absl::IsAborted(status) || absl::IsResourceExhausted(status) ||
                absl::IsUnavailable(status))
        << status;
  }

  Engine& engine_;
  const StateLayout& layout_;
  std::mt19937_64& random_;
  const size_t most_piece_;  // Bytes, so that a state goes in several, but not in hundreds.
  std::vector<std::unique_ptr<Moving>> moving_;
  std::vector<std::pair<Whose, SavedState>> saved_;
  int64_t num_saved_ = 0, num_loaded_ = 0, num_cut_off_ = 0, num_abandoned_ = 0;
};

}  // namespace packrat

#endif  // PACKRAT_TESTS_RUNTIME_MOVING_STATES_H_
