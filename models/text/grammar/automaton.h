// Walks a grammar byte by byte. A state is where a text may stand in the grammar: a list of nodes,
// each with the calls that it must return to. States get numbers and their transitions are
// remembered, so that a way that was gone before is a look into a table.
//
// What a state is follows from the grammar and the bytes alone, not from what was asked before.
//
// Every state can reach an end: ways that lead nowhere, or deeper than kMaxGrammarDepth, are not
// begun. Where a text can stand in more than kMaxPlaces places at once, there is no state: the
// grammar is too ambiguous.
#ifndef PACKRAT_MODELS_TEXT_GRAMMAR_AUTOMATON_H_
#define PACKRAT_MODELS_TEXT_GRAMMAR_AUTOMATON_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/types/span.h"
#include "models/text/grammar/grammar.h"

namespace packrat {

class GrammarAutomaton {
 public:
  using State = int32_t;
  static constexpr State kDead = -1;          // No text that begins so matches.
  static constexpr State kTooAmbiguous = -2;  // It can stand in too many places.
  static constexpr int kMaxPlaces = 4096;

  explicit GrammarAutomaton(std::shared_ptr<const Grammar> grammar);

  State start() const { return 0; }
  // Allocates where nobody has gone before. `state` is one, as below: not dead, not too ambiguous.
  State Next(State state, uint8_t byte) {
    const State next = transitions_[TransitionOf(state, byte)];
    return next != kUnknown ? next : Find(state, byte);
  }
  bool accepts(State state) const { return states_[state].accepts; }
  // Whether a byte can follow.
  bool goes_on(State state) const { return states_[state].num_places > 0; }
  int places(State state) const { return states_[state].num_places; }
  int num_classes() const { return grammar_->num_classes(); }
  const Grammar& grammar() const { return *grammar_; }
  // Whether the beginning alone stands in too many places; there is no state then.
  bool too_ambiguous() const { return states_.empty(); }
  // What was looked at so far to find states, each thing a few nanoseconds.
  int64_t work() const { return work_; }

  size_t bytes() const;  // Of memory, about.
  // Forgets all but `live` states and the start, which get the numbers that it writes there.
  void Forget(absl::Span<State> live);

 private:
  static constexpr State kUnknown = -3;
  // A call to return to, and those below it. Equal ones are one.
  struct Frame {
    int32_t node;    // At which the caller goes on.
    int32_t parent;  // -1: none.
    int32_t depth;   // With those below.
    uint64_t hash;   // Of the nodes.
  };
  struct Place {
    int32_t node;   // Of kBytes.
    int32_t frame;  // -1: the first rule.
  };
  struct Info {
    uint32_t first_place;
    int32_t num_places;
    bool accepts;
  };

  size_t TransitionOf(State state, uint8_t byte) const {
    return static_cast<size_t>(state) * grammar_->num_classes() + grammar_->ClassOf(byte);
  }
  uint64_t HashOf(int32_t frame) const { return frame < 0 ? 0 : frames_[frame].hash; }
  int32_t DepthOf(int32_t frame) const { return frame < 0 ? 0 : frames_[frame].depth; }
  int32_t Push(int32_t node, int32_t frame);
  State Find(State state, uint8_t byte);
  // Adds to new_places_ what is reached from here without a byte.
  void Reach(int32_t node, int32_t frame);
  // The state of what Reach() has found.
  State Intern();
  void Clear();  // Of the same.

  std::shared_ptr<const Grammar> grammar_;
  std::vector<Frame> frames_;
  absl::flat_hash_map<std::pair<int32_t, int32_t>, int32_t> frame_index_;
  std::vector<Info> states_;
  std::vector<Place> places_;
  std::vector<State> transitions_;  // (states, classes)
  absl::flat_hash_map<uint64_t, State> state_index_;
  int64_t work_ = 0;

  // Of the state that is being made.
  std::vector<Place> new_places_, left_;
  absl::flat_hash_set<std::pair<int32_t, int32_t>> reached_;
  bool new_accepts_ = false, new_too_many_ = false;
};

}  // namespace packrat

#endif  // PACKRAT_MODELS_TEXT_GRAMMAR_AUTOMATON_H_
