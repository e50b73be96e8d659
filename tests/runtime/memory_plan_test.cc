#include "runtime/memory_plan.h"
#include "runtime/capacity.h"

#include "models/cpu_model.h"
#include "runtime/grammar_cache.h"
#include "runtime/sequence_state.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

namespace packrat {
namespace {

using testing::AllOf;
using testing::HasSubstr;

constexpr int64_t kMiB = 1 << 20;
constexpr int64_t kTexts = 8 * kMiB;  // That are remembered.

// A model of 30 MiB with 10 of scratch on a machine that leaves it `limit`.
class MemoryPlanTest : public testing::Test {
 protected:
  MemoryPlanTest() {
    auto measured = MeasureModel("tests/golden/packrat", model_options_);
    EXPECT_TRUE(measured.ok()) << measured.status();
    model_ = *std::move(measured);
    model_.weight_bytes = 30 * kMiB;
    model_.scratch_bytes = 10 * kMiB;
    options_.max_running = 64;
    SetLimit(512 * kMiB);
  }
  void SetLimit(int64_t limit) {
    resources_.memory_limit = resources_.memory_available = limit;
    resources_.memory_limit_source = resources_.memory_available_source = "memory.max of cgroup /a";
    resources_.memory_limit_is_own = true;
    resources_.memory_held = 9 * kMiB;
  }
  absl::Status Plan() {
    plan_ = MemoryPlan();
    return PlanMemory(model_, model_options_, options_, calls_, resources_, &plan_);
  }
  std::string Refusal() {
    const absl::Status status = Plan();
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
    return std::string(status.message());
  }
  int64_t OneSequence() const {
    return static_cast<int64_t>(
        StateLayout(model_.config).SequenceBytes(model_.config.max_context));
  }

  int64_t Grammars() const { return GrammarBytes(model_.config.vocab_size); }

  ModelOptions model_options_;
  ModelMemory model_;
  EngineOptions options_;
  CallLimits calls_{100, 4 * kMiB};
  Resources resources_;
  MemoryPlan plan_;
};

TEST_F(MemoryPlanTest, EnoughForAll) {
  SetLimit(4096 * kMiB);
  ASSERT_TRUE(Plan().ok());
  EXPECT_EQ(plan_.limit, 4096 * kMiB);
  EXPECT_EQ(plan_.limit_source, "memory.max of cgroup /a");
  EXPECT_EQ(plan_.weights, 30 * kMiB);
  EXPECT_EQ(plan_.scratch, 10 * kMiB);
  EXPECT_EQ(plan_.process, 32 * kMiB + 100 * (24 << 10) + kTexts);
  EXPECT_EQ(plan_.state, 64 * OneSequence());
  EXPECT_EQ(plan_.options.state_bytes, plan_.state);
  EXPECT_EQ(plan_.options.max_context, model_.config.max_context);
  EXPECT_EQ(plan_.messages, 256 * kMiB);
  EXPECT_EQ(plan_.grammars, Grammars());
  EXPECT_GE(plan_.grammars, 8 * kMiB);
  EXPECT_EQ(plan_.transfers, 64 * kMiB);
  EXPECT_EQ(plan_.Total(), plan_.weights + plan_.scratch + plan_.process + plan_.messages +
                               plan_.transfers + plan_.grammars + plan_.state + plan_.parked);
  EXPECT_EQ(plan_.parked, plan_.state / 8);
  // What a container asks for is enough for the same plan.
  const int64_t state = plan_.state;
  SetLimit(plan_.Request());
  EXPECT_EQ(plan_.Request() % kMiB, 0);
  ASSERT_TRUE(Plan().ok());
  EXPECT_EQ(plan_.state, state);
}

TEST_F(MemoryPlanTest, RoomForTheCache) {
  SetLimit(4096 * kMiB);
  options_.cache_sequences = 10;
  ASSERT_TRUE(Plan().ok());
  EXPECT_EQ(plan_.state, 74 * OneSequence());
  EXPECT_EQ(SequencesOf(StateLayout(model_.config), plan_.parts, model_.config.max_context), 74);
}

TEST_F(MemoryPlanTest, RoomForTheCacheByItself) {
  options_.cache_sequences = EngineOptions::kAutoCacheSequences;
  options_.max_running = 8;
  SetLimit(4096 * kMiB);
  ASSERT_TRUE(Plan().ok());
  EXPECT_EQ(plan_.options.cache_sequences, 24);
  EXPECT_EQ(plan_.state, 32 * OneSequence());
  // Whatever was given is used.
  options_.state_bytes = 50 * OneSequence();
  ASSERT_TRUE(Plan().ok());
  EXPECT_EQ(plan_.options.cache_sequences, 42);
  EXPECT_EQ(plan_.state, 50 * OneSequence());
  // It takes nothing of what running sequences need.
  for (const int fit : {11, 5}) {
    options_.state_bytes = fit * OneSequence() + OneSequence() / 2;
    ASSERT_TRUE(Plan().ok());
    EXPECT_EQ(plan_.options.cache_sequences, std::max(fit - 8, 0));
  }
  options_.state_bytes = 0;
  options_.prefix_cache = false;
  ASSERT_TRUE(Plan().ok());
  EXPECT_EQ(plan_.options.cache_sequences, 0);
  EXPECT_EQ(plan_.state, 8 * OneSequence());
}

TEST_F(MemoryPlanTest, KeptStates) {
  const auto Kept = [&](int tokens) {
    return KeptStatesOf(*plan_.layout, plan_.parts, plan_.options, tokens).all();
  };
  SetLimit(4096 * kMiB);
  options_.max_running = 4;
  options_.cache_sequences = 6;
  ASSERT_TRUE(Plan().ok());
  EXPECT_EQ(Kept(model_.config.max_context), 10);
  EXPECT_EQ(Kept(kMinSnapshotTokens), 10);
  EXPECT_EQ(Kept(kMinSnapshotTokens - 1), 0);  // Nothing is kept of them.
  for (int32_t& pages : plan_.parts.pages) pages /= 2;
  EXPECT_EQ(Kept(model_.config.max_context), 5);
  // The texts of them have a bound of their own.
  plan_.parts.slots = plan_.parts.tails = 1 << 20;
  for (int32_t& pages : plan_.parts.pages) pages = 1 << 30;
  EXPECT_EQ(Kept(1024), 1024);
  options_.prefix_cache = false;
  ASSERT_TRUE(Plan().ok());
  EXPECT_EQ(Kept(1024), 0);
  // Below the pool there is room for more, and for their texts.
  options_ = EngineOptions();
  options_.state_dir = "/some/states";
  options_.state_host_memory = 8 * kMiB;
  options_.state_disk = 64 * kMiB;
  ASSERT_TRUE(Plan().ok());
  const int in_pool = SequencesOf(*plan_.layout, plan_.parts, 256);
  const auto each = static_cast<int64_t>(SavedPartBytes(*plan_.layout, 256));
  EXPECT_GT(Kept(256), in_pool + 66 * kMiB / (each + 8192));
  EXPECT_LT(Kept(256), in_pool + 69 * kMiB / each);
  const KeptStates kept = KeptStatesOf(*plan_.layout, plan_.parts, plan_.options, 256);
  EXPECT_EQ(kept.pool, in_pool);
  EXPECT_GT(kept.memory, 3 * kMiB / (each + 8192));  // Half of it.
  EXPECT_LT(kept.memory, 5 * kMiB / each);
  EXPECT_GT(kept.disk, 60 * kMiB / (each + 8192));
  // What that memory is too small for goes to the disk alone, in pieces.
  options_.state_host_memory = each / 2;
  ASSERT_TRUE(Plan().ok());
  EXPECT_GT(Kept(256), in_pool + 62 * kMiB / (each + 8192));
  EXPECT_LT(Kept(256), in_pool + 65 * kMiB / each);
}

TEST_F(MemoryPlanTest, KeptStatesTakeTheirPart) {
  SetLimit(4096 * kMiB);
  ASSERT_TRUE(Plan().ok());
  EXPECT_EQ(plan_.kept, 0);  // The pool is the same memory.
  const int64_t process = plan_.process, total = plan_.Total(), request = plan_.Request();
  options_.state_dir = "/some/states";
  ASSERT_TRUE(Plan().ok());
  EXPECT_EQ(plan_.kept, 256 * kMiB);
  EXPECT_EQ(plan_.options.state_host_memory, plan_.kept);
  // With their texts.
  EXPECT_EQ(plan_.process - process, plan_.kept / 2);
  EXPECT_EQ(plan_.Total() - total, plan_.kept * 3 / 2);
  EXPECT_GT(plan_.Request(), request + plan_.kept);
  options_.park_memory = 0;  // It would give up a part of its own.
  options_.state_host_memory = 40 * kMiB;
  ASSERT_TRUE(Plan().ok());
  EXPECT_EQ(plan_.kept, 40 * kMiB);
  const int64_t room = plan_.state_room;
  options_.state_host_memory = 80 * kMiB;
  ASSERT_TRUE(Plan().ok());
  EXPECT_EQ(room - plan_.state_room, 60 * kMiB);
  options_.state_host_memory = 4096 * kMiB;
  EXPECT_THAT(Refusal(), HasSubstr("kept states 4096 MiB"));
  // Without a cache nothing is kept.
  options_.prefix_cache = false;
  ASSERT_TRUE(Plan().ok());
  EXPECT_EQ(plan_.kept, 0);
  EXPECT_EQ(plan_.process, process - kTexts);
  options_ = EngineOptions();
  EXPECT_EQ(StateHostMemory(options_, resources_, /*on_gpu=*/true), 512 * kMiB);
  resources_.memory_limit = 100000 * kMiB;
  EXPECT_EQ(StateHostMemory(options_, resources_, /*on_gpu=*/true), 4096 * kMiB);
}

TEST_F(MemoryPlanTest, StateTakesWhatALimitLeaves) {
  SetLimit(plan_.limit = 92 * kMiB + Grammars() + 20 * OneSequence());
  ASSERT_TRUE(Plan().ok());
  EXPECT_LE(plan_.Total(), plan_.limit);
  EXPECT_GT(plan_.Total(), plan_.limit - OneSequence());
  const StateLayout layout(model_.config);
  EXPECT_GE(SequencesOf(layout, plan_.parts, 16), 20);
  EXPECT_LE(SequencesOf(layout, plan_.parts, 16), 64);
  EXPECT_GE(SequencesOf(layout, plan_.parts, model_.config.max_context), 1);
  EXPECT_LE(SequencesOf(layout, plan_.parts, model_.config.max_context), 20);
}

// Both numbers are what a server that runs is held to: the pool is made by the same rules.
TEST_F(MemoryPlanTest, TheEngineDoesWhatThePlanSays) {
  SetLimit(94 * kMiB + Grammars() + 5 * OneSequence());
  ASSERT_TRUE(Plan().ok());
  auto model = LoadCpuModel("tests/golden/packrat", model_options_);
  ASSERT_TRUE(model.ok());
  auto engine = Engine::Create(model->get(), nullptr, plan_.options);
  ASSERT_TRUE(engine.ok()) << engine.status();
  int64_t capacity = 0;
  for (const EngineStats::Pool& pool : (*engine)->stats().pools) {
    capacity += pool.total * pool.bytes_each;
  }
  EXPECT_EQ(capacity, plan_.state);
}

TEST_F(MemoryPlanTest, TooLittleForOneSequenceSaysWhatWouldFit) {
  SetLimit(93 * kMiB + Grammars() + OneSequence() / 2);
  const std::string message = Refusal();
  EXPECT_THAT(message, AllOf(HasSubstr("weights 30 MiB, scratch 10 MiB"),
                             HasSubstr("memory.max of cgroup /a"), HasSubstr("--max_context=")));
  // What it names does fit.
  options_.max_context = std::stoi(message.substr(message.find("--max_context=") + 14));
  EXPECT_LT(options_.max_context, model_.config.max_context);
  EXPECT_TRUE(Plan().ok());
  ++options_.max_context;
  while (options_.max_context % 16 != 1) ++options_.max_context;  // Into the next page.
  Refusal();
}

TEST_F(MemoryPlanTest, TooLittleForTheModelSaysHowMuchItTakes) {
  SetLimit(20 * kMiB);
  const std::string message = Refusal();
  EXPECT_THAT(message, HasSubstr("at least"));
  const size_t at = message.find("It takes ");
  ASSERT_NE(at, std::string::npos) << message;
  SetLimit(std::stoll(message.substr(at + 9)) * kMiB);
  EXPECT_TRUE(Plan().ok());
}

TEST_F(MemoryPlanTest, StateThatWasAskedForAndDoesNotFit) {
  options_.state_bytes = 60 * OneSequence();
  SetLimit(92 * kMiB + Grammars() + 10 * OneSequence());
  const std::string message = Refusal();
  EXPECT_THAT(message, AllOf(HasSubstr("--state_bytes"), HasSubstr("together")));
  const std::string best = "--state_bytes of at most ";
  options_.state_bytes = std::stoll(message.substr(message.find(best) + best.size()));
  EXPECT_TRUE(Plan().ok());
}

// A machine with memory enough, which others hold.
TEST_F(MemoryPlanTest, WhatOthersHoldIsMissing) {
  SetLimit(4096 * kMiB);
  options_.state_bytes = 200 * kMiB;
  options_.max_running = 4096;
  options_.max_batch_tokens = 4096;
  model_options_.max_batch_tokens = model_options_.max_logit_rows = 4096;
  ASSERT_TRUE(Plan().ok());
  resources_.memory_available = 9 * kMiB + 30 * kMiB + 10 * kMiB + 100 * kMiB;
  resources_.memory_available_source = "memory of the machine";
  EXPECT_THAT(Refusal(), AllOf(HasSubstr("can have 140 MiB of it now (memory of the machine)")));
  // Left to the server, it is what there is.
  options_.state_bytes = 0;
  ASSERT_TRUE(Plan().ok());
  EXPECT_LE(plan_.state, 100 * kMiB);
  EXPECT_GT(plan_.state + plan_.parked, 90 * kMiB);
}

TEST_F(MemoryPlanTest, ParkedStatesTakeTheirPart) {
  calls_.largest_message = 5 * kMiB;  // So that messages take as much under all of these limits.
  SetLimit(94 * kMiB + Grammars() + 20 * OneSequence());
  options_.park_memory = 0;
  ASSERT_TRUE(Plan().ok());
  EXPECT_EQ(plan_.parked, 0);
  const int64_t room = plan_.state_room;
  options_.park_memory = 5 * OneSequence();
  ASSERT_TRUE(Plan().ok());
  EXPECT_EQ(plan_.parked, 5 * OneSequence());
  EXPECT_EQ(plan_.options.park_memory, plan_.parked);
  EXPECT_EQ(plan_.state_room, room - plan_.parked);
  EXPECT_LE(plan_.Total(), plan_.limit);
  // Left to the server, an eighth of what state gets.
  options_.park_memory = EngineOptions::kAutoParkMemory;
  ASSERT_TRUE(Plan().ok());
  EXPECT_EQ(plan_.state_room, room - room / 9);
  EXPECT_GT(plan_.parked, 2 * OneSequence());
  EXPECT_EQ(plan_.options.park_memory, plan_.parked);
  EXPECT_LE(plan_.Total(), plan_.limit);
  // Or what is left, since nothing is refused for its sake.
  options_.state_bytes = room;
  ASSERT_TRUE(Plan().ok());
  EXPECT_LE(plan_.parked, OneSequence());
  EXPECT_LE(plan_.Total(), plan_.limit);
  options_.state_bytes = 0;
  SetLimit(plan_.limit - room + OneSequence());
  ASSERT_TRUE(Plan().ok());
  EXPECT_EQ(plan_.parked, 0);
  // What was asked for is not taken from anybody else.
  options_.park_memory = OneSequence() / 2;
  EXPECT_THAT(Refusal(), HasSubstr("parked states"));
}

TEST_F(MemoryPlanTest, OptionsOutOfRangeAreNamed) {
  options_.max_context = model_.config.max_context + 1;
  const absl::Status status = Plan();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("max_context is "), HasSubstr("; range [2, ")));
}

TEST_F(MemoryPlanTest, MoreCallsTakeMore) {
  ASSERT_TRUE(Plan().ok());
  const int64_t before = plan_.process;
  calls_.calls = 1100;
  ASSERT_TRUE(Plan().ok());
  EXPECT_EQ(plan_.process - before, 1000 * (24 << 10));
}

// Messages that have not come whole take what the plan says, and that follows the limit.
TEST_F(MemoryPlanTest, MessagesHaveAShareOfTheLimit) {
  EXPECT_EQ(MessageBytes(1024 * kMiB, 4 * kMiB), 64 * kMiB);
  EXPECT_EQ(MessageBytes(int64_t{1} << 40, 4 * kMiB), 512 * kMiB);
  EXPECT_EQ(MessageBytes(16 * kMiB, 4 * kMiB), 8 * kMiB);
  EXPECT_EQ(MessageBytes(1024 * kMiB, 1024 * kMiB), 2048 * kMiB);

  options_.park_memory = 0;
  SetLimit(128 * kMiB);
  ASSERT_TRUE(Plan().ok());
  EXPECT_EQ(plan_.messages, 8 * kMiB);
  EXPECT_LE(plan_.Total(), plan_.limit);
  const int64_t room = plan_.state_room;
  // Larger messages leave less for state, in the end too little.
  calls_.largest_message = 12 * kMiB;
  ASSERT_TRUE(Plan().ok());
  EXPECT_EQ(plan_.state_room, room - (16 + 4) * kMiB);
  calls_.largest_message = 64 * kMiB;
  EXPECT_THAT(Refusal(), HasSubstr("messages 128 MiB"));
}

TEST(SequencesOf, TheScarcestPartDecides) {
  const auto measured = MeasureModel("tests/golden/packrat", ModelOptions());
  ASSERT_TRUE(measured.ok());
  const StateLayout layout(measured->config);
  PartCounts parts = SequenceNeeds(layout, 1000);
  EXPECT_EQ(SequencesOf(layout, parts, 1000), 1);
  EXPECT_EQ(SequencesOf(layout, parts, 2000), 0);
  parts.slots = parts.tails = 7;
  for (int32_t& pages : parts.pages) pages *= 3;
  EXPECT_EQ(SequencesOf(layout, parts, 1000), 3);
  parts.tails = 2;
  EXPECT_EQ(SequencesOf(layout, parts, 1000), 2);
}

}  // namespace
}  // namespace packrat
