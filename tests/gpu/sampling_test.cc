#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "tests/gpu/sampling_case.h"

namespace packrat {
namespace {

// 20: a part of a tile; 5000: three tiles, 9001: more than a thread has on the way.
TEST_F(SamplingGpuTest, AllOptionsInRandomCombination) {
  for (const auto& [vocab, rounds] :
       {std::pair<int, int>{20, 60}, {301, 60}, {5000, 16}, {9001, 5}}) {
    SCOPED_TRACE(testing::Message() << "vocabulary " << vocab);
    Batch batch;
    for (int i = 0; i < rounds; ++i) {
      Case c = RandomCase(&random_, vocab);
      if (Pick(4) == 0) c.params.temperature = 0;
      if (Pick(2)) c.params.num_logprobs = Pick(kMaxLogprobs + 1);
      if (Pick(3) == 0) {  // Ties everywhere, and both zeros.
        for (float& x : c.logits) x = std::round(x);
      }
      batch.Add(std::move(c), Pick(1000));
    }
    Check(&batch, Sample(&batch, Pick(3), Pick(5)));
    if (HasFatalFailure()) return;
  }
}

TEST_F(SamplingGpuTest, Edges) {
  Batch batch;
  const auto add = [&](auto change) {
    for (int position = 0; position < 3; ++position) {
      Case c = RandomCase(&random_, 60);
      c.params = SamplingParams();
      c.params.num_logprobs = 20;
      c.masked.clear();
      c.mask.clear();
      change(&c);
      batch.Add(std::move(c), position);
    }
  };
  const auto ban_all_but = [](Case* c, int keep) {
    for (int id = 0; id < 60; ++id) {
      if (id != keep) c->params.banned_ids.push_back(id);
    }
  };
  add([&](Case* c) { ban_all_but(c, 17); });  // One candidate.
  add([&](Case* c) {
    ban_all_but(c, 17);
    c->params.temperature = 0;
    c->params.banned_ids.push_back(3);  // Twice.
    c->masked = {3, 4, 4};              // And again.
  });
  add([](Case* c) { c->params.allowed_ids = {5}; });
  add([](Case* c) {
    c->params.allowed_ids = {7, 2, 40, 7, 59, 59};
    c->params.banned_ids = {2};
  });
  add([](Case* c) { c->params.top_k = 60; });  // All, and more than the padding leaves.
  add([](Case* c) { c->params.top_k = 1; });
  add([](Case* c) { c->mask = {0x40, 0}; });  // One candidate, as above.
  add([](Case* c) {
    c->mask = {0x8000000c, 0x1};
    c->params.allowed_ids = {2, 31, 33};
    c->params.banned_ids = {2, 3};
  });
  add([](Case* c) {
    c->params.allowed_ids = {1, 2, 3};
    c->params.top_k = 4;  // More than there are.
  });
  add([](Case* c) { c->num_ids = 1; });
  add([](Case* c) { c->params.top_p = 1e-30f; });
  add([](Case* c) { c->params.top_p = std::nextafter(1.0f, 0.0f); });
  add([](Case* c) { c->params.min_p = std::nextafter(1.0f, 0.0f); });
  add([](Case* c) {     // Exactly at the bar, where it stays in: also in double, where the logit is
    float low = -1.0f;  // one whose weight is rounded down.
    while (ExpNonPositive(low) > std::exp(static_cast<double>(low)) * (1 - 1e-9)) low -= 0.01f;
    std::fill(c->logits.begin(), c->logits.end(), low);
    c->logits[59] = 0.0f;
    c->num_ids = 60;
    c->params.min_p = ExpNonPositive(low);
  });
  for (const float temperature : {1e-6f, 1e-30f, 1e-45f, 100.0f}) {
    add([&](Case* c) { c->params.temperature = temperature; });
  }
  add([](Case* c) {  // All equal: ranks are ids.
    std::fill(c->logits.begin(), c->logits.end(), -0.0f);
    c->logits[7] = 0.0f;
    c->params.top_k = 9;
  });
  add([](Case* c) {
    std::fill(c->logits.begin(), c->logits.end(), 3.0f);
    c->params.top_p = 0.3f;
  });
  add([](Case* c) {  // Far below the best: weights of 0.
    std::fill(c->logits.begin(), c->logits.end(), -200.0f);
    c->logits[7] = 0.0f;
    c->params.top_p = 0.99f;
    c->params.top_k = 30;
  });
  for (Case& c : batch.cases) {
    for (size_t i = c.num_ids; i < c.logits.size(); ++i)
      c.logits[i] = kNan;  // Padding is not read.
  }
  Check(&batch, Sample(&batch));
}

// Both tokens at the largest float, to which penalties are clamped.
TEST_F(SamplingGpuTest, HugeLogitsStayInRange) {
  Batch batch;
  for (int position = 0; position < 20; ++position) {
    Case c;
    c.num_ids = 4;
    c.logits = {3e38f, -3e38f, 3.3e38f, 0};
    c.params.repetition_penalty = 0.001f;
    c.params.logit_bias = {{2, 1000}};
    c.prompt = {0, 2};
    batch.Add(c, position);
  }
  const std::vector<SampledToken> sampled = Sample(&batch);
  for (size_t i = 0; i < sampled.size(); ++i) {
    EXPECT_EQ(sampled[i].status, Status::kOk);
    EXPECT_EQ(sampled[i].token, ExactDraw(batch.rows[i], batch.cases[i].logits).token);
    EXPECT_TRUE(sampled[i].token == 0 || sampled[i].token == 2);
  }
}

TEST_F(SamplingGpuTest, NonFiniteLogitsAreSeenWhateverIsDoneToThem) {
  Batch batch;
  std::vector<Status> expected;
  const auto add = [&](float bad, int at, auto change) {
    Case c = RandomCase(&random_, 3000);
    c.params = SamplingParams();
    c.params.temperature = static_cast<float>(Pick(2));
    c.num_ids = 2990;
    c.prompt.clear();
    c.generated.clear();
    c.masked.clear();
    c.mask.clear();
    c.logits[at] = bad;
    change(&c);
    batch.Add(std::move(c), 0);
    expected.push_back(at < 2990 ? Status::kNotFinite : Status::kOk);
  };
  for (const float bad : {kNan, -kNan, kInf, -kInf}) {
    for (const int at : {0, 2049, 2989, 2990}) {
      add(bad, at, [](Case*) {});
      add(bad, at, [&](Case* c) { c->params.logit_bias = {{at, 2.0f}}; });
      add(bad, at, [&](Case* c) { c->params.banned_ids = {at, 5, at}; });
      add(bad, at, [&](Case* c) { c->masked = {at}; });
      add(bad, at, [&](Case* c) {
        c->mask.assign(94, 0xaaaaaaaa);
        c->params.banned_ids = {at, 7};
      });
      add(bad, at, [&](Case* c) { c->params.allowed_ids = {5, 6}; });
      add(bad, at, [&](Case* c) {
        c->prompt = {at};
        c->params.repetition_penalty = 2.0f;
      });
      add(bad, at, [&](Case* c) {
        c->generated = {at};
        c->params.presence_penalty = 1.0f;
        c->params.banned_ids = {at};
        c->params.logit_bias = {{at, 2.0f}, {7, 1.0f}};
      });
    }
  }
  const std::vector<SampledToken> sampled = Sample(&batch, 2, 1);
  for (size_t i = 0; i < sampled.size(); ++i) EXPECT_EQ(sampled[i].status, expected[i]) << i;
}

TEST_F(SamplingGpuTest, NothingLeft) {
  Batch batch;
  Case c;
  c.num_ids = 3;
  c.logits = {0.5f, 1.0f, 2.0f, 3.0f};
  c.masked = {0, 1, 2};
  batch.Add(c, 0);
  c.masked = {2, 1};
  c.params.allowed_ids = {1, 2};
  batch.Add(c, 0);
  c.params.allowed_ids = {3};  // Padding.
  batch.Add(c, 0);
  c.params.allowed_ids = {0, 1};
  batch.Add(c, 0);
  c.masked = {};
  c.mask = {0xfffffffc};  // What is beyond num_ids does not count.
  batch.Add(c, 0);
  const std::vector<SampledToken> sampled = Sample(&batch);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(sampled[i].status, Status::kNothingLeft) << i;
  EXPECT_EQ(sampled[3].status, Status::kOk);
  EXPECT_EQ(sampled[3].token, 0);
  EXPECT_EQ(sampled[4].status, Status::kNothingLeft);
}

// Rows with a given token, against double precision and against the CPU.
TEST_F(SamplingGpuTest, GivenTokensAreScored) {
  for (const auto& [vocab, rounds] :
       {std::pair<int, int>{20, 40}, {301, 40}, {5000, 12}, {9001, 4}, {150001, 1}}) {
    SCOPED_TRACE(testing::Message() << "vocabulary " << vocab);
    Batch batch;
    for (int i = 0; i < rounds; ++i) {
      Case c = RandomCase(&random_, vocab);
      c.params.allowed_ids.clear();
      c.mask.clear();
      if (Pick(2)) c.params.num_logprobs = Pick(kMaxLogprobs + 1);
      if (i == 1) c.params.banned_ids = {0, 1, 1};  // Perhaps what is given.
      if (i == 2 || i == 3) {                       // One token, and all equal.
        c.params = SamplingParams();
        c.prompt = c.generated = c.masked = {};
        std::fill(c.logits.begin(), c.logits.end(), 0.25f);
        if (i == 2) c.num_ids = 1;
      }
      batch.given.push_back(i == 1 || i == 2 ? 0 : i % 4 == 0 ? c.num_ids - 1 : Pick(c.num_ids));
      batch.Add(std::move(c), Pick(1000));
    }
    const std::vector<SampledToken> sampled = Sample(&batch, Pick(3), Pick(5));
    for (int i = 0; i < rounds; ++i) {
      SCOPED_TRACE(testing::Message() << "row " << i);
      const Case& c = batch.cases[i];
      const SampledToken& got = sampled[i];
      ASSERT_EQ(got.status, Status::kOk);
      ASSERT_EQ(got.token, batch.given[i]);
      const ReferenceScore expected = ScoreOf(c, batch.given[i]);
      // As in CheckReference(); each part of the entropy is off by as much of itself.
      const double tolerance = 40 * 4 * 0x1p-24 + 87 * 0x1p-24 + 3e-7;
      EXPECT_EQ(got.best, expected.best);
      EXPECT_NEAR(got.entropy, expected.entropy, tolerance * (1 + expected.entropy));
      if (c.num_ids == 1) {
        EXPECT_EQ(got.margin, kInf);
      } else {
        EXPECT_NEAR(got.margin, expected.margin, 2 * tolerance);
      }
      if (c.params.num_logprobs.has_value()) {
        if (std::isfinite(expected.logprob)) {
          EXPECT_NEAR(got.logprob, expected.logprob, tolerance);
        } else {
          EXPECT_EQ(got.logprob, -kInf);
        }
      }
      Sampler sampler(c.num_ids);
      std::vector<float> logits = c.logits;
      SampledToken cpu;
      sampler.Sample(batch.rows[i], logits.data(), &cpu);
      EXPECT_EQ(cpu.token, got.token);
      EXPECT_EQ(cpu.best, got.best);
      EXPECT_EQ(cpu.margin, got.margin);
      EXPECT_NEAR(cpu.entropy, got.entropy, tolerance * (1 + expected.entropy));
    }
  }
}

// 150000 logits: 74 tiles. The hostile row has all in one bin of every first digit.
TEST_F(SamplingGpuTest, LargeVocabularies) {
  Batch batch;
  const int vocab = 150001;
  std::normal_distribution<float> normal(0, 3);
  for (int i = 0; i < 4; ++i) {
    Case c;
    c.num_ids = vocab - 5 * i;
    for (int v = 0; v < vocab; ++v)
      c.logits.push_back(i == 3 ? 8 + 1e-3f * normal(random_) : normal(random_));
    c.params.top_k = i == 1 ? 1000 : 0;
    c.params.top_p = i >= 2 ? 0.9f : 1.0f;
    c.params.seed = i;
    if (i == 2) c.params.num_logprobs = 20;
    batch.Add(std::move(c), 5 + i);
  }
  Check(&batch, Sample(&batch, 0, 0));
}

TEST_F(SamplingGpuTest, FrequenciesFollowTheProbabilities) {
  Case c;
  c.num_ids = 30;
  for (int i = 0; i < 30; ++i) c.logits.push_back(0.5f * static_cast<float>(i * 7 % 10));
  c.params.temperature = 1.5f;
  c.params.top_p = 0.8f;
  c.params.seed = 12;
  const std::vector<double> p = ReferenceProbabilities(c, c.params.top_p);
  constexpr int kDraws = 400;
  Batch batch;
  for (int i = 0; i < kDraws; ++i) batch.Add(c, i);
  std::vector<int> counts(30, 0);
  for (const SampledToken& sampled : Sample(&batch)) ++counts.at(sampled.token);
  double chi_square = 0, rest = 0;
  int degrees = -1;
  for (int i = 0; i < c.num_ids; ++i) {
    const double expected = p[i] * kDraws;
    if (expected == 0) {
      EXPECT_EQ(counts[i], 0);
    }
    if (expected < 5) {
      rest += expected;
      continue;
    }
    chi_square += (counts[i] - expected) * (counts[i] - expected) / expected;
    ++degrees;
  }
  ASSERT_GT(degrees, 3);
  EXPECT_LT(rest, kDraws / 20);
  // Mean `degrees`, standard deviation sqrt(2 * degrees).
  EXPECT_LT(chi_square, degrees + 4 * std::sqrt(2.0 * degrees));
}

TEST_F(SamplingGpuTest, AVocabularyBeyondTheLimitIsRefused) {
  const absl::Status status =
      gpu::Sample(nullptr, 1, gpu::kMaxSampledVocab + 1, nullptr, nullptr, stream_);
  EXPECT_TRUE(absl::IsInvalidArgument(status));
}

}  // namespace
}  // namespace packrat
