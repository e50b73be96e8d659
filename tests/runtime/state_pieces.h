// States that leave an engine and come to one as a whole, for tests that step it by hand.
#ifndef PACKRAT_TESTS_RUNTIME_STATE_PIECES_H_
#define PACKRAT_TESTS_RUNTIME_STATE_PIECES_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "runtime/engine.h"
#include "runtime/saved_state.h"

namespace packrat {

inline Engine::SharedText Shared(std::vector<int32_t> text) {
  return std::make_shared<const std::vector<int32_t>>(std::move(text));
}

// In one piece, however large. What the engine calls takes no memory, so that tests may refuse it.
inline void SaveWhole(Engine* engine, const StateSpace& space, const std::vector<int32_t>& text,
                      const std::function<void(absl::StatusOr<SavedState>)>& done) {
  const auto state = std::make_shared<SavedState>();
  state->tokens = text;
  state->solver = space.solver;
  state->dials = space.dials;
  engine->ReadState(space, Shared(text), {}, 0, int64_t{1} << 40,
                    [state, done](absl::StatusOr<StatePiece> piece) {
                      if (!piece.ok()) return done(piece.status());
                      state->position = piece->from.position;
                      state->parts = std::move(piece->bytes);
                      done(std::move(*state));
                    });
}

inline void LoadWhole(Engine* engine, const StateSpace& space, const SavedState& state,
                      const std::function<void(const absl::Status&)>& done) {
  if (state.position == 0) return done(absl::OkStatus());
  const uint64_t number = Engine::NewStateNumber();
  const auto written = std::make_shared<absl::Status>();
  engine->WriteState(number, state.position, state.dials.last, 0, state.parts,
                     [=](absl::Status status) { *written = std::move(status); });
  engine->KeepState(number, space, Shared(state.tokens),
                    [=](const absl::Status& status) { done(written->ok() ? status : *written); });
}

}  // namespace packrat

#endif  // PACKRAT_TESTS_RUNTIME_STATE_PIECES_H_
