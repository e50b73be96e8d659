#include "tests/runtime/storm.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <iterator>
#include <system_error>
#include <thread>
#include <utility>

#include "gtest/gtest.h"
#include "tests/tools/allocations.h"

namespace packrat {

Storm::Storm(uint64_t seed, int max_context, StormModel* model, StormCounts* counts)
    : random_(seed),
      model_(*model),
      longest_(max_context - 100),
      crowded_(seed % 3 == 0),
      counts_(*counts) {
  const StateLayout& layout = model_.model()->state_layout();
  EngineOptions options;
  options.max_running = 1 + Pick(8);
  options.max_queue = 12;
  options.max_batch_tokens = 16 + Pick(48);
  options.max_context = max_context;
  options.cache_sequences = Pick(3) * Pick(6);
  options.poison_freed_state = true;
  const auto longest = static_cast<int64_t>(layout.SequenceBytes(max_context));
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
  engine_ = *Engine::Create(model_.model(), nullptr, options);
  moving_.emplace(engine_.get(), &layout, &random_);
}

void Storm::Run(int operations, uint64_t end) {
  while (operations > 0 && !::testing::Test::HasFailure()) {
    operations -= Operate();
    for (MovingStates::Whose& whose : moving_->MoveOn()) Add({whose.text, whose.space});
    // Several between two steps, or many steps between two.
    for (int steps = Pick(crowded_ ? 3 : 7); steps > 0; --steps) Step();
  }
  ending_ = end == 3 && model_.Lose();
  if (end == 4) {
    engine_->AbortAll(absl::UnavailableError("no more of this"));
    ending_ = true;
  }
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

Storm::Text Storm::RandomText(int size) {
  Text text(size);
  const int kinds = std::min(80, model_.model()->config().vocab_size - 3);
  for (int32_t& token : text) token = 3 + Pick(kinds);
  return text;
}

bool Storm::Operate() {
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
  if (!is(4)) return Damage();
  const int refused = Pick(12);
  Step(model_.allocates() ? -1 : refused);
  return true;
}

std::shared_ptr<Storm::Conversation> Storm::Any() {
  if (conversations_.size() < 4) {
    auto made = std::make_shared<Conversation>();
    made->text = RandomText(20 + Pick(100));
    made->space.tenant = Pick(6) == 0 ? "b" : "a";
    if (Pick(6) == 0) made->space.solver = model_.other_solver();
    if (const int dials = model_.model()->config().num_dials(); dials > 1) {
      made->space.dials.last = Pick(dials);
    }
    conversations_.push_back(made);
  }
  return conversations_[Pick(conversations_.size())];
}

void Storm::Add(Conversation conversation) {
  conversation.busy = false;
  conversations_.push_back(std::make_shared<Conversation>(std::move(conversation)));
  if (conversations_.size() > 24) conversations_.erase(conversations_.begin() + Pick(24));
}

TextDials Storm::DialsAfter(const Conversation& from, size_t prompt_tokens) {
  TextDials dials = from.space.dials;
  const ModelConfig& config = model_.model()->config();
  if (config.num_dials() == 1) return dials;
  dials.Cut(static_cast<int64_t>(prompt_tokens) - 1);  // The last token may not be computed.
  const auto end = static_cast<int32_t>(from.text.size());
  const int32_t next = Pick(config.num_dials());
  const bool can = end >= kMinSnapshotTokens && end + 1 < static_cast<int32_t>(prompt_tokens) &&
                   (dials.finer.empty() || dials.finer.back().end < end);
  if (can && next != dials.last && CheckCoarser(config, dials.last, next).ok()) {
    dials.finer.push_back({end, dials.last});
    dials.last = next;
  }
  return dials;
}

std::unique_ptr<Storm::Live> Storm::Make(const Conversation& from) {
  auto live = std::make_unique<Live>();
  Text prompt = from.text;
  const Text more = RandomText(1 + Pick(Pick(3) == 0 ? 60 : 6));
  if (Pick(4) != 0) prompt.insert(prompt.end(), more.begin(), more.end());
  if (prompt.empty()) prompt = more;
  live->slow = Pick(4) == 0;
  live->request = live->consumer.Make(++last_id_, std::move(prompt), 1 + Pick(40));
  Request& request = live->request;
  request.tenant = from.space.tenant;
  request.solver = from.space.solver;
  request.cache.origin = from.space.origin;
  request.dials = DialsAfter(from, request.prompt.size());
  // Too small to change a logit, but steps ahead wait for the token.
  if (Pick(5) == 0) request.sampling.frequency_penalty = 1e-12f;
  request.priority = Pick(4) * Pick(2);
  request.cache.use = Pick(12) != 0;
  request.cache.importance = Pick(folder_.empty() ? 5 : 2) == 0;
  // As of sessions that are forked, go on and end.
  request.cache.ends = {ends_[Pick(4)], ends_[Pick(4)]};
  if (Pick(3) == 0) ends_[Pick(4)] = std::make_shared<const TextEnd>();
  model_.Prepare(&request);
  return live;
}

// Of a conversation, or the same prompt beside it, as of somebody who tries again; also of a text
// that went bad, of which no state may be found.
bool Storm::Turn() {
  const bool again = !bad_.empty() && Pick(20) == 0;
  const std::shared_ptr<Conversation> from = again ? bad_[Pick(bad_.size())] : Any();
  if (static_cast<int>(from->text.size()) > longest_ && !again) {
    from->text = RandomText(1 + Pick(50));
    from->space.dials.Cut(static_cast<int64_t>(from->text.size()));
  }
  std::unique_ptr<Live> live = Make(*from);
  Request& request = live->request;
  const std::vector<int32_t> bad_tokens = model_.bad_tokens();
  live->bad = again || (Pick(20) == 0 && !bad_tokens.empty());
  if (live->bad && !again) {
    request.prompt[Pick(request.prompt.size())] = bad_tokens[0];
    bad_.push_back(std::make_shared<Conversation>(Conversation{request.prompt, from->space}));
    if (bad_.size() > 4) bad_.erase(bad_.begin());
    if (Pick(2)) request.prompt.back() = bad_tokens[1];
  }
  if (Pick(6) == 0) request.cache.snapshot_at = Pick(request.prompt.size());
  if (Pick(6) == 0 && !live->bad && request.prompt.size() > 1) {
    request.score_from = 1 + Pick(request.prompt.size() - 1);
    if (Pick(2)) request.stop.max_tokens = 0;
    ++counts_.scored;
  }
  if (Pick(12) == 0) request.deadline = now_ + absl::Milliseconds(Pick(40));
  const bool its_turn = !from->busy && !again && Pick(4) != 0;
  if (!engine_->Submit(request, now_).ok()) return true;
  if (its_turn) (live->conversation = from)->busy = true;
  live_.push_back(std::move(live));
  return true;
}

// That begin with one prompt: the first computes it for all.
bool Storm::Choices() {
  const std::shared_ptr<Conversation> from = Any();
  if (static_cast<int>(from->text.size()) > longest_) return false;
  std::vector<std::unique_ptr<Live>> lives;
  lives.push_back(Make(*from));
  Request& first = lives[0]->request;
  first.cache.snapshot_at = (static_cast<int>(first.prompt.size()) - 1) / 16 * 16;
  std::vector<Request> requests = {first};
  for (int i = 1 + Pick(3); i > 0; --i) {
    lives.push_back(std::make_unique<Live>());
    Request& next = lives.back()->request = first;
    next.id = ++last_id_;
    next.outbox = lives.back()->consumer.outbox;
    next.stop.max_tokens = 1 + Pick(20);
    requests.push_back(next);
  }
  if (!engine_->Submit(std::move(requests), now_).ok()) return true;
  counts_.choices += static_cast<int64_t>(lives.size());
  std::move(lives.begin(), lives.end(), std::back_inserter(live_));
  return true;
}

bool Storm::Fork() {
  ++counts_.forks;
  Add(*Any());  // Of one that is busy, as it was before that turn.
  return true;
}

bool Storm::Rewind() {
  const std::shared_ptr<Conversation> one = Any();
  if (one->busy || one->text.empty()) return false;
  one->text.resize(Pick(one->text.size()));
  one->space.dials.Cut(static_cast<int64_t>(one->text.size()));
  ++counts_.rewinds;
  return true;
}

bool Storm::Forget() {
  const std::shared_ptr<Conversation> one = Any();
  conversations_.erase(std::find(conversations_.begin(), conversations_.end(), one));
  if (one->space.origin == 0) return true;
  engine_->ForgetOrigin(one->space.origin);
  ++counts_.forgotten;
  return true;
}

bool Storm::Save() {
  const std::shared_ptr<Conversation> one = Any();
  moving_->Save({one->text, one->space});
  return true;
}

bool Storm::Cancel() {
  if (live_.empty()) return false;
  engine_->Cancel(live_[Pick(live_.size())]->request.id);
  return true;
}

// One of the files loses its end.
bool Storm::Damage() {
  if (folder_.empty()) return false;
  std::error_code error;
  for (const auto& file : std::filesystem::directory_iterator(folder_, error)) {
    if (file.path().filename() == "states.lock" || Pick(4) != 0) continue;
    std::filesystem::resize_file(file.path(), Pick(2000), error);
    return true;
  }
  return false;
}

// `refused`: the one of its allocations that fails; below 0: none.
void Storm::Step(int refused) {
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

void Storm::Reap() {
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

void Storm::Check(const Live& live) {
  const Consumer& seen = live.consumer;
  const Finish& finish = *seen.finish;
  const Request& request = live.request;
  ASSERT_LT(finish.usage.cached_tokens, static_cast<int>(request.prompt.size()));
  const size_t scores = request.score_from ? request.prompt.size() - *request.score_from : 0;
  ASSERT_LE(seen.scores.size(), scores);
  if (finish.status.ok()) {
    ASSERT_EQ(seen.scores.size(), scores);
  }
  model_.Check(request, seen);
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
  counts_.coarser += live.conversation->space.dials.last != request.dials.last;
  live.conversation->space.dials = request.dials;
  live.conversation->text = request.prompt;
  live.conversation->text.insert(live.conversation->text.end(), seen.tokens.begin(),
                                 seen.tokens.end());
}

}  // namespace packrat
