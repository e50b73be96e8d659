// Sampling on the GPU against an exact definition by sorting, and against the CPU's sampler.
#ifndef PACKRAT_TESTS_GPU_SAMPLING_CASE_H_
#define PACKRAT_TESTS_GPU_SAMPLING_CASE_H_

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "kernels/sampling.h"
#include "tests/gpu/gpu.h"
#include "tests/runtime/sampling_reference.h"

namespace packrat {

inline constexpr float kInf = std::numeric_limits<float>::infinity();
inline constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
using Status = SampledToken::Status;

// The same definition as the kernel's, by sorting: weights of 24 bits, summed as integers in units
// of 2^-44. The kernel must give exactly this token.
struct Exact {
  int32_t token = -1;
  uint64_t begin = 0, end = 0, total = 0;  // The token's part of the sum of what is kept.
  double share_margin = 1;  // How far top_p is from the sums on both sides of the cut, of all.
};

inline float Penalised(const SamplingRow& row, int32_t generated, float x) {
  x = x > 0 ? x / row.repetition_penalty : x * row.repetition_penalty;
  if (generated > 0) {
    x -= row.presence_penalty + row.frequency_penalty * static_cast<float>(generated);
  }
  return std::max(-std::numeric_limits<float>::max(),
                  std::min(std::numeric_limits<float>::max(), x));
}

// Logits after bias, bans, penalties and the list of allowed ids.
inline std::vector<float> Edited(const SamplingRow& row, std::vector<float> x) {
  for (const auto& [id, bias] : row.logit_bias) x[id] += bias;
  for (int32_t id : row.banned) x[id] = -kInf;
  for (int32_t id : row.masked) x[id] = -kInf;
  for (int32_t id = 0; id < row.num_ids && !row.mask.empty(); ++id) {
    if ((row.mask[id / 32] >> (id % 32) & 1) == 0) x[id] = -kInf;
  }
  for (const TokenCount& c : row.counts) {
    if (x[c.token] != -kInf) x[c.token] = Penalised(row, c.generated, x[c.token]);
  }
  x.resize(row.num_ids);
  for (int32_t id = 0; id < row.num_ids && row.allow_list; ++id) {
    if (!std::binary_search(row.allowed.begin(), row.allowed.end(), id)) x[id] = -kInf;
  }
  return x;
}

inline Exact ExactDraw(const SamplingRow& row, const std::vector<float>& logits) {
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
      states.push_back(std::make_unique<SamplingState>(c.params, c.num_ids));
      states.back()->Begin(c.prompt, 1000);
      for (int32_t token : c.generated) states.back()->AddGenerated(token);
      cases.push_back(std::move(c));
      positions.push_back(position);
    }
    void MakeRows() {
      rows.clear();
      for (size_t i = 0; i < cases.size(); ++i) {
        rows.push_back(states[i]->Row(cases[i].masked, positions[i], cases[i].mask));
        if (i < given.size()) rows.back().given = given[i];
      }
    }
    std::vector<uint64_t> positions;
    std::vector<int32_t> given;  // Empty: all are drawn.
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

}  // namespace packrat

#endif  // PACKRAT_TESTS_GPU_SAMPLING_CASE_H_
