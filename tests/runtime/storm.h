// A storm of conversations against an engine with little memory, with all that can happen to them
// in one batch: turns, retries, several choices, scores, forks, rewinds, dials that go coarser,
// priorities for which others are parked, cancellations, deadlines, slow readers, states that are
// saved and loaded in pieces or left half-way, forgotten ones, sequences that go bad, memory that
// is refused, a disk that damages what it has, and at the end a device that is lost or a server
// that gives up. In half of the engines states go on to memory and to that disk.
//
// Every text must be the model's as if it had been alone; after every step each reference must be
// accounted for, and what is free is poisoned.
#ifndef PACKRAT_TESTS_RUNTIME_STORM_H_
#define PACKRAT_TESTS_RUNTIME_STORM_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "runtime/engine.h"
#include "tests/runtime/consumer.h"
#include "tests/runtime/moving_states.h"

namespace packrat {

// The model that a storm is about, and what its texts must be.
class StormModel {
 public:
  virtual ~StormModel() = default;
  virtual LanguageModel* model() = 0;
  // Fails a test unless `seen`, which may have been cut off, is what `request` gets alone.
  virtual void Check(const Request& request, const Consumer& seen) = 0;
  // What a check wants to see beside tokens, and how they are drawn.
  virtual void Prepare(Request* request) {}
  // Options of the solver that change the state of a text.
  virtual SolverOptions other_solver() const { return {}; }
  // Tokens with which a sequence goes bad, or its logits alone; none: it has no such tokens.
  virtual std::vector<int32_t> bad_tokens() const { return {}; }
  // Whether its steps allocate, as those of an emulated device do, so that none may be refused.
  virtual bool allocates() const { return false; }
  // From here on no step succeeds. False: that cannot be made to happen.
  virtual bool Lose() { return false; }
};

// What has happened, to be sure that it has.
struct StormCounts {
  int64_t completed = 0, choices = 0, scored = 0, forks = 0, rewinds = 0, cancelled = 0;
  int64_t expired = 0, bad = 0, forgotten = 0, coarser = 0;
  int64_t no_memory = 0, ended_for_memory = 0, ended_with_all = 0;
};

class Storm {
 public:
  // `max_context`: of the engine, which the model allows; 200 at least.
  Storm(uint64_t seed, int max_context, StormModel* model, StormCounts* counts);

  // So many operations, each counted when it is asked for, taken or not, and to the end of all that
  // they have begun. `end`: 3: the device is lost; 4: the server gives up; else that of all texts.
  void Run(int operations, uint64_t end);

  EngineStats stats() const { return engine_->stats(); }
  const MovingStates& moving() const { return *moving_; }

 private:
  using Text = std::vector<int32_t>;
  // Whose turns come one after the other.
  struct Conversation {
    Text text;
    StateSpace space;
    bool busy = false;
  };
  struct Live {
    Consumer consumer;
    Request request;
    std::shared_ptr<Conversation> conversation;  // That it is a turn of; null: of none.
    bool bad = false, slow = false;
  };

  int Pick(size_t n) { return static_cast<int>(random_() % n); }
  // Tokens with which no sequence goes bad.
  Text RandomText(int size);
  bool Operate();  // False: there was nothing to do it to.
  std::shared_ptr<Conversation> Any();
  void Add(Conversation conversation);
  std::unique_ptr<Live> Make(const Conversation& from);
  // Of a request that goes on from there, if the model has several.
  TextDials DialsAfter(const Conversation& from, size_t prompt_tokens);
  bool Turn();
  bool Choices();
  bool Fork();
  bool Rewind();
  bool Forget();
  bool Save();
  bool Cancel();
  bool Damage();
  void Step(int refused = -1);
  void Reap();
  void Check(const Live& live);

  std::mt19937_64 random_;
  StormModel& model_;
  const int longest_;   // Text that goes on.
  std::string folder_;  // Empty: no tiers.
  std::vector<std::shared_ptr<Conversation>> conversations_, bad_;
  std::vector<std::unique_ptr<Live>> live_;
  std::optional<MovingStates> moving_;
  std::unique_ptr<Engine> engine_;  // At its end it answers those.
  HeldTextEnd ends_[4];
  uint64_t last_id_ = 0, last_origin_ = 0;
  const bool crowded_;
  bool ending_ = false;
  StormCounts& counts_;
  absl::Time now_ = absl::FromUnixSeconds(5000);
};

}  // namespace packrat

#endif  // PACKRAT_TESTS_RUNTIME_STORM_H_
