#include "runtime/sampling_state.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <memory>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/sampling.h"
#include "runtime/outbox.h"
#include "tests/runtime/sampling_reference.h"

namespace packrat {
namespace {

// The same as the engine does with a row.
absl::Status Sample(Sampler* sampler, const SamplingState& state, absl::Span<const int32_t> masked,
                    uint64_t position, float* logits, int32_t* token, TokenLogprobs* logprobs,
                    absl::Span<const uint32_t> mask = {}) {
  SampledToken sampled;
  sampler->Sample(state.Row(masked, position, mask), logits, &sampled);
  if (sampled.status != SampledToken::Status::kOk) return ToStatus(sampled.status);
  *token = sampled.token;
  if (logprobs == nullptr) return absl::OkStatus();
  logprobs->logprob = sampled.logprob;
  for (int i = 0; i < sampled.num_top; ++i) {
    logprobs->top.emplace_back(sampled.top[i].token, sampled.top[i].logprob);
  }
  return absl::OkStatus();
}

int32_t Draw(Sampler* sampler, const Case& c, uint64_t position,
             TokenLogprobs* logprobs = nullptr) {
  SamplingState state(c.params, c.num_ids);
  state.Begin(c.prompt, 100);
  for (int32_t token : c.generated) state.AddGenerated(token);
  std::vector<float> logits = c.logits;
  int32_t token = -1;
  const absl::Status status =
      Sample(sampler, state, c.masked, position, logits.data(), &token, logprobs, c.mask);
  EXPECT_EQ(status, absl::OkStatus());
  return token;
}

TEST(CounterUniform, IsPhilox) {
  // Known answer of Philox 4x32-10 for counter 0 and key 0: 6627e8d5 e169c58d bc57ac4c 9b00dbd8.
  EXPECT_EQ(CounterUniform(0, 0), static_cast<double>(0xe169c58d6627e8d5u >> 11) * 0x1p-53);
  double sum = 0, square = 0;
  for (int i = 0; i < 100000; ++i) {
    const double u = CounterUniform(77, i);
    ASSERT_GE(u, 0.0);
    ASSERT_LT(u, 1.0);
    sum += u;
    square += u * u;
  }
  EXPECT_NEAR(sum / 1e5, 0.5, 0.003);  // Three standard errors.
  EXPECT_NEAR(square / 1e5, 1.0 / 3, 0.003);
  EXPECT_NE(CounterUniform(1, 5), CounterUniform(5, 1));
  EXPECT_NE(CounterUniform(uint64_t{1} << 40, 5), CounterUniform(0, 5));
  EXPECT_NE(CounterUniform(3, uint64_t{1} << 40), CounterUniform(3, 0));
}

TEST(Sampler, InvertsTheReferenceDistribution) {
  std::mt19937_64 random(21);
  for (int vocab : {20, 300, 5000}) {
    Sampler* sampler = nullptr;
    std::unique_ptr<Sampler> owned;
    for (int round = 0; round < 300; ++round) {
      const Case c = RandomCase(&random, vocab);
      owned = std::make_unique<Sampler>(vocab);
      sampler = owned.get();
      // Where the sum stands within rounding of top_p, one token more or fewer is as right.
      std::vector<std::vector<double>> distributions;
      for (double nudge : {0.0, -1e-6, 1e-6}) {
        distributions.push_back(ReferenceProbabilities(c, c.params.top_p + nudge));
      }
      for (int position = 0; position < 5; ++position) {
        const int32_t token = Draw(sampler, c, position);
        ASSERT_GE(token, 0);
        ASSERT_LT(token, c.num_ids);
        const double u = CounterUniform(c.params.seed, position);
        const bool agrees = std::any_of(distributions.begin(), distributions.end(),
                                        [&](const auto& p) { return Agrees(p, token, u); });
        ASSERT_TRUE(agrees) << "vocab " << vocab << " round " << round << " token " << token
                            << " top_k " << c.params.top_k << " top_p " << c.params.top_p
                            << " min_p " << c.params.min_p;
      }
    }
  }
}

TEST(Sampler, FrequenciesFollowTheProbabilities) {
  std::mt19937_64 random(5);
  for (int round = 0; round < 6; ++round) {
    Case c = RandomCase(&random, 40);
    Sampler sampler(40);
    const std::vector<double> p = ReferenceProbabilities(c, c.params.top_p);
    constexpr int kDraws = 20000;
    std::vector<int> counts(40, 0);
    for (int i = 0; i < kDraws; ++i) ++counts[Draw(&sampler, c, i)];
    double chi_square = 0;
    int degrees = -1;
    for (int i = 0; i < c.num_ids; ++i) {
      const double expected = p[i] * kDraws;
      if (expected < 5) continue;  // Too rare for the test; the exact test above covers them.
      chi_square += (counts[i] - expected) * (counts[i] - expected) / expected;
      ++degrees;
    }
    // Mean `degrees`, standard deviation sqrt(2 * degrees).
    if (degrees > 0) {
      EXPECT_LT(chi_square, degrees + 4 * std::sqrt(2.0 * degrees)) << round;
    }
  }
}

TEST(Sampler, GreedyTakesTheBestAndOfEqualsTheLowest) {
  std::mt19937_64 random(8);
  for (int round = 0; round < 200; ++round) {
    Case c = RandomCase(&random, 500);
    c.params.temperature = 0;
    for (float& x : c.logits) x = std::round(x);
    c.params.repetition_penalty = 1;
    c.params.presence_penalty = c.params.frequency_penalty = 0;
    c.params.logit_bias.clear();
    Sampler sampler(500);
    const std::vector<double> scores = ReferenceScores(c);
    EXPECT_EQ(Draw(&sampler, c, round),
              std::max_element(scores.begin(), scores.end()) - scores.begin());
  }
}

TEST(Sampler, TinyTemperaturesAreGreedy) {
  Case c;
  c.num_ids = 5;
  c.logits = {0.1f, 0.9f, 0.9001f, -3.0f, 0.5f};
  Sampler sampler(5);
  for (float temperature : {1e-6f, 1e-30f, 1e-45f}) {
    c.params.temperature = temperature;
    for (int position = 0; position < 50; ++position) EXPECT_EQ(Draw(&sampler, c, position), 2);
  }
}

TEST(Sampler, Logprobs) {
  std::mt19937_64 random(31);
  for (int round = 0; round < 200; ++round) {
    Case c = RandomCase(&random, 300);
    c.params.num_logprobs = round % 21;
    if (round % 2) c.params.temperature = 0;
    Sampler sampler(300);
    const std::vector<double> scores = ReferenceScores(c);
    const std::vector<double> p = Softmax(scores, 1.0);
    TokenLogprobs logprobs;
    const int32_t token = Draw(&sampler, c, round, &logprobs);
    // Scores up to 30 in float32, and a sum of weights.
    EXPECT_NEAR(logprobs.logprob, std::log(p[token]), 2e-5);
    const size_t possible =
        std::count_if(scores.begin(), scores.end(), [](double x) { return std::isfinite(x); });
    ASSERT_EQ(logprobs.top.size(), std::min<size_t>(*c.params.num_logprobs, possible));
    std::vector<double> sorted = p;
    std::sort(sorted.rbegin(), sorted.rend());
    for (size_t i = 0; i < logprobs.top.size(); ++i) {
      EXPECT_NEAR(logprobs.top[i].second, std::log(sorted[i]), 2e-5);
      EXPECT_NEAR(logprobs.top[i].second, std::log(p[logprobs.top[i].first]), 2e-5);
    }
  }
}

TEST(Sampler, GivenTokensAreScored) {
  std::mt19937_64 random(41);
  for (int round = 0; round < 300; ++round) {
    Case c = RandomCase(&random, round % 3 == 0 ? 20 : 700);
    c.params.allowed_ids.clear();
    c.mask.clear();
    c.params.num_logprobs = 3;
    const auto given = static_cast<int32_t>(random() % c.num_ids);
    SamplingState state(c.params, c.num_ids);
    state.Begin(c.prompt, 100);
    for (int32_t token : c.generated) state.AddGenerated(token);
    SamplingRow row = state.Row(c.masked, round);
    row.given = given;
    Sampler sampler(c.num_ids);
    std::vector<float> logits = c.logits;
    SampledToken got;
    sampler.Sample(row, logits.data(), &got);
    ASSERT_EQ(got.status, SampledToken::Status::kOk);
    EXPECT_EQ(got.token, given);
    const ReferenceScore expected = ScoreOf(c, given);
    EXPECT_EQ(got.best, got.top[0].token);
    EXPECT_EQ(got.best, expected.best);
    // As for log-probabilities; each part of the entropy is off by as much of itself.
    EXPECT_NEAR(got.entropy, expected.entropy, 2e-5 * (1 + expected.entropy));
    EXPECT_NEAR(got.margin, expected.margin, 2e-5);
    if (std::isfinite(expected.logprob)) {
      EXPECT_NEAR(got.logprob, expected.logprob, 2e-5);
    } else {
      EXPECT_EQ(got.logprob, expected.logprob);  // It is banned.
    }
  }
}

TEST(Sampler, OfOneTokenTheMarginIsInfinite) {
  SamplingRow row;
  row.num_ids = 1;
  row.given = 0;
  Sampler sampler(1);
  float logit = 3;
  SampledToken got;
  sampler.Sample(row, &logit, &got);
  EXPECT_EQ(got.best, 0);
  EXPECT_EQ(got.entropy, 0);
  EXPECT_EQ(got.margin, std::numeric_limits<float>::infinity());
}

TEST(Sampler, PaddingIsNeverSampled) {
  Case c;
  c.num_ids = 3;
  c.logits = {0, 0, 0, 1000, std::numeric_limits<float>::quiet_NaN()};
  Sampler sampler(5);
  c.params.allowed_ids = {1, 2, 3, 4};
  c.params.temperature = 5;
  for (int position = 0; position < 100; ++position) {
    const int32_t token = Draw(&sampler, c, position);
    EXPECT_TRUE(token == 1 || token == 2);
  }
}

// Penalties are added to bans, and more of the best are asked for than are left.
TEST(Sampler, WhatIsBannedStaysSoUnderPenalties) {
  for (const bool allow : {false, true}) {
    Case c;
    c.num_ids = 6;
    c.logits = {1, -2, 3, -4, 5, 6};
    c.prompt = {0, 1, 2, 3, 4, 5};
    c.params.repetition_penalty = 1.7f;
    c.params.presence_penalty = -5;
    c.params.frequency_penalty = -5;
    c.params.num_logprobs = 20;
    c.params.temperature = 3;
    if (allow) {
      c.params.allowed_ids = {0, 1, 3};
    } else {
      c.params.banned_ids = {2, 4, 5};
    }
    c.generated = {2, 4, 5, 5, 1};
    Sampler sampler(6);
    for (int position = 0; position < 100; ++position) {
      TokenLogprobs logprobs;
      const int32_t token = Draw(&sampler, c, position, &logprobs);
      EXPECT_TRUE(token == 0 || token == 1 || token == 3) << token;
      ASSERT_EQ(logprobs.top.size(), 3u);
      for (const auto& [id, logprob] : logprobs.top) {
        EXPECT_TRUE(id == 0 || id == 1 || id == 3) << id;
        EXPECT_TRUE(std::isfinite(logprob));
      }
    }
  }
}

TEST(Sampler, NonFiniteLogitsAreAnError) {
  Sampler sampler(40);
  for (float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                    -std::numeric_limits<float>::infinity()}) {
    std::vector<float> logits(40, 0.5f);
    logits[33] = bad;
    SamplingState state(SamplingParams(), 40);
    int32_t token = -1;
    EXPECT_EQ(Sample(&sampler, state, {}, 0, logits.data(), &token, nullptr),
              absl::InternalError("the model produced a non-finite value"));
  }
}

TEST(Sampler, NothingLeftIsAnError) {
  Sampler sampler(3);
  std::vector<float> logits(3, 0.5f);
  SamplingState state(SamplingParams(), 3);
  int32_t token = -1;
  const int32_t masked[] = {0, 1, 2};
  EXPECT_EQ(Sample(&sampler, state, masked, 0, logits.data(), &token, nullptr),
            absl::InternalError("no token is left to choose from"));
  // Nor where a mask and a list have nothing in common. What is beyond num_ids does not count.
  SamplingParams params;
  params.allowed_ids = {0, 1};
  logits.assign(3, 0.5f);
  const uint32_t mask[] = {0xfffffff4};
  EXPECT_EQ(Sample(&sampler, SamplingState(params, 3), {}, 0, logits.data(), &token, nullptr, mask),
            absl::InternalError("no token is left to choose from"));
}

TEST(Sampler, HugeLogitsStayInRange) {
  Case c;
  c.num_ids = 4;
  c.logits = {3e38f, -3e38f, 3.3e38f, 0};
  c.params.repetition_penalty = 0.001f;
  c.params.logit_bias = {{2, 1000}};
  c.prompt = {0, 2};
  Sampler sampler(4);
  for (int position = 0; position < 20; ++position) {
    const int32_t token = Draw(&sampler, c, position);
    EXPECT_TRUE(token == 0 || token == 2);  // Both at the largest float.
  }
}

// 24 GB, if max_tokens were taken at its word. All ids occur, in the prompt padding too.
TEST(SamplingState, CountsNoMoreTokensThanThereAre) {
  SamplingParams params;
  params.repetition_penalty = 1.5f;
  const std::vector<int32_t> prompt = {98, 99, 98};
  SamplingState state(params, /*num_ids=*/50);
  state.Begin(prompt, 1 << 30);
  for (int round = 0; round < 2; ++round) {
    for (int32_t id = 0; id < 50; ++id) state.AddGenerated(id);
  }
  Sampler sampler(100);
  std::vector<float> logits(100, 3.0f);
  int32_t token = -1;
  ASSERT_TRUE(Sample(&sampler, state, {}, 0, logits.data(), &token, nullptr).ok());
  EXPECT_FLOAT_EQ(logits[0], 2.0f);
  EXPECT_FLOAT_EQ(logits[49], 2.0f);
}

TEST(TokenCounts, CountsDistinctTokens) {
  TokenCounts counts;
  counts.Reserve(300);
  std::map<int32_t, int> expected;
  std::mt19937_64 random(2);
  for (int i = 0; i < 100; ++i) {
    const int32_t token = static_cast<int32_t>(random() % 200) * 1024;
    counts.AddPrompt(token);
    expected[token] += 0;
  }
  for (int i = 0; i < 5000; ++i) {
    const int32_t token = static_cast<int32_t>(random() % 200) * 1024;
    counts.AddGenerated(token);
    expected[token] += 1;
  }
  ASSERT_EQ(counts.entries().size(), expected.size());
  for (const auto& entry : counts.entries()) EXPECT_EQ(entry.generated, expected[entry.token]);
}

TEST(TokenCounts, GrowsWithWhatComes) {
  TokenCounts counts;
  counts.Reserve(3);
  for (int round = 0; round < 2; ++round) {
    for (int32_t token = 0; token < 5000; ++token) counts.AddGenerated(token * 7);
  }
  ASSERT_EQ(counts.entries().size(), 5000u);
  for (int32_t i = 0; i < 5000; ++i) {
    ASSERT_EQ(counts.entries()[i].token, 7 * i);
    ASSERT_EQ(counts.entries()[i].generated, 2);
  }
}

TEST(AnythingToSample, CountsWhatIsLeft) {
  SamplingParams params;
  EXPECT_TRUE(AnythingToSample(params, {}, 3));
  const int32_t masked[] = {0, 2, 2, 5};
  EXPECT_TRUE(AnythingToSample(params, masked, 3));
  params.banned_ids = {1, 1};
  EXPECT_FALSE(AnythingToSample(params, masked, 3));
  EXPECT_TRUE(AnythingToSample(params, masked, 4));
  params.allowed_ids = {2, 3};
  EXPECT_FALSE(AnythingToSample(params, masked, 3));
  EXPECT_TRUE(AnythingToSample(params, masked, 4));
}

// Words of a mask that are empty, full, mixed and not whole.
TEST(Sampler, OnlyWhatTheMaskHas) {
  constexpr int kIds = 101;
  Sampler sampler(kIds);
  SamplingParams params;
  params.temperature = 1;
  const SamplingState state(params, kIds);
  for (int id = 0; id < kIds; ++id) {
    std::vector<float> logits(kIds, 1.0f);
    uint32_t mask[4] = {};
    mask[id / 32] = 1u << (id % 32);
    int32_t token = -1;
    ASSERT_TRUE(Sample(&sampler, state, {}, id, logits.data(), &token, nullptr, mask).ok());
    EXPECT_EQ(token, id);
    for (int other = 0; other < kIds; ++other) {
      EXPECT_EQ(std::isinf(logits[other]), other != id) << id << " " << other;
    }
    // And one that has all others.
    logits.assign(kIds, 1.0f);
    logits[id] = 50;
    for (uint32_t& word : mask) word = ~word;
    ASSERT_TRUE(Sample(&sampler, state, {}, id, logits.data(), &token, nullptr, mask).ok());
    EXPECT_NE(token, id);
  }
}

}  // namespace
}  // namespace packrat
