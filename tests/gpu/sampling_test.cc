#include "kernels/sampling.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "tests/gpu/gpu.h"
#include "tests/runtime/sampling_reference.h"

namespace packrat {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
using Status = SampledToken::Status;

// The same definition as the kernel's, by sorting: weights of 24 bits, summed as integers in units
// of 2^-44. The kernel must give exactly this token.
struct Exact {
  int32_t token = -1;
  uint64_t begin = 0, end = 0, total = 0;  // The token's part of the sum of what is kept.
  double share_margin = 1;  // How far top_p is from the sums on both sides of the cut, of all.
};

float Penalised(const SamplingRow& row, int32_t generated, float x) {
  x = x > 0 ? x / row.repetition_penalty : x * row.repetition_penalty;
  if (generated > 0) {
    x -= row.presence_penalty + row.frequency_penalty * static_cast<float>(generated);
  }
  return std::max(-std::numeric_limits<float>::max(),
                  std::min(std::numeric_limits<float>::max(), x));
}

// Logits after bias, bans, penalties and the list of allowed ids.
std::vector<float> Edited(const SamplingRow& row, std::vector<float> x) {
  for (const auto& [id, bias] : row.logit_bias) x[id] += bias;
  for (int32_t id : row.banned) x[id] = -kInf;
  for (int32_t id : row.masked) x[id] = -kInf;
  for (const TokenCount& c : row.counts) {
    if (x[c.token] != -kInf) x[c.token] = Penalised(row, c.generated, x[c.token]);
  }
  x.resize(row.num_ids);
  for (int32_t id = 0; id < row.num_ids && row.allow_list; ++id) {
    if (!std::binary_search(row.allowed.begin(), row.allowed.end(), id)) x[id] = -kInf;
  }
  return x;
}

Exact ExactDraw(const SamplingRow& row, const std::vector<float>& logits) {
  const std::vector<float> x = Edited(row, logits);
  std::vector<IndexedValue> ranked;
  for (int32_t id = 0; id < row.num_ids; ++id) {
    if (x[id] != -kInf) ranked.push_back({id, x[id]});
  }
  std::sort(ranked.begin(), ranked.end(), RanksBefore);
  Exact exact;
  if (row.temperature == 0) {
    exact.token = ranked[0].index;
    return exact;
  }
  if (row.top_k > 0 && row.top_k < static_cast<int>(ranked.size())) ranked.resize(row.top_k);
  const auto mass = [](float weight) { return static_cast<uint64_t>(std::ldexp(weight, 44)); };
  const float best = ranked[0].value;
  uint64_t all = 0;
  for (IndexedValue& v : ranked) {
    v.value = ExpNonPositive((v.value - best) * TemperatureScale(row.temperature));
    all += mass(v.value);
  }
  // Two logits may have one weight: then the lower id goes first.
  std::sort(ranked.begin(), ranked.end(), RanksBefore);
  if (row.top_p < 1) {
    const double target = static_cast<double>(row.top_p) * static_cast<double>(all);
    uint64_t sum = 0;
    size_t count = 0;
    while (static_cast<double>(sum) < target && count < ranked.size()) {
      sum += mass(ranked[count++].value);
    }
    const auto before = static_cast<double>(sum - mass(ranked[count - 1].value));
    exact.share_margin =
        std::min(target - before, static_cast<double>(sum) - target) / static_cast<double>(all);
    ranked.resize(count);
  }
  std::vector<IndexedValue> kept;
  for (const IndexedValue& v : ranked) {
    if (v.value >= row.min_p) kept.push_back(v);
  }
  std::sort(kept.begin(), kept.end(), [](auto& a, auto& b) { return a.index < b.index; });
  for (const IndexedValue& v : kept) exact.total += mass(v.value);
  const auto target = static_cast<uint64_t>(CounterUniform(row.seed, row.position) *
                                            static_cast<double>(exact.total));
  for (const IndexedValue& v : kept) {
    exact.token = v.index;
    exact.begin = exact.end;
    exact.end += mass(v.value);
    if (exact.end > target) break;
  }
  return exact;
}

class SamplingGpuTest : public GpuTest {
 protected:
  // Cases that are sampled together.
  struct Batch {
    std::vector<Case> cases;
    std::vector<std::unique_ptr<SamplingState>> states;
    std::vector<SamplingRow> rows;
    void Add(Case c, uint64_t position) {
      states.push_back(std::make_unique<SamplingState>(c.params, c.prompt, 1000, c.num_ids));
      for (int32_t token : c.generated) states.back()->AddGenerated(token);
      cases.push_back(std::move(c));
      positions.push_back(position);
    }
    void MakeRows() {
      rows.clear();
      for (size_t i = 0; i < cases.size(); ++i) {
        rows.push_back(states[i]->Row(cases[i].masked, positions[i]));
      }
    }
    std::vector<uint64_t> positions;
  };

  // What the device makes of them, in each thread order, with `unused` places after them and
  // `padding` floats after each row.
  std::vector<SampledToken> Sample(Batch* batch, int unused = 1, int padding = 3) {
    batch->MakeRows();
    const size_t vocab = batch->cases[0].logits.size(), stride = vocab + padding;
    const size_t rows = batch->rows.size(), places = rows + unused;
    std::vector<float> logits(places * stride, kNan);
    for (size_t i = 0; i < rows; ++i) {
      EXPECT_EQ(batch->cases[i].logits.size(), vocab);
      std::copy_n(batch->cases[i].logits.data(), vocab, logits.data() + i * stride);
    }
    std::vector<std::byte> packed(gpu::PackedSamplingBytes(batch->rows, places));
    gpu::PackSampling(batch->rows, places, packed.data());
    DeviceArray<std::byte> device_packed(packed);
    DeviceArray<float> device_logits(logits.size());
    std::vector<SampledToken> first;
    ForEachOrder([&] {
      DeviceArray<SampledToken> sampled(places);
      device_logits.Set(logits);
      EXPECT_TRUE(gpu::Sample(device_packed.data(), places, stride, device_logits.data(),
                              sampled.data(), stream_)
                      .ok());
      Wait();
      std::vector<SampledToken> out = sampled.Get();
      const std::vector<float> after = device_logits.Get();
      for (size_t i = 0; i < places; ++i) {
        for (size_t j = i < rows ? vocab : 0; j < stride; ++j) {
          EXPECT_TRUE(std::isnan(after[i * stride + j])) << "padding or an unused row was changed";
        }
      }
      for (size_t i = rows; i < places; ++i) {
        const std::vector<unsigned char> untouched(sizeof out[i], 0xFF);
        EXPECT_EQ(std::memcmp(&out[i], untouched.data(), sizeof out[i]), 0);
      }
      out.resize(rows);
      if (first.empty()) first = out;
      for (size_t i = 0; i < rows; ++i) {
        EXPECT_EQ(std::memcmp(&out[i], &first[i], sizeof out[i]), 0) << "row " << i;
      }
    });
    return first;
  }

  // All that is promised of sampled tokens.
  void Check(Batch* batch, const std::vector<SampledToken>& sampled) {
    for (size_t i = 0; i < batch->cases.size(); ++i) {
      const SamplingRow& row = batch->rows[i];
      SCOPED_TRACE(testing::Message()
                   << "row " << i << " temperature " << row.temperature << " top_k " << row.top_k
                   << " top_p " << row.top_p << " min_p " << row.min_p << " ids " << row.num_ids
                   << (row.allow_list ? " allowed " : " all ") << row.allowed.size());
      ASSERT_EQ(sampled[i].status, Status::kOk);
      const Exact exact = ExactDraw(row, batch->cases[i].logits);
      ASSERT_EQ(sampled[i].token, exact.token);
      CheckReference(batch->cases[i], row, sampled[i]);
      CheckCpu(batch->cases[i], row, exact, sampled[i]);
      if (HasFatalFailure()) return;
    }
  }

  // Against double precision.
  void CheckReference(const Case& c, const SamplingRow& row, const SampledToken& sampled) {
    const std::vector<double> scores = ReferenceScores(c);
    if (row.temperature > 0) {
      // Where the sum stands within rounding of top_p, one token more or fewer is as right.
      const double u = CounterUniform(row.seed, row.position);
      bool agrees = false;
      for (double nudge : {0.0, -1e-6, 1e-6}) {
        agrees =
            agrees || Agrees(ReferenceProbabilities(c, c.params.top_p + nudge), sampled.token, u);
      }
      ASSERT_TRUE(agrees);
    }
    if (row.num_logprobs < 0) {
      EXPECT_EQ(sampled.num_top, -1);  // Not touched.
      return;
    }
    // A score up to 40 has three roundings, a weight one of its exponent (87 * 2^-24) and of the
    // exponential, the result one.
    const double tolerance = 40 * 4 * 0x1p-24 + 87 * 0x1p-24 + 3e-7;
    const std::vector<double> p = Softmax(scores, 1.0);
    EXPECT_NEAR(sampled.logprob, std::log(p[sampled.token]), tolerance);
    const auto possible =
        std::count_if(scores.begin(), scores.end(), [](double x) { return std::isfinite(x); });
    ASSERT_EQ(sampled.num_top, std::min<int>(row.num_logprobs, possible));
    // The order is that of the float32 scores.
    const std::vector<float> x = Edited(row, c.logits);
    std::vector<IndexedValue> ranked;
    for (size_t id = 0; id < x.size(); ++id) ranked.push_back({static_cast<int32_t>(id), x[id]});
    std::sort(ranked.begin(), ranked.end(), RanksBefore);
    for (int t = 0; t < sampled.num_top; ++t) {
      ASSERT_EQ(sampled.top[t].token, ranked[t].index);
      EXPECT_NEAR(sampled.top[t].logprob, std::log(p[ranked[t].index]), tolerance);
    }
  }

  // The CPU's sampler adds its weights in float32: a sum of 256 in lanes of 16 (15 additions) and
  // then four halvings. Both its total and its running sum may be off by so much, and its total may
  // cut top_p elsewhere.
  void CheckCpu(const Case& c, const SamplingRow& row, const Exact& exact,
                const SampledToken& sampled) {
    const double rounding = 2 * (15 + 4) * 0x1p-24;
    Sampler sampler(row.num_ids);
    std::vector<float> logits = c.logits;
    SampledToken cpu;
    sampler.Sample(row, logits.data(), &cpu);
    ASSERT_EQ(cpu.status, Status::kOk);
    if (cpu.token != sampled.token) {
      ASSERT_GT(row.temperature, 0.0f);
      const double target =
          CounterUniform(row.seed, row.position) * static_cast<double>(exact.total);
      const double distance = std::min(target - static_cast<double>(exact.begin),
                                       static_cast<double>(exact.end) - target);
      ASSERT_TRUE(distance <= rounding * static_cast<double>(exact.total) ||
                  exact.share_margin <= rounding)
          << "the CPU says " << cpu.token << ", the GPU " << sampled.token;
      return;
    }
    if (row.num_logprobs < 0) return;
    EXPECT_NEAR(cpu.logprob, sampled.logprob, rounding + 40 * 0x1p-24);
    ASSERT_EQ(cpu.num_top, sampled.num_top);
    for (int t = 0; t < cpu.num_top; ++t) EXPECT_EQ(cpu.top[t].token, sampled.top[t].token);
  }

  int Pick(int n) { return static_cast<int>(random_() % n); }
  std::mt19937_64 random_{11};
};

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
  const std::vector<SampledToken> sampled = Sample(&batch);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(sampled[i].status, Status::kNothingLeft) << i;
  EXPECT_EQ(sampled[3].status, Status::kOk);
  EXPECT_EQ(sampled[3].token, 0);
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
    c.params.num_logprobs = i == 2 ? 20 : -1;
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
