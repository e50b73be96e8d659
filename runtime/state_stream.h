// A state on its way out of an engine, and into one, in pieces.
#ifndef PACKRAT_RUNTIME_STATE_STREAM_H_
#define PACKRAT_RUNTIME_STATE_STREAM_H_

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/engine.h"
#include "runtime/saved_state.h"

namespace packrat {

// How an engine is asked: what waits, waits for a step of it, so never by the thread of Step().
struct StateLink {
  Engine* engine = nullptr;
  std::chrono::nanoseconds timeout{};     // Of a piece.
  int64_t piece_bytes = kMostPieceBytes;  // Of memory: one piece.
};

// The parts of a state that is kept. Not thread-safe.
class StateReader {
 public:
  StateReader() = default;  // There is none.
  // Of the longest beginning of a text. All of it is read once, for its hash. Where anything goes
  // wrong, or `gone` says before a piece that nobody wants it any more, there is none. Waits.
  static StateReader Open(const StateLink& link, StateSpace space, std::vector<int32_t> text,
                          const std::function<bool()>& gone = nullptr);

  int32_t position() const { return from_.position; }
  const PartsSeal& seal() const { return seal_; }
  // The next bytes, a piece; empty: the end. ABORTED: the state has had to give way meanwhile;
  // UNAVAILABLE: the engine is busy, or does no more. Waits.
  absl::StatusOr<std::string> Next();

 private:
  absl::StatusOr<StatePiece> Read();

  StateLink link_;
  StateSpace space_;
  Engine::SharedText text_;
  KeptState from_;
  PartsSeal seal_;
  std::string first_;  // All of a state that is one piece.
  int64_t at_ = 0;
};

// A state of `position` tokens with a dial that an engine is to keep. Not thread-safe.
class StateWriter {
 public:
  StateWriter(const StateLink& link, int32_t position, int32_t dial);
  ~StateWriter();
  StateWriter(const StateWriter&) = delete;
  StateWriter& operator=(const StateWriter&) = delete;

  // The next bytes of its parts. Errors of Engine::WriteState(), which stay; UNAVAILABLE also where
  // the engine is busy. Waits.
  absl::Status Write(std::string bytes);
  bool failed() const { return !status_.ok(); }
  // All of it was written, for who stands at `end`. Waits.
  absl::Status Keep(StateSpace space, std::vector<int32_t> text, SeenTextEnd end = {});

 private:
  const StateLink link_;
  const uint64_t number_;
  const int32_t position_, dial_;
  int64_t at_ = 0;
  bool kept_ = false;
  absl::Status status_;
};

}  // namespace packrat

#endif  // PACKRAT_RUNTIME_STATE_STREAM_H_
