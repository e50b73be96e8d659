#include "runtime/engine_thread.h"

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "runtime/engine.h"
#include "runtime/outbox.h"
#include "runtime/steady_clock.h"
#include "tests/runtime/fake_model.h"

namespace packrat {
namespace {

// A consumer that sleeps until it is notified, as a stream's writer does.
class Reader {
 public:
  explicit Reader(std::vector<int32_t> prompt) : prompt_(std::move(prompt)) {}

  Request Make(uint64_t id, int max_tokens) {
    Request request;
    request.id = id;
    request.prompt = prompt_;
    request.sampling.temperature = 0;
    request.stop.max_tokens = max_tokens;
    request.stop.ignore_eos = true;
    request.outbox = outbox_;
    return request;
  }
  // Waits for the end, or for some tokens.
  void ReadUntil(size_t count) {
    while (!finish_.has_value() && tokens_.size() < count) {
      {
        std::unique_lock<std::mutex> lock(mutex_);
        changed_.wait(lock, [this] { return notified_; });
        notified_ = false;
      }
      Outbox::Update update;
      if (!outbox_->Take(&update)) continue;
      tokens_.insert(tokens_.end(), update.tokens.begin(), update.tokens.end());
      if (update.finish.has_value()) finish_ = update.finish;
    }
  }
  void ReadToEnd() { ReadUntil(SIZE_MAX); }
  const std::vector<int32_t>& prompt() const { return prompt_; }
  const std::vector<int32_t>& tokens() const { return tokens_; }
  const Finish& finish() const { return *finish_; }

 private:
  void Notified() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      notified_ = true;
    }
    changed_.notify_one();
  }
  std::vector<int32_t> prompt_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool notified_ = false;
  std::vector<int32_t> tokens_;
  std::optional<Finish> finish_;
  std::shared_ptr<Outbox> outbox_ = std::make_shared<Outbox>([this] { Notified(); });
};

class EngineThreadTest : public ::testing::Test {
 protected:
  EngineThreadTest() {
    EngineOptions options;
    options.max_running = 6;
    options.max_batch_tokens = 32;
    engine_ = *Engine::Create(&model_, nullptr, options);
  }
  FakeModel model_;
  std::unique_ptr<Engine> engine_;
};

TEST_F(EngineThreadTest, ServesManyCallers) {
  EngineThread thread(engine_.get());
  std::atomic<uint64_t> next_id{1};
  std::atomic<bool> done{false};
  std::thread watcher([&] {
    while (!done.load()) {
      const EngineStats stats = engine_->stats();
      EXPECT_LE(stats.running, 6);
      EXPECT_LE(stats.state_utilization, 1.0);
      std::this_thread::yield();
    }
  });
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 4; ++caller) {
    callers.emplace_back([&, caller] {
      for (int round = 0; round < 12; ++round) {
        Reader reader(std::vector<int32_t>(1 + 7 * caller + round, 10 + caller));
        const uint64_t id = next_id.fetch_add(1);
        ASSERT_EQ(engine_->Submit(reader.Make(id, 30), SteadyNow()), absl::OkStatus());
        const bool cancel = round % 3 == 2;
        if (cancel) {
          reader.ReadUntil(round);
          engine_->Cancel(id);
        }
        reader.ReadToEnd();
        EXPECT_TRUE(cancel || reader.finish().reason == FinishReason::kLength);
        EXPECT_EQ(reader.tokens(),
                  model_.GreedyAfter(reader.prompt(), static_cast<int>(reader.tokens().size())));
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  done = true;
  watcher.join();
  thread.Stop();
  EXPECT_TRUE(engine_->idle());
  EXPECT_EQ(engine_->CheckIntegrity(), absl::OkStatus());
}

TEST_F(EngineThreadTest, WakesFromIdleness) {
  EngineThread thread(engine_.get());
  for (int round = 0; round < 20; ++round) {
    Reader reader({5, 6, 7});
    ASSERT_EQ(engine_->Submit(reader.Make(round, 2), SteadyNow()), absl::OkStatus());
    reader.ReadToEnd();  // Returns only if the submission woke the engine.
    EXPECT_EQ(reader.tokens().size(), 2u);
  }
}

TEST_F(EngineThreadTest, AbortReachesEveryReader) {
  Reader a({5, 6, 7}), b({8});
  // Else all 500 tokens may be there before the abort is.
  std::atomic<bool> aborted{false};
  int passes = 0;
  model_.on_forward = [&](const Batch&) {
    while (++passes > 5 && !aborted.load()) std::this_thread::yield();
  };
  EngineThread thread(engine_.get());
  ASSERT_EQ(engine_->Submit(a.Make(1, 500), SteadyNow()), absl::OkStatus());
  ASSERT_EQ(engine_->Submit(b.Make(2, 500), SteadyNow()), absl::OkStatus());
  a.ReadUntil(1);
  engine_->AbortAll(absl::UnavailableError("stopping"));
  aborted = true;
  a.ReadToEnd();
  b.ReadToEnd();
  EXPECT_TRUE(absl::IsUnavailable(a.finish().status));
  EXPECT_TRUE(absl::IsUnavailable(b.finish().status));
}

TEST_F(EngineThreadTest, StopsAtOnceWhenIdle) {
  const absl::Time start = SteadyNow();
  EngineThread thread(engine_.get());
  thread.Stop();
  thread.Stop();
  EXPECT_LT(SteadyNow() - start, absl::Seconds(9));  // Not the timeout of an idle wait.
}

}  // namespace
}  // namespace packrat
