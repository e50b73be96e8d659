// The engine and its model's device: who is told when, memory that is too small, a device that is
// lost.
#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/engine.h"
#include "runtime/engine_thread.h"
#include "tests/runtime/consumer.h"
#include "tests/runtime/engine_fixture.h"
#include "tests/runtime/fake_model.h"

namespace packrat {
namespace {

using ::testing::HasSubstr;
using EngineDeviceTest = EngineTest;

// A consumer that counts how often it was told. The engine outlives a test's own variables and
// tells of its end, so the outbox keeps the count.
struct CountingConsumer : Consumer {
  CountingConsumer() {
    outbox = std::make_shared<Outbox>([count = count] { ++*count; });
  }
  int told() const { return *count; }

  const std::shared_ptr<int> count = std::make_shared<int>(0);
};

// Where the host computes: what is told later would wait for a processor.
TEST_F(EngineDeviceTest, ConsumersAreToldAtAStepsEnd) {
  Start(Small());
  CountingConsumer c;
  std::vector<int> told_at_pass;  // Before the model computes.
  model_->on_forward = [&](const Batch&) { told_at_pass.push_back(c.told()); };
  Submit(c.Make(1, RandomPrompt(&random_, 4), 3));
  Step();
  EXPECT_EQ(c.told(), 1);  // Of the admission, before the first pass.
  EXPECT_TRUE(c.Poll());
  EXPECT_EQ(c.tokens.size(), 1u);
  EXPECT_EQ(engine_->stats().generated_tokens, 1);
  Step();
  EXPECT_EQ(c.told(), 2);  // Of the second token.
  Step();                  // It was not looked at yet, so nothing more is told.
  EXPECT_EQ(c.told(), 2);
  EXPECT_TRUE(c.Poll());
  EXPECT_EQ(c.tokens.size(), 3u);
  ASSERT_TRUE(c.finish.has_value());
  EXPECT_EQ(told_at_pass, (std::vector<int>{1, 1, 2}));
}

// A device of its own hides what it takes to wake them.
TEST_F(EngineDeviceTest, ConsumersAreToldWhileTheDeviceWorks) {
  FakeModel::Options device;
  device.ahead = true;
  Start(Small(), device);
  CountingConsumer c;
  Submit(c.Make(1, RandomPrompt(&random_, 4), 5));
  Step();  // Waits for nothing.
  Step();
  EXPECT_EQ(c.told(), 1);  // Of the admission, before it waited for the first pass.
  EXPECT_TRUE(c.Poll());
  EXPECT_EQ(c.tokens.size(), 1u);  // It is there for who looks.
  Step();                          // Tells of no more than what Poll() has seen.
  EXPECT_EQ(c.told(), 1);
  Step();  // Tells of the second token before it waits for the third.
  EXPECT_EQ(c.told(), 2);
  EXPECT_TRUE(c.Poll());
  EXPECT_EQ(c.tokens.size(), 3u);
}

// Of a step of 20 ms a twentieth, which is saved up.
TEST_F(EngineDeviceTest, ConsumersRunBeforeTheNextStepWhereTheHostComputes) {
  constexpr absl::Duration kComputes = absl::Milliseconds(20);
  for (const bool ahead : {false, true}) {
    for (const bool settles : {true, false}) {
      FakeModel::Options device;
      device.ahead = ahead;
      Start(Small(), device);
      model_->on_forward = [&](const Batch&) { absl::SleepFor(kComputes); };
      Consumer c;
      const auto self = std::make_shared<std::weak_ptr<Outbox>>();
      c.outbox = std::make_shared<Outbox>([self, settles] {
        Outbox::Update update;
        self->lock()->Take(&update);
        if (settles) self->lock()->Settle();
      });
      *self = c.outbox;
      Submit(c.Make(1, RandomPrompt(&random_, 4), 3));
      RunUntilIdle();
      const absl::Duration waited = engine_->stats().readers_time;
      if (settles || ahead) {
        EXPECT_EQ(waited, absl::ZeroDuration()) << ahead;
      } else {
        EXPECT_GE(waited, kComputes / 20);
      }
    }
  }
}

TEST_F(EngineDeviceTest, TheEndIsToldAtOnceWhereNothingFollows) {
  Start(Small());
  CountingConsumer c;
  Submit(c.Make(1, RandomPrompt(&random_, 4), 100));
  Step();
  c.Poll();
  const int before = c.told();
  engine_->Cancel(1);
  Step();  // Starts nothing.
  EXPECT_EQ(c.told(), before + 1);
  EXPECT_TRUE(c.Poll());
  EXPECT_TRUE(c.finish.has_value());
}

// Whatever the device said last, no token of that step is shown.
void ExpectFailed(Engine* engine, std::vector<Consumer>* consumers, size_t tokens) {
  EXPECT_TRUE(absl::IsUnavailable(engine->failure()));
  EXPECT_THAT(std::string(engine->failure().message()), HasSubstr("cudaErrorIllegalAddress"));
  for (Consumer& c : *consumers) {
    c.Poll();
    ASSERT_TRUE(c.finish.has_value());
    EXPECT_EQ(c.finish->reason, FinishReason::kError);
    EXPECT_EQ(c.finish->status, engine->failure());
    EXPECT_LE(c.tokens.size(), tokens);
  }
}

TEST_F(EngineDeviceTest, ALostDeviceEndsEverything) {
  for (const bool at_start : {true, false}) {
    EngineOptions options = Small();
    options.max_running = 2;
    Start(options);
    std::vector<Consumer> consumers(3);  // The last one waits.
    for (int i = 0; i < 3; ++i) Submit(consumers[i].Make(i, RandomPrompt(&random_, 4), 100));
    for (int i = 0; i < 5; ++i) Step();
    EXPECT_EQ(engine_->failure(), absl::OkStatus());
    (at_start ? model_->start_status : model_->wait_status) =
        absl::InternalError("running a step: cudaErrorIllegalAddress");
    Consumer late;
    Submit(late.Make(7, RandomPrompt(&random_, 4), 100));
    EXPECT_TRUE(Step());
    ExpectFailed(engine_.get(), &consumers, 5);
    EXPECT_EQ(consumers[0].tokens.size(), 5u);
    late.Poll();
    EXPECT_TRUE(late.finish.has_value());
    ExpectAllFree();
    EXPECT_TRUE(engine_->idle());
    // For good, and the model is left alone.
    Consumer after;
    EXPECT_EQ(SubmitStatus(after.Make(9, RandomPrompt(&random_, 4), 100)), engine_->failure());
    EXPECT_FALSE(Step());
  }
}

// 20 ids in each of two lists, and a count of each token of the text.
Request WithLists(Request request) {
  request.sampling.repetition_penalty = 1.1f;
  for (int id = 3; id < 23; ++id) {
    request.sampling.banned_ids.push_back(id);
    request.sampling.logit_bias.emplace_back(id + 20, 0.5f);
  }
  return request;
}
constexpr size_t kLists = 20 * (4 + 8) + 8 * (4 + 10);  // Of a prompt of 4 and 10 tokens.

TEST_F(EngineDeviceTest, WhoseListsFindNoRoomEndsAlone) {
  for (const bool ahead : {false, true}) {
    FakeModel::Options model_options;
    model_options.ahead = ahead;
    Start(Small(), model_options);
    model_->most_list_bytes = 2 * kLists;
    std::vector<Consumer> c(5);
    const std::vector<int32_t> prompt = RandomPrompt(&random_, 4);
    Submit(c[0].Make(0, prompt, 10));
    Step();
    for (int i = 1; i < 4; ++i) Submit(WithLists(c[i].Make(i, prompt, 10)));
    RunUntilIdle();
    for (Consumer& consumer : c) consumer.Poll();
    EXPECT_EQ(c[0].tokens, model_->GreedyAfter(prompt, 10));
    EXPECT_EQ(c[1].tokens.size(), 10u);
    EXPECT_EQ(c[2].tokens, c[1].tokens);
    ASSERT_TRUE(c[3].finish.has_value());
    EXPECT_EQ(c[3].finish->reason, FinishReason::kError);
    EXPECT_TRUE(absl::IsResourceExhausted(c[3].finish->status)) << c[3].finish->status;
    EXPECT_TRUE(c[3].tokens.empty());
    EXPECT_EQ(engine_->failure(), absl::OkStatus());
    // What has ended has left its room.
    Submit(WithLists(c[4].Make(4, prompt, 10)));
    RunUntilIdle();
    c[4].Poll();
    EXPECT_EQ(c[4].tokens, c[1].tokens);
    ExpectAllFree();
  }
}

TEST_F(EngineDeviceTest, ADeviceThatIsLostWhileRoomForListsIsMade) {
  Start(Small());
  std::vector<Consumer> consumers(4);  // The second is admitted in the same step as the third.
  Submit(consumers[0].Make(0, RandomPrompt(&random_, 4), 10));
  Step();
  model_->reserve_status = absl::InternalError("running a step: cudaErrorIllegalAddress");
  Submit(consumers[1].Make(1, RandomPrompt(&random_, 4), 10));
  Submit(WithLists(consumers[2].Make(2, RandomPrompt(&random_, 4), 10)));
  Submit(consumers[3].Make(3, RandomPrompt(&random_, 4), 10));
  EXPECT_TRUE(Step());
  ExpectFailed(engine_.get(), &consumers, 1);
  ExpectAllFree();
  EXPECT_TRUE(engine_->idle());
}

TEST_F(EngineDeviceTest, TheThreadSaysOnceThatTheEngineHasFailed) {
  Start(Small());
  Consumer c;
  std::atomic<int> failures{0};
  model_->wait_status = absl::InternalError("cudaErrorIllegalAddress");
  Submit(c.Make(1, RandomPrompt(&random_, 4), 100));
  EngineThread thread(engine_.get(), [&](const absl::Status& status) {
    EXPECT_TRUE(absl::IsUnavailable(status));
    ++failures;
  });
  while (failures.load() == 0) std::this_thread::yield();
  // It looks again after each step, of which these are some more: each takes some time.
  for (int i = 0; i < 3; ++i) {
    const absl::Duration before = engine_->stats().host_time;
    engine_->Wake();
    while (engine_->stats().host_time == before) std::this_thread::yield();
  }
  thread.Stop();
  EXPECT_EQ(failures.load(), 1);
}

// A model whose device has little memory.
class SmallDevice : public FakeModel {
 public:
  explicit SmallDevice(size_t limit) : limit_(limit) {}
  size_t state_memory_limit() const override { return limit_; }
  absl::StatusOr<std::unique_ptr<StateBuffer>> AllocateState(size_t bytes) override {
    if (bytes > limit_) return absl::ResourceExhaustedError("the device has not so much");
    allocated = bytes;
    return FakeModel::AllocateState(bytes);
  }
  size_t allocated = 0;

 private:
  const size_t limit_;
};

EngineOptions Options() {
  EngineOptions options;
  options.max_batch_tokens = 64;
  return options;
}

TEST(EngineMemory, IsWhatTheDeviceHas) {
  const FakeModel any;
  const size_t one = any.state_layout().SequenceBytes(any.config().max_context);
  SmallDevice model(3 * one);
  auto engine = Engine::Create(&model, nullptr, Options());
  ASSERT_TRUE(engine.ok()) << engine.status();
  EXPECT_EQ((*engine)->options().state_bytes, static_cast<int64_t>(3 * one));
  EXPECT_LE(model.allocated, 3 * one);
  EXPECT_GT(model.allocated, 2 * one);

  EngineOptions options = Options();
  options.state_bytes = 5 * static_cast<int64_t>(one);
  const absl::Status status = Engine::Create(&model, nullptr, options).status();
  EXPECT_TRUE(absl::IsResourceExhausted(status));
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("the device has not so much; weights 0 MiB"));
}

TEST(EngineMemory, TooLittleForOneSequenceSaysWhatWouldFit) {
  const FakeModel any;
  SmallDevice model(any.state_layout().SequenceBytes(200));
  const absl::Status status = Engine::Create(&model, nullptr, Options()).status();
  EXPECT_TRUE(absl::IsResourceExhausted(status));
  const std::string message(status.message());
  // Blocks of 16 tokens and chunks of 8: a text of 200 takes as many pages as one of 207.
  EXPECT_THAT(message, HasSubstr("one of 207 tokens would fit"));
  EXPECT_THAT(message, HasSubstr("one sequence of 512 tokens takes"));
  EXPECT_THAT(message, HasSubstr("left for state"));
  // The same where more is asked for than the device has.
  EngineOptions options = Options();
  options.state_bytes = int64_t{1} << 40;
  EXPECT_THAT(std::string(Engine::Create(&model, nullptr, options).status().message()),
              HasSubstr("one of 207 tokens would fit"));
}

}  // namespace
}  // namespace packrat
