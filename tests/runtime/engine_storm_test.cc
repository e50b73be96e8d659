// A storm of conversations against small engines with little memory, with all that can happen to
// them in one batch: turns, retries, several choices, scores, forks, rewinds, priorities for which
// others are parked, cancellations, deadlines, slow readers, states that are saved and loaded in
// pieces or left half-way, forgotten ones, sequences that go bad, memory that is refused, a disk
// that damages what it has, and at the end a device that is lost or a server that gives up. In half
// of the engines states go on to memory and to that disk.
//
// Every text must be the model's, to the token, as if it had been alone; after every step each
// reference must be accounted for. What is free is poisoned, and the fake model says whether a
// state is another's, late or stale.
#include <algorithm>
#include <array>
#include <filesystem>
#include <iterator>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <system_error>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "runtime/engine.h"
#include "tests/runtime/consumer.h"
#include "tests/runtime/fake_model.h"
#include "tests/runtime/moving_states.h"
#include "tests/tools/allocations.h"

namespace packrat {
namespace {

using Text = std::vector<int32_t>;

// Of all engines together, beside what an engine does by itself: 7 s, and 40 s with
// AddressSanitizer.
constexpr int kOperations = 100000;
constexpr int kEngines = 40;

// Whose turns come one after the other.
struct Conversation {
  Text text;
  StateSpace space;
  bool busy = false;
};

struct Live {
  Consumer consumer;
  Text prompt;
  uint64_t id = 0;
  std::shared_ptr<Conversation> conversation;  // That it is a turn of; null: of none.
  int score_from = 0;                          // 0: nothing is scored.
  bool bad = false, slow = false;
};

// What has happened, to be sure that it has.
struct Counts {
  int64_t completed = 0, choices = 0, scored = 0, forks = 0, rewinds = 0, cancelled = 0;
  int64_t expired = 0, bad = 0, forgotten = 0;
  int64_t no_memory = 0, ended_for_memory = 0, ended_with_all = 0;
};

class Storm {
 public:
  Storm(uint64_t seed, const FakeModel::Options& model_options, Counts* counts)
      : random_(seed), model_(model_options), crowded_(seed % 3 == 0), counts_(*counts) {
    EngineOptions options;
    options.max_running = 1 + Pick(8);
    options.max_queue = 12;
    options.max_batch_tokens = 16 + Pick(48);
    options.max_context = 300;
    options.cache_sequences = Pick(3) * Pick(6);
    options.poison_freed_state = true;
    const auto longest = static_cast<int64_t>(model_.state_layout().SequenceBytes(300));
    // None, little or much.
    options.park_memory = longest * std::array{0, 1, 3, 20}[Pick(4)] / 2;
    options.state_bytes = longest * (2 + Pick(30)) / 2;
    if (seed % 4 < 2) {
      folder_ = ::testing::TempDir() + "storm_states";
      options.state_dir = folder_;
      options.state_host_memory = options.state_bytes * (1 + Pick(4)) / 12;
      // Nothing rests there, and all goes in pieces.
      if (seed % 8 == 1) options.state_host_memory = 1 + Pick(8 << 10);
      options.state_disk = options.state_bytes * (1 + Pick(8)) / 4;
    }
    engine_ = *Engine::Create(&model_, nullptr, options);
    moving_.emplace(engine_.get(), &model_.state_layout(), &random_);
  }

  // So many operations, and to the end of all that they have begun.
  void Run(int operations, uint64_t end) {
    while (operations > 0 && !::testing::Test::HasFailure()) {
      operations -= Operate();
      for (MovingStates::Whose& whose : moving_->MoveOn()) Add({whose.text, whose.space});
      // Several between two steps, or many steps between two.
      for (int steps = Pick(crowded_ ? 3 : 7); steps > 0; --steps) Step();
    }
    if (end == 3) model_.wait_status = absl::UnavailableError("the device is gone");
    if (end == 4) engine_->AbortAll(absl::UnavailableError("no more of this"));
    ending_ = end >= 3;
    while (!engine_->idle() && !::testing::Test::HasFailure()) Step();
    if (::testing::Test::HasFailure()) return;
    for (auto& live : live_) {
      live->slow = false;
      live->consumer.Poll();
    }
    Reap();
    EXPECT_TRUE(live_.empty());
    for (const EngineStats::Pool& pool : engine_->stats().pools) EXPECT_EQ(pool.used, 0);
    EXPECT_EQ(engine_->stats().parking.bytes, 0);
  }

  EngineStats stats() const { return engine_->stats(); }
  const MovingStates& moving() const { return *moving_; }

 private:
  int Pick(size_t n) { return static_cast<int>(random_() % n); }

  // False: there was nothing to do it to. Each is counted when it is asked for, taken or not.
  bool Operate() {
    const int turns = crowded_ ? 60 : 15;
    int which = Pick(turns + 44);
    const auto is = [&which](int weight) { return (which -= weight) < 0; };
    if (is(turns)) return Turn();
    if (is(4)) return Choices();
    if (is(5)) return Fork();
    if (is(5)) return Rewind();
    if (is(2)) return Forget();
    if (is(6)) return Cancel();
    if (is(8)) return Save();
    if (is(8)) return moving_->Load(Pick(2) ? 0 : ++last_origin_);
    if (is(4)) return RefuseMemory();
    return Damage();
  }

  std::shared_ptr<Conversation> Any() {
    if (conversations_.size() < 4) {
      auto made = std::make_shared<Conversation>();
      made->text = RandomPrompt(&random_, 20 + Pick(100));
      made->space.tenant = Pick(6) == 0 ? "b" : "a";
      conversations_.push_back(made);
    }
    return conversations_[Pick(conversations_.size())];
  }
  void Add(Conversation conversation) {
    conversation.busy = false;
    conversations_.push_back(std::make_shared<Conversation>(std::move(conversation)));
    if (conversations_.size() > 24) conversations_.erase(conversations_.begin() + Pick(24));
  }

  std::unique_ptr<Live> Make(const Conversation& from, Request* request) {
    auto live = std::make_unique<Live>();
    live->prompt = from.text;
    const Text more = RandomPrompt(&random_, 1 + Pick(Pick(3) == 0 ? 60 : 6));
    if (Pick(4) != 0) live->prompt.insert(live->prompt.end(), more.begin(), more.end());
    if (live->prompt.empty()) live->prompt = more;
    live->id = ++last_id_;
    live->slow = Pick(4) == 0;
    *request = live->consumer.Make(live->id, live->prompt, 1 + Pick(40));
    request->tenant = from.space.tenant;
    request->cache.origin = from.space.origin;
    // Too small to change a logit, but steps ahead wait for the token.
    if (Pick(5) == 0) request->sampling.frequency_penalty = 1e-12f;
    request->priority = Pick(4) * Pick(2);
    request->cache.use = Pick(12) != 0;
    request->cache.importance = Pick(folder_.empty() ? 5 : 2) == 0;
    // As of sessions that are forked, go on and end.
    request->cache.ends = {ends_[Pick(4)], ends_[Pick(4)]};
    if (Pick(3) == 0) ends_[Pick(4)] = std::make_shared<const TextEnd>();
    return live;
  }

  // Of a conversation, or the same prompt beside it, as of somebody who tries again; also of a text
  // that went bad, of which no state may be found.
  bool Turn() {
    const bool again = !bad_.empty() && Pick(20) == 0;
    const std::shared_ptr<Conversation> from = again ? bad_[Pick(bad_.size())] : Any();
    if (from->text.size() > 200 && !again) from->text = RandomPrompt(&random_, 1 + Pick(50));
    Request request;
    std::unique_ptr<Live> live = Make(*from, &request);
    live->bad = again || Pick(20) == 0;
    if (live->bad && !again) {
      live->prompt[Pick(live->prompt.size())] = FakeModel::kNotFiniteToken;
      bad_.push_back(std::make_shared<Conversation>(Conversation{live->prompt, from->space}));
      if (bad_.size() > 4) bad_.erase(bad_.begin());
      // The logits alone are bad then.
      if (Pick(2)) live->prompt.back() = FakeModel::kNanLogitsToken;
      request.prompt = live->prompt;
    }
    if (Pick(6) == 0) request.cache.snapshot_at = Pick(live->prompt.size());
    if (Pick(6) == 0 && !live->bad && live->prompt.size() > 1) {
      request.score_from = live->score_from = 1 + Pick(live->prompt.size() - 1);
      if (Pick(2)) request.stop.max_tokens = 0;
      ++counts_.scored;
    }
    if (Pick(12) == 0) request.deadline = now_ + absl::Milliseconds(Pick(40));
    const bool its_turn = !from->busy && !again && Pick(4) != 0;
    if (!engine_->Submit(std::move(request), now_).ok()) return true;
    if (its_turn) (live->conversation = from)->busy = true;
    live_.push_back(std::move(live));
    return true;
  }

  // That begin with one prompt: the first computes it for all.
  bool Choices() {
    const std::shared_ptr<Conversation> from = Any();
    if (from->text.size() > 200) return false;
    Request first;
    std::vector<std::unique_ptr<Live>> lives;
    lives.push_back(Make(*from, &first));
    first.cache.snapshot_at = (static_cast<int>(first.prompt.size()) - 1) / 16 * 16;
    std::vector<Request> requests = {first};
    for (int i = 1 + Pick(3); i > 0; --i) {
      lives.push_back(std::make_unique<Live>());
      lives.back()->prompt = lives[0]->prompt;
      lives.back()->id = ++last_id_;
      requests.push_back(first);
      requests.back().id = last_id_;
      requests.back().outbox = lives.back()->consumer.outbox;
      requests.back().stop.max_tokens = 1 + Pick(20);
    }
    if (!engine_->Submit(std::move(requests), now_).ok()) return true;
    counts_.choices += static_cast<int64_t>(lives.size());
    std::move(lives.begin(), lives.end(), std::back_inserter(live_));
    return true;
  }

  bool Fork() {
    ++counts_.forks;
    Add(*Any());  // Of one that is busy, as it was before that turn.
    return true;
  }
  bool Rewind() {
    const std::shared_ptr<Conversation> one = Any();
    if (one->busy || one->text.empty()) return false;
    one->text.resize(Pick(one->text.size()));
    ++counts_.rewinds;
    return true;
  }
  bool Forget() {
    const std::shared_ptr<Conversation> one = Any();
    conversations_.erase(std::find(conversations_.begin(), conversations_.end(), one));
    if (one->space.origin == 0) return true;
    engine_->ForgetOrigin(one->space.origin);
    ++counts_.forgotten;
    return true;
  }
  bool Save() {
    const std::shared_ptr<Conversation> one = Any();
    moving_->Save({one->text, one->space});
    return true;
  }
  bool Cancel() {
    if (live_.empty()) return false;
    engine_->Cancel(live_[Pick(live_.size())]->id);
    return true;
  }
  bool RefuseMemory() {
    Step(/*refused=*/Pick(12));
    return true;
  }
  // One of the files loses its end.
  bool Damage() {
    if (folder_.empty()) return false;
    std::error_code error;
    for (const auto& file : std::filesystem::directory_iterator(folder_, error)) {
      if (file.path().filename() == "lock" || Pick(4) != 0) continue;
      std::filesystem::resize_file(file.path(), Pick(2000), error);
      return true;
    }
    return false;
  }

  // `refused`: the one of its allocations that fails; below 0: none.
  void Step(int refused = -1) {
    FailAllocation(refused);
    const bool acted = engine_->Step(now_ += absl::Milliseconds(1));
    counts_.no_memory += refused >= 0 && AllocationFailed();
    FailAllocation(-1);
    // Who only waits for the disk lets its threads work.
    if (!acted) std::this_thread::yield();
    ASSERT_EQ(engine_->CheckIntegrity(), absl::OkStatus());
    for (auto& live : live_) {
      if (!live->slow || Pick(8) == 0) live->consumer.Poll();
    }
    Reap();
  }

  void Reap() {
    std::vector<std::unique_ptr<Live>> left;
    for (auto& live : live_) {
      if (!live->consumer.finish.has_value()) {
        left.push_back(std::move(live));
        continue;
      }
      Check(*live);
      if (::testing::Test::HasFatalFailure()) return;
    }
    live_.swap(left);
  }

  void Check(const Live& live) {
    const Consumer& consumer = live.consumer;
    const Finish& finish = *consumer.finish;
    ASSERT_EQ(consumer.tokens,
              model_.GreedyAfter(live.prompt, static_cast<int>(consumer.tokens.size())));
    ASSERT_LT(finish.usage.cached_tokens, static_cast<int>(live.prompt.size()));
    CheckScores(live);
    if (live.conversation != nullptr) live.conversation->busy = false;
    counts_.completed += finish.status.ok();
    counts_.cancelled += finish.reason == FinishReason::kCancelled;
    counts_.expired += finish.reason == FinishReason::kDeadline;
    if (live.bad) {
      EXPECT_NE(finish.reason, FinishReason::kLength);
      ++counts_.bad;
      return;
    }
    if (finish.reason == FinishReason::kError) {
      const absl::Status& status = finish.status;
      const bool no_memory = absl::IsResourceExhausted(status) && counts_.no_memory > 0;
      EXPECT_TRUE(no_memory || (ending_ && absl::IsUnavailable(status))) << status;
      ++(no_memory ? counts_.ended_for_memory : counts_.ended_with_all);
      return;
    }
    if (live.conversation == nullptr) return;
    // It has the turn, as far as it has come.
    live.conversation->text = live.prompt;
    live.conversation->text.insert(live.conversation->text.end(), consumer.tokens.begin(),
                                   consumer.tokens.end());
  }

  // The scores that have come: what is best where each of them stands.
  void CheckScores(const Live& live) {
    const std::vector<TokenScore>& scores = live.consumer.scores;
    const size_t all = live.score_from == 0 ? 0 : live.prompt.size() - live.score_from;
    if (live.consumer.finish->status.ok()) {
      ASSERT_EQ(scores.size(), all);
    }
    ASSERT_LE(scores.size(), all);
    for (size_t i = 0; i < scores.size(); i += 1 + Pick(9)) {
      const auto begin = live.prompt.begin();
      EXPECT_EQ(scores[i].token, live.prompt[live.score_from + i]);
      ASSERT_EQ(scores[i].best, model_.GreedyAfter({begin, begin + live.score_from + i}, 1)[0]);
    }
  }

  std::mt19937_64 random_;
  FakeModel model_;
  std::string folder_;  // Empty: no tiers.
  std::vector<std::shared_ptr<Conversation>> conversations_, bad_;
  std::vector<std::unique_ptr<Live>> live_;
  std::optional<MovingStates> moving_;
  std::unique_ptr<Engine> engine_;  // At its end it answers those.
  HeldTextEnd ends_[4];
  uint64_t last_id_ = 0, last_origin_ = 0;
  const bool crowded_;
  bool ending_ = false;
  Counts& counts_;
  absl::Time now_ = absl::FromUnixSeconds(5000);
};

TEST(EngineStorm, EveryTextIsWhatItWouldBeAlone) {
  Counts counts;
  int64_t saved = 0, loaded = 0, cut_off = 0, abandoned = 0;
  int64_t hits = 0, dropped = 0, parks = 0, moved = 0, returned = 0, read = 0, damaged = 0;
  // Where the machine is busy the disk comes late, and fewer are read in as many steps.
  constexpr int kReadOfThousand = 1;
  const auto goes_on = [&](int seed) {
    const bool enough = read > kReadOfThousand * kOperations / 1000;
    return seed < kEngines || (!enough && seed < 5 * kEngines);
  };
  for (int seed = 0; goes_on(seed) && !::testing::Test::HasFailure(); ++seed) {
    SCOPED_TRACE(seed);
    FakeModel::Options options;
    options.ahead = seed % 2 == 1;
    // Models without a kind of layer have parts of fewer kinds.
    options.mesa = seed % 4 != 2;
    options.window = seed % 5 != 3;
    options.full = seed % 3 != 1;
    options.rat = seed % 7 != 6 || !options.mesa;
    options.max_logit_rows = 8 + seed;  // Fewer than some want at once.
    Storm storm(seed, options, &counts);
    storm.Run(kOperations / kEngines, /*end=*/seed % 5);
    const EngineStats stats = storm.stats();
    hits += stats.cache.lookups[0];
    dropped += stats.cache.dropped;
    parks += stats.parking.parks;
    moved += stats.tiers.moved_to_memory;
    returned += stats.tiers.returned;
    read += stats.tiers.read_from_disk;
    damaged += stats.tiers.read_failures;
    saved += storm.moving().saved();
    loaded += storm.moving().loaded();
    cut_off += storm.moving().cut_off();
    abandoned += storm.moving().abandoned();
  }
  // All of it has happened, so often in a thousand operations.
  const std::tuple<const char*, int64_t, double> all[] = {
      {"completed", counts.completed, 100},
      {"choices", counts.choices, 50},
      {"scored", counts.scored, 30},
      {"forks", counts.forks, 30},
      {"rewinds", counts.rewinds, 30},
      {"cancelled", counts.cancelled, 40},
      {"expired", counts.expired, 5},
      {"bad", counts.bad, 5},
      {"forgotten", counts.forgotten, 4},
      {"memory refused", counts.no_memory, 5},
      {"ended for memory", counts.ended_for_memory, 1},
      {"ended with all", counts.ended_with_all, 0.2},
      {"saved", saved, 4},
      {"loaded", loaded, 10},
      {"cut off", cut_off, 10},
      {"abandoned", abandoned, 8},
      {"hits", hits, 20},
      {"dropped", dropped, 150},
      {"parks", parks, 15},
      {"moved", moved, 15},
      {"returned", returned, 3},
      {"read", read, kReadOfThousand},
      {"damaged", damaged, 0.1}};
  for (const auto& [what, count, of_thousand] : all) {
    EXPECT_GT(static_cast<double>(count), of_thousand * kOperations / 1000) << what;
  }
}

}  // namespace
}  // namespace packrat
