// Who is served when: tenants, priorities and sizes through the whole engine.
#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/runtime/engine_fixture.h"

namespace packrat {
namespace {

class EngineFairnessTest : public EngineTest {
 protected:
  // Adds a request to the end of those that FinishOrder() speaks of.
  void Add(const std::string& tenant, int tokens, int priority = 0, double weight = 1) {
    consumers_.push_back(std::make_unique<Consumer>());
    const auto number = static_cast<uint64_t>(consumers_.size() - 1);
    Request request = consumers_.back()->Make(number, RandomPrompt(&random_, 4), tokens);
    request.tenant = tenant;
    request.tenant_weight = weight;
    request.priority = priority;
    Submit(std::move(request));
  }
  void Look() {
    for (size_t i = 0; i < consumers_.size(); ++i) {
      consumers_[i]->Poll();
      if (consumers_[i]->finish.has_value() && done_.insert(i).second) order_.push_back(i);
    }
  }
  // The requests by when they were done.
  const std::vector<size_t>& FinishOrder() {
    while (!engine_->idle()) {
      Step();
      Look();
    }
    return order_;
  }
  size_t PlaceOf(size_t request) {
    return std::find(order_.begin(), order_.end(), request) - order_.begin();
  }

  std::vector<std::unique_ptr<Consumer>> consumers_;
  std::set<size_t> done_;
  std::vector<size_t> order_;
};

TEST_F(EngineFairnessTest, AFloodOfOneTenantDelaysAnotherByOneRequest) {
  EngineOptions options = Small();
  options.max_running = 1;
  Start(options);
  for (int i = 0; i < 40; ++i) Add("flood", 3);
  Step();
  for (int i = 0; i < 3; ++i) Add("other", 3);
  FinishOrder();
  // Behind the one that ran, and then every second.
  EXPECT_LE(PlaceOf(40), 2u);
  EXPECT_LE(PlaceOf(41), 4u);
  EXPECT_LE(PlaceOf(42), 6u);
  ExpectAllFree();
}

TEST_F(EngineFairnessTest, WeightsAreShares) {
  EngineOptions options = Small();
  options.max_running = 1;
  options.max_queue = 200;
  Start(options);
  for (int i = 0; i < 60; ++i) Add("light", 3, 0, 1);
  for (int i = 0; i < 60; ++i) Add("heavy", 3, 0, 3);
  FinishOrder();
  const auto heavy = std::count_if(order_.begin(), order_.begin() + 40,
                                   [](size_t request) { return request >= 60; });
  EXPECT_NEAR(static_cast<double>(heavy), 30, 2);
}

// Who asks for much and uses little is charged with little.
TEST_F(EngineFairnessTest, WhatIsNotUsedIsNotCharged) {
  EngineOptions options = Small();
  options.max_running = 1;
  options.max_queue = 200;
  Start(options);
  model_->on_forward = nullptr;
  for (int i = 0; i < 20; ++i) {
    consumers_.push_back(std::make_unique<Consumer>());
    Request request = consumers_.back()->Make(i, RandomPrompt(&random_, 4), 200);
    request.tenant = "asks";
    for (int32_t id = 0; id < 101; ++id) request.stop.ids.push_back(id);
    Submit(std::move(request));  // Any token ends it.
  }
  for (int i = 0; i < 20; ++i) Add("uses", 1);
  FinishOrder();
  const auto asks = std::count_if(order_.begin(), order_.begin() + 20,
                                  [](size_t request) { return request < 20; });
  EXPECT_NEAR(static_cast<double>(asks), 10, 1);
}

TEST_F(EngineFairnessTest, TheLowestPriorityIsServedInTime) {
  EngineOptions options = Small();
  options.max_running = 1;
  options.priority_step = absl::Milliseconds(10);  // Of 10 ms are the steps, too.
  Start(options);
  Add("", 1, 0);
  Add("", 1, -100);
  int steps = 0;
  for (; done_.count(1) == 0; ++steps) {
    ASSERT_LT(steps, 110);
    Add("", 1, 0);  // There is always one of higher priority.
    Step();
    Look();
  }
  EXPECT_GT(steps, 90);
  FinishOrder();
}

TEST_F(EngineFairnessTest, ALargeOneIsPassedOverAndThenWaitedFor) {
  FakeModel::Options model_options;
  model_options.mesa = model_options.window = false;  // Pages are nearly all that there is.
  EngineOptions options = Small();
  FakeModel probe(model_options);
  options.state_bytes = static_cast<int64_t>(1.5 * probe.state_layout().SequenceBytes(512));
  Start(options, model_options);
  Add("", 300);  // Runs, and holds most of the pages.
  Step();
  Add("", 500);  // Does not fit beside it.
  Step();
  ASSERT_EQ(engine_->stats().waiting, 1);
  for (int i = 0; i < 40; ++i) Add("", 2);
  FinishOrder();
  // Small ones went past it, though not all of them.
  EXPECT_EQ(order_.size(), 42u);
  EXPECT_GT(PlaceOf(1), 10u);
  for (int i = 2 + 16 + 8; i < 42; ++i) EXPECT_GT(PlaceOf(i), PlaceOf(0)) << i;
  ExpectAllFree();
}

}  // namespace
}  // namespace packrat
