#include "kernels/experts.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <numeric>
#include <optional>
#include <vector>

#include "kernels/quantized.h"
#include "tests/kernels/device.h"
#include "tests/kernels/quantized_weight.h"
#include "tests/kernels/reference.h"

namespace packrat {
namespace {

// Matrices (out, in) of one shape, as the device reads them.
#ifdef PACKRAT_GPU

template <class T>
class Matrices {
 public:
  Matrices(const std::vector<float>& values, int, int out, int in)
      : values_(Stored<T>::From(values)),
        tiles_(0),
        weight_{values_.data(), Stored<T>::kType, out, in} {}
  // Quantised.
  Matrices(const std::vector<std::byte>& tiles, DType format, int out, int in)
      : values_(0), tiles_(tiles), weight_{tiles_.data(), format, out, in} {}
  const Weight& weight() const { return weight_; }

 private:
  DeviceArray<T> values_;
  DeviceArray<std::byte> tiles_;
  Weight weight_;
};

#else

template <class T>
class Matrices {
 public:
  Matrices(const std::vector<float>& values, int count, int out, int in) {
    for (int i = 0; i < count; ++i) {
      matrices_.emplace_back(&values[size_t{1} * i * out * in], DType::kF32, Arithmetic::kFloat32,
                             out, in);
    }
    weight_ = {matrices_.data(), DType::kF32, out, in};
  }
  const Weight& weight() const { return weight_; }

 private:
  std::vector<PackedMatrix> matrices_;
  Weight weight_;
};

#endif

// A mixture with its tokens, and what it should make of them.
struct Mixture {
  ExpertsShape shape;
  int tokens;
  float scale = 0.7f;
  std::vector<float> up, down, bias;  // bias: may be empty.
  std::vector<float> logits, h, x;
  Storage storage;

  Mixture(Random* random, const ExpertsShape& s, bool biased, int num_tokens, Storage stored)
      : shape(s), tokens(num_tokens), storage(stored) {
    const size_t n = s.num_experts, d = s.hidden, f = s.width;
    up = storage(random->Normals(n * 2 * f * d, 0.4f));
    down = storage(random->Normals(n * d * f, 0.3f));
    h = storage(random->Normals(tokens * d));
    x = random->Normals(tokens * d);
    if (biased) bias = random->Normals(n, 0.3f);
    for (int t = 0; t < tokens; ++t) {
      std::vector<float> row;
      do {
        row = random->Normals(n, 1.5f);
      } while (!Apart(row));
      logits.insert(logits.end(), row.begin(), row.end());
    }
  }

  // What experts are chosen by.
  Vector Scores(const float* row) const {
    Vector scores(row, row + shape.num_experts);
    const double largest = *std::max_element(scores.begin(), scores.end());
    for (double& score : scores) {
      score = shape.score == RouterScore::kSigmoid ? Sigmoid(score) : std::exp(score - largest);
    }
    const double sum = std::accumulate(scores.begin(), scores.end(), 0.0);
    for (double& score : scores) score /= shape.score == RouterScore::kSigmoid ? 1.0 : sum;
    return scores;
  }
  Vector Keys(const float* row) const {
    Vector keys = Scores(row);
    for (size_t e = 0; e < bias.size(); ++e) keys[e] += bias[e];
    return keys;
  }
  // Whether float32 cannot confuse which of them are larger.
  bool Apart(const std::vector<float>& row) const {
    if (bias.empty()) return true;  // By the logits themselves.
    Vector keys = Keys(row.data());
    std::sort(keys.begin(), keys.end());
    for (size_t e = 1; e < keys.size(); ++e) {
      if (keys[e] - keys[e - 1] < 1e-6) return false;
    }
    return true;
  }

  // Sums in float32 of n terms are within n roundings of the sum of their magnitudes. silu'(a) is
  // at most 1.1; silu itself is good to 8 roundings, a weight to those of its exponential, of sums
  // over experts and of two divisions.
  void Expect(int t, Vector* expected, Vector* tolerance) const {
    const int n = shape.num_experts, d = shape.hidden, f = shape.width;
    const double stored = storage.rounding();
    const Vector scores = Scores(&logits[t * n]), keys = Keys(&logits[t * n]);
    std::vector<int> order(n);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return keys[a] > keys[b]; });
    order.resize(shape.num_chosen);
    double sum = 0;
    for (const int e : order) sum += scores[e];
    expected->assign(&x[t * d], &x[t * d] + d);
    tolerance->assign(d, 0.0);
    for (int c = 0; c < d; ++c) (*tolerance)[c] = kUnit * std::fabs((*expected)[c]);
    for (const int e : order) {
      const double share =
          scores[e] / (shape.normalize ? sum + shape.normalize_eps : 1) * shape.route_scale;
      Vector inner(f), inner_error(f);
      for (int i = 0; i < f; ++i) {
        double value[2] = {}, error[2] = {};
        for (const int part : {0, 1}) {
          const float* row = &up[((size_t{1} * e * 2 + part) * f + i) * d];
          for (int c = 0; c < d; ++c) {
            value[part] += double{row[c]} * h[t * d + c];
            error[part] += std::fabs(double{row[c]} * h[t * d + c]) * (d + 1) * kUnit;
          }
          error[part] += stored * std::fabs(value[part]);
        }
        const double gate = value[0] * Sigmoid(value[0]);
        inner[i] = gate * value[1];
        inner_error[i] = 1.1 * error[0] * (std::fabs(value[1]) + error[1]) +
                         std::fabs(gate) * error[1] + (10 * kUnit + stored) * std::fabs(inner[i]);
      }
      for (int c = 0; c < d; ++c) {
        double value = 0, error = 0, magnitude = 0;
        for (int i = 0; i < f; ++i) {
          const double weight = down[(size_t{1} * e * d + c) * f + i];
          value += weight * inner[i];
          error += std::fabs(weight) * inner_error[i];
          magnitude += std::fabs(weight) * (std::fabs(inner[i]) + inner_error[i]);
        }
        error += (f + 1) * kUnit * magnitude;
        (*expected)[c] += scale * share * value;
        (*tolerance)[c] +=
            scale * std::fabs(share) * (error + (40 + 2 * n) * kUnit * std::fabs(value));
      }
    }
  }

  // Those of the tokens alone, in this order.
  Mixture Only(const std::vector<int>& chosen) const {
    Mixture part = *this;
    part.tokens = static_cast<int>(chosen.size());
    const auto pick = [&](const std::vector<float>& from, int width) {
      std::vector<float> rows;
      for (const int t : chosen) {
        rows.insert(rows.end(), &from[t * width], &from[t * width] + width);
      }
      return rows;
    };
    part.logits = pick(logits, shape.num_experts);
    part.h = pick(h, shape.hidden);
    part.x = pick(x, shape.hidden);
    return part;
  }
};

template <class T>
class ExpertsTest : public KernelTest {
 protected:
  static constexpr Storage kStorage{sizeof(T) == 2};

  // What x becomes. packed_rows: for how many the CPU has room at a time.
  std::vector<float> Make(const Mixture& m, int packed_rows) {
    const ExpertsShape& s = m.shape;
    return Make(m, packed_rows, Matrices<T>(m.up, s.num_experts, 2 * s.width, s.hidden),
                Matrices<T>(m.down, s.num_experts, s.hidden, s.width));
  }
  std::vector<float> Make(const Mixture& m, int packed_rows, const Matrices<T>& up,
                          const Matrices<T>& down) {
    const ExpertsShape& s = m.shape;
    const size_t rows = size_t{1} * m.tokens * s.num_chosen;
    DeviceArray<float> bias(m.bias.empty() ? std::vector<float>{kNaN} : m.bias);
    DeviceArray<float> logits(m.logits), shares(rows), down_rows(rows * s.hidden), x(m.x);
    DeviceArray<T> h(Stored<T>::From(m.h)), up_rows(rows * 2 * s.width), inner(rows * s.width);
    DeviceArray<int32_t> chosen(rows), row_of(rows), token(rows), begins(s.num_experts + 1);
    const ExpertsWeights weights{up.weight(), down.weight(),
                                 m.bias.empty() ? nullptr : bias.data()};
    const ExpertsOperands operands{logits.data(),
                                   h.data(),
                                   Stored<T>::kType,
                                   {chosen.data(), shares.data(), row_of.data(), token.data(),
                                    begins.data(), up_rows.data(), inner.data(), down_rows.data()},
                                   x.data(),
                                   m.scale};
    const auto op = [&](auto device) {
      return ops::Experts(s, weights, m.tokens, operands, device);
    };
#ifdef PACKRAT_GPU
    EXPECT_TRUE(this->Run(op).ok());
#else
    const int widest = std::max(s.hidden, s.width);
    const Scratch scratch(MatMulScratchFloats(widest), size_t{1} * packed_rows * widest);
    EXPECT_TRUE(this->Run(scratch, op).ok());
#endif
    for (const auto* array : {&chosen, &row_of, &token, &begins}) array->Get();  // Zones.
    for (const auto* array : {&shares, &down_rows}) array->Get();
    up_rows.Get();
    inner.Get();
    return x.Get();
  }
  std::vector<float> Make(const Mixture& m) { return Make(m, m.tokens * m.shape.num_chosen); }

  void ExpectRight(const Mixture& m, const std::vector<float>& made) {
    const int d = m.shape.hidden;
    for (int t = 0; t < m.tokens; ++t) {
      Vector expected, tolerance;
      m.Expect(t, &expected, &tolerance);
      for (int c = 0; c < d; ++c) {
        ASSERT_NEAR(made[t * d + c], expected[c], tolerance[c])
            << "token " << t << " channel " << c;
      }
    }
  }
};
TYPED_TEST_SUITE(ExpertsTest, ActivationTypes);

constexpr RouterScore kScores[] = {RouterScore::kSoftmax, RouterScore::kSigmoid};

// Sizes with and without remainders, one expert, all experts, more than a warp of them.
ExpertsShape AnyShape(Random* random, int i) {
  const int experts = i == 0 ? 1 : random->OneOf<int>({2, 5, 8, 33, 70});
  const int chosen = i == 1 ? experts : random->Int(1, std::min(experts, 6));
  const bool normalize = random->Int(0, 1) == 1;
  return {experts,
          chosen,
          random->OneOf<int>({1, 16, 24, 33}),
          random->OneOf<int>({1, 8, 16, 19}),
          kScores[random->Int(0, 1)],
          normalize,
          normalize ? random->OneOf<float>({0.0f, 1e-6f, 0.25f}) : kNaN,
          random->OneOf<float>({1.0f, 2.5f})};
}

TYPED_TEST(ExpertsTest, MeetTheReferenceAndNoTokenSeesAnother) {
  Random random(1);
  for (int i = 0; i < (kOnCpu ? 24 : 8); ++i) {
    const ExpertsShape s = AnyShape(&random, i);
    const int tokens = random.OneOf<int>({1, 2, kOnCpu ? 70 : 19});
    const Mixture m(&random, s, random.Int(0, 1) == 1, tokens, this->kStorage);
    SCOPED_TRACE(testing::Message()
                 << tokens << " tokens, " << s.num_chosen << " of " << s.num_experts << " experts, "
                 << s.hidden << " x " << s.width << ", score " << static_cast<int>(s.score)
                 << ", normalize " << s.normalize << ", bias " << !m.bias.empty());
    this->ForEachDevice([&] {
      const std::vector<float> whole = this->Make(m);
      this->ExpectRight(m, whole);
      this->ForEachOrder([&] {
        EXPECT_TRUE(SameBits(this->Make(m, tokens), whole)) << "packed in several rounds";
      });
      const int t = random.Int(0, tokens - 1);
      const std::vector<float> alone = this->Make(m.Only({t}));
      EXPECT_TRUE(SameBits(alone.data(), &whole[t * s.hidden], s.hidden)) << "token " << t;
      std::vector<int> backwards(tokens);
      std::iota(backwards.rbegin(), backwards.rend(), 0);
      std::vector<float> other = this->Make(m.Only(backwards));
      for (int at = 0; at < tokens; ++at) {
        EXPECT_TRUE(SameBits(&other[at * s.hidden], &whole[backwards[at] * s.hidden], s.hidden));
      }
    });
    if (this->HasFailure()) return;
  }
}

#ifdef PACKRAT_GPU

// Experts whose matrices are quantised, the two kinds in any formats: as if their numbers were
// stored in float32.
TYPED_TEST(ExpertsTest, MayBeQuantised) {
  Random random(4);
  const std::optional<DType> formats[] = {{}, DType::kInt8, DType::kInt4};
  for (int i = 1; i < 9; ++i) {
    const auto up_format = formats[i % 3], down_format = formats[i / 3];
    const ExpertsShape s{5,
                         2,
                         random.OneOf<int>({32, 96, 160}),
                         random.OneOf<int>({32, 64}),
                         RouterScore::kSigmoid,
                         true,
                         1e-6f,
                         1.0f};
    Mixture m(&random, s, false, 9, this->kStorage);
    const auto quantise = [&](std::vector<float>* values, const std::optional<DType>& format,
                              int out, int in) {
      if (!format.has_value()) {
        return std::make_unique<Matrices<TypeParam>>(*values, s.num_experts, out, in);
      }
      std::vector<std::byte> tiles;
      values->clear();
      for (int e = 0; e < s.num_experts; ++e) {
        const auto one = MakeQuantizedWeight(&random, *format, out, in, /*any=*/false, 0.3f);
        values->insert(values->end(), one.values.begin(), one.values.end());
        tiles.insert(tiles.end(), one.tiles.begin(), one.tiles.end());
      }
      return std::make_unique<Matrices<TypeParam>>(tiles, *format, out, in);
    };
    const auto up = quantise(&m.up, up_format, 2 * s.width, s.hidden);
    const auto down = quantise(&m.down, down_format, s.hidden, s.width);
    SCOPED_TRACE(testing::Message() << "formats " << i % 3 << " and " << i / 3);
    const std::vector<float> whole = this->Make(m, 0, *up, *down);
    this->ExpectRight(m, whole);
    this->ForEachOrder([&] { EXPECT_TRUE(SameBits(this->Make(m, 0, *up, *down), whole)); });
    for (const int t : {0, 4, 8}) {
      const std::vector<float> alone = this->Make(m.Only({t}), 0, *up, *down);
      EXPECT_TRUE(SameBits(alone.data(), &whole[t * s.hidden], s.hidden)) << "token " << t;
    }
    if (this->HasFailure()) return;
  }
}

#endif

// A mixture of experts that make constants, so that what comes out says who was chosen: expert e
// has w, and of tokens whose h is 1 makes 2^e.
TYPED_TEST(ExpertsTest, EqualsAreChosenInOrderAndNaNLast) {
  const int experts = 40, chosen = 3;
  for (const bool biased : {false, true}) {
    Random random(2);
    ExpertsShape s{experts, chosen, 1, 1, RouterScore::kSigmoid, false, kNaN, 1.0f};
    Mixture m(&random, s, biased, 5, this->kStorage);
    if (biased) m.bias.assign(experts, 0.0f);
    m.scale = 1.0f;
    std::fill(m.up.begin(), m.up.end(), 1.0f);
    std::fill(m.h.begin(), m.h.end(), 1.0f);
    std::fill(m.x.begin(), m.x.end(), 0.0f);
    for (int e = 0; e < experts; ++e) m.down[e] = static_cast<float>(1 + e * e);
    std::fill(m.logits.begin(), m.logits.end(), -1.0f);
    const auto logit = [&](int t, int e) -> float& { return m.logits[t * experts + e]; };
    logit(1, 39) = logit(1, 20) = logit(1, 34) = logit(1, 38) = 2.0f;
    for (int e = 0; e < 38; ++e) logit(2, e) = kNaN;
    for (int e = 0; e < experts; ++e) logit(3, e) = kNaN;
    logit(4, 7) = logit(4, 1) = -kInfinity;
    const auto made = [&](double weight, const std::vector<int>& who) {
      double sum = 0;
      for (const int e : who) sum += weight * (1 + e * e) * Sigmoid(1);
      return sum;
    };
    this->ForEachDevice([&] {
      const std::vector<float> out = this->Make(m);
      const double tolerance = this->kStorage.bfloat16 ? 0.02 : 1e-5;
      EXPECT_NEAR(out[0] / made(Sigmoid(-1), {0, 1, 2}), 1, tolerance);
      EXPECT_NEAR(out[1] / made(Sigmoid(2), {20, 34, 38}), 1, tolerance);
      EXPECT_TRUE(std::isnan(out[2]));  // 38, 39 and the first of the others.
      EXPECT_TRUE(std::isnan(out[3]));
      EXPECT_NEAR(out[4] / made(Sigmoid(-1), {0, 2, 3}), 1, tolerance);
    });
  }
}

#ifndef PACKRAT_GPU

// A product of groups is the products of its rows, to the bit, in every format.
TEST(MatMulGroups, AreTheProductsOfEachRow) {
  struct Format {
    DType type;
    Arithmetic arithmetic;
  };
  std::vector<Format> formats;
  for (const DType type : {DType::kF32, DType::kBF16, DType::kF16, DType::kInt8, DType::kInt4}) {
    formats.push_back({type, Arithmetic::kFloat32});
  }
  formats.insert(formats.end(),
                 {{DType::kInt8, Arithmetic::kInt8}, {DType::kInt4, Arithmetic::kInt8}});
  ForEachCpu([&](int threads) {
    Random random(3);
    std::vector<Format> all = formats;
    if (CpuHasBFloat16()) all.push_back({DType::kBF16, Arithmetic::kBFloat16});
    for (const auto& [type, arithmetic] : all) {
      SCOPED_TRACE(testing::Message() << DTypeName(type) << " in " << ArithmeticName(arithmetic));
      const int in = 64, out = random.OneOf<int>({32, 45, 100}), groups = random.Int(1, 9);
      std::vector<PackedMatrix> weights;
      std::vector<int32_t> begins = {0};
      int most = 1;
      for (int g = 0; g < groups; ++g) {
        const int rows = random.OneOf<int>({0, 0, 1, 2, 13, 31});
        most = std::max(most, rows);
        begins.push_back(begins.back() + rows);
        PackedMatrix& weight = weights.emplace_back(type, arithmetic, out, in);
        for (int o = 0; o < out; ++o) {
          const std::vector<float> row = random.Normals(in, 0.1f, 0.02f);
          for (int k = 0; IsQuantized(type) && k < in / kQuantGroup; ++k) {
            QuantGroup group;
            ASSERT_TRUE(QuantizeGroup(&row[k * kQuantGroup], type, &group).ok());
            weight.SetGroup(o, k, group);
          }
          std::vector<uint16_t> halves;
          for (const float value : row) {
            uint32_t bits;
            std::memcpy(&bits, &value, sizeof bits);
            // A number of about its size in either format.
            const uint32_t half = (bits >> 16 & 0x8000) | 0x2800 | (bits >> 13 & 0x3ff);
            halves.push_back(static_cast<uint16_t>(type == DType::kBF16 ? bits >> 16 : half));
          }
          if (type == DType::kF32) weight.SetRows(o, 1, row.data());
          if (type == DType::kBF16 || type == DType::kF16) weight.SetRows(o, 1, halves.data());
        }
      }
      const int rows = begins.back();
      const std::vector<float> x = random.Normals(size_t{1} * rows * in + 1);
      PoisonedContext context(threads, size_t{1} * most * in, MatMulScratchFloats(in));
      GuardedFloats y(size_t{1} * rows * out);
      MatMul([&](int row, float* to) { std::copy_n(&x[size_t{1} * row * in], in, to); },
             MatMulGroups{groups, weights.data(), begins.data()}, y.data(), &context);
      EXPECT_TRUE(y.GuardsIntact());
      for (int g = 0; g < groups; ++g) {
        for (int row = begins[g]; row < begins[g + 1]; ++row) {
          std::vector<float> alone(out);
          const MatMulOutput output{&weights[g], alone.data(), out};
          MatMul(&x[size_t{1} * row * in], in, 1, absl::MakeConstSpan(&output, 1), &context);
          EXPECT_TRUE(SameBits(alone.data(), &y[size_t{1} * row * out], out)) << "row " << row;
        }
      }
    }
  });
}

#endif

}  // namespace
}  // namespace packrat
