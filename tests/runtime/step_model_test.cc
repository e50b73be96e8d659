#include "runtime/step_model.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "gtest/gtest.h"

namespace packrat {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

StepContents Contents(int decoding, int prompt, int64_t context) {
  StepContents contents;
  for (int i = 0; i < decoding; ++i) contents.Add(1, context, 1);
  if (prompt > 0) contents.Add(prompt, context, 0);
  return contents;
}

// A machine with these prices, whose time for the same differs by up to `noise`.
class Machine {
 public:
  explicit Machine(const StepModel::Vector& prices, double noise = 0)
      : prices_(prices), noise_(noise) {}
  double Seconds(const StepContents& c) {
    const double exact = prices_[0] + prices_[1] * c.tokens + prices_[2] * c.rows +
                         prices_[3] * static_cast<double>(c.reads) +
                         prices_[4] * static_cast<double>(c.pairs);
    return exact * (1 + noise_ * std::uniform_real_distribution<double>(-1, 1)(random_));
  }
  void SlowDown(double factor) {
    for (double& price : prices_) price *= factor;
  }

 private:
  StepModel::Vector prices_;
  const double noise_;
  std::mt19937_64 random_{7};
};

// Like a model of 135 million parameters on two cores.
constexpr StepModel::Vector kSmall = {8e-3, 6e-4, 4e-4, 3e-7, 1e-6};

std::vector<StepContents> Grid() {
  std::vector<StepContents> grid;
  for (int decoding : {0, 1, 8, 64}) {
    for (int prompt : {0, 32, 128, 512}) {
      for (int context : {64, 512, 2048}) {
        if (decoding + prompt > 0) grid.push_back(Contents(decoding, prompt, context));
      }
    }
  }
  return grid;
}

TEST(StepModel, ContentsOfAStep) {
  StepContents contents;
  contents.Add(1, 100, 1);
  contents.Add(1, 50, 1);
  EXPECT_FALSE(contents.has_prompt);
  contents.Add(32, 64, 1);
  EXPECT_TRUE(contents.has_prompt);
  EXPECT_EQ(contents.tokens, 34);
  EXPECT_EQ(contents.rows, 3);
  EXPECT_EQ(contents.reads, 150);
  EXPECT_EQ(contents.pairs, 32 * (64 + 16));
}

TEST(StepModel, FindsThePricesOfAMachine) {
  Machine machine(kSmall);
  StepModel model(0);
  for (const StepContents& contents : Grid()) model.Observe(contents, machine.Seconds(contents));
  model.Fit(100000);
  for (int i = 0; i < StepModel::kPrices; ++i) {
    EXPECT_NEAR(model.prices()[i] / kSmall[i], 1, 1e-6) << i;
  }
}

// Nothing is paid back, whatever the noise says: a recurrent state has no price for its context.
TEST(StepModel, NoPriceIsNegative) {
  Machine machine({8e-3, 6e-4, 0, 0, 0}, 0.3);
  StepModel model(0);
  for (const StepContents& contents : Grid()) model.Observe(contents, machine.Seconds(contents));
  model.Fit(1000);
  for (double price : model.prices()) EXPECT_GE(price, 0);
  Machine exact({8e-3, 6e-4, 0, 0, 0});
  for (const StepContents& contents : Grid()) {
    EXPECT_NEAR(model.Seconds(contents) / exact.Seconds(contents), 1, 0.2);
  }
}

// What an engine would see, with the target that it has.
void Serve(int steps, int decoding, double target, Machine* machine, StepModel* model,
           double* slowest = nullptr, double* quickest = nullptr) {
  for (int step = 0; step < steps; ++step) {
    const int context = 128 + step % 512;
    const StepContents alone = Contents(decoding, 0, context);
    // In three steps of four a prompt is there.
    const int prompt = step % 4 == 3 ? 0 : model->PromptTokens(alone, context, target, 512);
    const StepContents contents = Contents(decoding, prompt, context);
    const double seconds = machine->Seconds(contents);
    model->Observe(contents, seconds);
    if (prompt == 0 || step < steps / 2) continue;
    if (slowest != nullptr) *slowest = std::max(*slowest, seconds);
    if (quickest != nullptr) *quickest = std::min(*quickest, seconds);
  }
}

TEST(StepModel, StepsTakeTheTimeThatIsAskedForAfterAFewThatDoNot) {
  for (double target : {0.06, 0.1, 0.2}) {
    Machine machine(kSmall);
    StepModel model;
    double slowest = 0, quickest = 1e9;
    model.Observe(Contents(0, 128, 0), machine.Seconds(Contents(0, 128, 0)));
    Serve(40, 8, target, &machine, &model, &slowest, &quickest);
    EXPECT_LT(slowest, 1.1 * target);
    EXPECT_GT(quickest, 0.85 * target);
  }
}

TEST(StepModel, TheFirstPromptTellsWhatTheNextOnesCost) {
  Machine machine(kSmall);
  StepModel model;
  EXPECT_EQ(model.Seconds(Contents(1, 512, 0)), 0);
  const StepContents first = Contents(0, 256, 0);
  model.Observe(first, machine.Seconds(first));
  EXPECT_NEAR(model.Seconds(first), machine.Seconds(first), 1e-6);
  EXPECT_NEAR(model.PromptTokens(Contents(1, 0, 0), 0, 0.1, 512), 0.1 / 6e-4, 40);
}

TEST(StepModel, OneStepThatTookFarTooLongChangesLittle) {
  for (double factor : {10.0, 1e3, 1e9}) {
    Machine machine(kSmall, 0.1);
    StepModel model;
    Serve(400, 8, 0.2, &machine, &model);
    for (int prompt : {0, 128}) {
      const StepContents contents = Contents(8, prompt, 256);
      const double before = model.Seconds(contents);
      StepModel after = model;
      after.Observe(contents, factor * before);
      for (int other : {0, 64, 128, 512}) {
        const StepContents seen = Contents(8, other, 256);
        EXPECT_NEAR(after.Seconds(seen) / model.Seconds(seen), 1, 0.05) << factor << " " << other;
      }
    }
  }
}

TEST(StepModel, FollowsAMachineThatBecomesSlowerAndQuickAgain) {
  Machine machine(kSmall, 0.1);
  StepModel model;
  Serve(400, 8, 0.2, &machine, &model);
  for (double factor : {3.0, 1.0 / 3}) {
    machine.SlowDown(factor);
    Serve(600, 8, 0.2, &machine, &model);
    double slowest = 0, quickest = 1e9;
    Serve(100, 8, 0.2, &machine, &model, &slowest, &quickest);
    EXPECT_LT(slowest, 1.3 * 0.2);
    EXPECT_GT(quickest, 0.75 * 0.2);
  }
}

TEST(StepModel, WhatPromptsCostIsKnownAfterALongTimeWithoutAny) {
  Machine machine(kSmall, 0.1);
  StepModel model;
  Serve(400, 8, 0.2, &machine, &model);
  const StepContents prompt = Contents(8, 128, 256);
  const double before = model.Seconds(prompt);
  for (int step = 0; step < 100000; ++step) {
    const StepContents decoding = Contents(4 + step % 8, 0, 256 + step % 1024);
    model.Observe(decoding, machine.Seconds(decoding));
  }
  EXPECT_NEAR(model.Seconds(prompt) / before, 1, 0.2);
}

TEST(StepModel, SoManyTokensFitAndNotOneMore) {
  Machine machine(kSmall);
  StepModel model(0);
  for (const StepContents& contents : Grid()) model.Observe(contents, machine.Seconds(contents));
  model.Fit(100000);
  for (int decoding : {1, 8, 16}) {
    for (int position : {0, 500, 2000}) {
      for (double target : {0.1, 0.15, 0.2}) {
        const StepContents alone = Contents(decoding, 0, 100);
        const int tokens = model.PromptTokens(alone, position, target, 512);
        ASSERT_GT(tokens, 16);
        ASSERT_LT(tokens, 512);
        const auto with = [&](int more) {
          StepContents contents = alone;
          contents.Add(tokens + more, position, 0);
          return model.Seconds(contents);
        };
        EXPECT_LE(with(0), target);
        EXPECT_GE(with(2), target);  // Of odd numbers half a token is left out of the pairs.
      }
    }
  }
}

TEST(StepModel, PromptsHaveHalfOfAStepABlockAndNoMoreThanThereIsRoom) {
  Machine machine(kSmall);
  StepModel model(0);
  for (const StepContents& contents : Grid()) model.Observe(contents, machine.Seconds(contents));
  model.Fit(100000);
  const StepContents many = Contents(64, 0, 1000);
  const double alone = model.Seconds(many);
  for (double target : {0.0, alone / 2, alone, 2 * alone}) {
    StepContents contents = many;
    contents.Add(model.PromptTokens(many, 0, target, 512), 0, 0);
    EXPECT_NEAR(model.Seconds(contents), 2 * alone, 0.02 * alone) << target;
  }
  // 8 ms of decoding are not worth a block.
  EXPECT_EQ(model.PromptTokens(Contents(1, 0, 100), 100000, 0, 512), 16);
  EXPECT_EQ(model.PromptTokens(Contents(1, 0, 100), 100000, 0, 10), 10);
  EXPECT_EQ(model.PromptTokens(many, 0, kInfinity, 448), 448);
  EXPECT_EQ(model.PromptTokens(many, 0, 10, 448), 448);
  EXPECT_EQ(model.PromptTokens(many, 0, 10, 0), 0);
  // Before anything is known.
  EXPECT_EQ(StepModel().PromptTokens(many, 0, 0.2, 448), 448);
  EXPECT_EQ(StepModel().PromptTokens(many, 0, 0, 448), 448);
}

}  // namespace
}  // namespace packrat
