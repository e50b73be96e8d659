#include "kernels/rg_lru.h"

#include <cmath>
#include <deque>

#include "tests/kernels/tail_feed.h"

namespace packrat {
namespace {

struct LruText {
  int length;
  std::vector<float> x, gate;  // (length, width), (length, stride)
  Vector expected, tolerance;  // (length, width)
};

struct LruLayer {
  RgLruShape shape;
  int stride;
  std::vector<float> input_gate, input_bias, recurrent_gate, recurrent_bias, rate;
  std::deque<LruText> texts;
};

// One channel, token by token in double precision.
//
// The bound. A gate's argument is a chain over the head's channels, each step of which may round
// what it has; a sigmoid feels a quarter of that, and takes 6 roundings of its own. With l = log a,
// a is off by as much as l is, times a, and sqrt(1 - a^2) by half of (relative error of l), since 1
// - a^2 goes to zero as -2 l does. A step keeps a of the error of h, and adds what it rounds.
void Expect(const LruLayer& layer, int channel, Storage storage, LruText* text) {
  const RgLruShape& s = layer.shape;
  const int dim = s.head_dim, head = channel / dim, j = channel % dim;
  double h = 0, error = 0;
  for (int t = 0; t < text->length; ++t) {
    const float* x = &text->x[static_cast<size_t>(t) * s.width() + head * dim];
    double in = layer.input_bias[channel], forget = layer.recurrent_bias[channel];
    double in_size = std::fabs(in), forget_size = std::fabs(forget);
    for (int i = 0; i < dim; ++i) {
      const size_t at = (static_cast<size_t>(head) * dim + i) * dim + j;
      in += double{x[i]} * layer.input_gate[at];
      forget += double{x[i]} * layer.recurrent_gate[at];
      in_size += std::fabs(double{x[i]} * layer.input_gate[at]);
      forget_size += std::fabs(double{x[i]} * layer.recurrent_gate[at]);
    }
    // Relative errors: sigmoid'(a) / sigmoid(a) is at most one.
    const double in_error = ((dim + 1) * in_size + 8) * kUnit;
    const double log_error = ((dim + 1) * forget_size + 9) * kUnit;
    const double log_a = -layer.rate[channel] * Sigmoid(forget), a = std::exp(log_a);
    const double added = Sigmoid(in) * x[j] * (t == 0 ? 1 : std::sqrt(-std::expm1(2 * log_a)));
    const double kept = t == 0 ? 0 : a * h;
    error = (t == 0 ? 0 : a * error) +
            std::fabs(kept) * (std::fabs(log_a) * log_error + 4 * kUnit) +
            std::fabs(added) * (in_error + log_error + 8 * kUnit) + kUnit * std::fabs(kept + added);
    h = kept + added;
    const double y = text->gate[static_cast<size_t>(t) * layer.stride + channel];
    const double u = std::sqrt(2 / M_PI) * (y + 0.044715 * y * y * y);
    // The argument's own roundings count by its size where the sigmoid is far below one.
    const double gelu = y * Sigmoid(2 * u), gelu_error = (8 + 8 * std::fabs(u)) * kUnit;
    const size_t at = static_cast<size_t>(t) * s.width() + channel;
    text->expected[at] = h * gelu;
    text->tolerance[at] = std::fabs(gelu) * error +
                          std::fabs(h * gelu) * (gelu_error + kUnit + storage.rounding()) + 1e-37;
  }
}

// rate: of the forgetting, times a spread of e.
LruLayer RandomLayer(Random* random, const RgLruShape& s, const std::vector<int>& lengths,
                     float rate, Storage storage, float gates = 1.0f) {
  LruLayer layer{s, s.width() + random->Int(0, 3), {}, {}, {}, {}, {}, {}};
  const size_t matrix = static_cast<size_t>(s.width()) * s.head_dim;
  const float scale = 1.0f / std::sqrt(static_cast<float>(s.head_dim));
  layer.input_gate = random->Normals(matrix, scale);
  layer.recurrent_gate = random->Normals(matrix, scale);
  layer.input_bias = random->Normals(s.width());
  layer.recurrent_bias = random->Normals(s.width());
  for (const float x : random->Normals(s.width())) layer.rate.push_back(rate * std::exp(x));
  for (const int length : lengths) {
    LruText& text = layer.texts.emplace_back(LruText{length, {}, {}, {}, {}});
    text.x = random->Normals(static_cast<size_t>(length) * s.width());
    text.gate = storage(random->Normals(static_cast<size_t>(length) * layer.stride, 2 * gates));
    text.expected.resize(text.x.size());
    text.tolerance.resize(text.x.size());
    for (int channel = 0; channel < s.width(); ++channel) Expect(layer, channel, storage, &text);
  }
  return layer;
}

template <class T>
class RgLruTest : public TextsTest {
 protected:
  static constexpr Storage kStorage{sizeof(T) == 2};

  Outputs Feed(const LruLayer& layer, Cut cut, uint64_t seed = 7) {
    const RgLruShape& s = layer.shape;
    TailFeed feed(layer.texts, cut, seed, RgLruTailFloats(s));
    const DeviceArray<float> input_gate(layer.input_gate), input_bias(layer.input_bias),
        recurrent_gate(layer.recurrent_gate), recurrent_bias(layer.recurrent_bias),
        rate(layer.rate);
    const RgLruWeights weights{input_gate.data(), input_bias.data(), recurrent_gate.data(),
                               recurrent_bias.data(), rate.data()};
    return feed.template Run<T>(s.width(), [&](const DeviceStep& step, T* out) {
      const DeviceArray<float> x(feed.Gather(step, &LruText::x, s.width())), work(2 * x.size());
      const DeviceArray<T> gate(Stored<T>::From(feed.Gather(step, &LruText::gate, layer.stride)));
      const RgLruOperands operands{x.data(),    gate.data(), layer.stride,
                                   work.data(), out,         Stored<T>::kType};
      const absl::Status status = Run([&](auto device) {
        return ops::RgLru(s, weights, step.batch(), feed.tails(), operands, device);
      });
      work.Get();  // Checks that nothing was written beside it.
      return status;
    });
  }

  void ExpectRightInEveryCut(const LruLayer& layer) {
    SCOPED_TRACE(testing::Message() << layer.shape.num_heads << " heads of " << layer.shape.head_dim
                                    << ", text " << layer.texts[0].length);
    ForEachDevice([&] {
      TextsTest::ExpectRightInEveryCut(
          layer.texts, [&](Cut cut, uint64_t seed) { return Feed(layer, cut, seed); });
    });
  }
};
TYPED_TEST_SUITE(RgLruTest, ActivationTypes);

TYPED_TEST(RgLruTest, MeetsTheReferenceInEveryCut) {
  Random random(1);
  for (const int dim : {1, 3, 16, 17, 32, 40, 130}) {
    std::vector<int> lengths(random.Int(1, 3));
    for (int& length : lengths) length = random.Int(1, kOnCpu ? 60 : 25);
    this->ExpectRightInEveryCut(RandomLayer(&random, {random.Int(1, 4), dim}, lengths,
                                            random.OneOf<float>({0.1f, 1.0f, 8.0f}),
                                            this->kStorage));
    if (this->HasFailure()) return;
  }
}

// Forgets next to nothing, where 1 - a^2 must keep its digits, or everything at once.
TYPED_TEST(RgLruTest, ExtremeRates) {
  Random random(2);
  for (const float rate : {1e-30f, 1e-7f, 1e-4f, 100.0f, 1e4f, 1e30f}) {
    this->ExpectRightInEveryCut(
        RandomLayer(&random, {2, 12}, {kOnCpu ? 200 : 40}, rate, this->kStorage));
    if (this->HasFailure()) return;
  }
}

// Far on both sides, gelu is zero or its argument.
TYPED_TEST(RgLruTest, ExtremeGates) {
  Random random(3);
  for (const float scale : {0.01f, 3.0f, 30.0f, 1e15f}) {
    this->ExpectRightInEveryCut(RandomLayer(&random, {1, 20}, {30}, 1.0f, this->kStorage, scale));
    if (this->HasFailure()) return;
  }
}

// A NaN stays in its text, from its token on.
TYPED_TEST(RgLruTest, NaNStaysInItsText) {
  Random random(4);
  const LruLayer layer = RandomLayer(&random, {2, 20}, {30, 30}, 1.0f, this->kStorage);
  const int token = 11, width = 40;
  this->ForEachDevice([&] {
    for (const Cut cut : {Cut::kWhole, Cut::kSingle}) {
      const Outputs clean = this->Feed(layer, cut);
      LruLayer bad = layer;
      bad.texts[1].x[token * width + 3] = kNaN;
      const Outputs dirty = this->Feed(bad, cut);
      EXPECT_TRUE(SameBits(dirty[0], clean[0]));
      for (size_t at = 0; at < clean[1].size(); ++at) {
        const int t = static_cast<int>(at) / width, c = static_cast<int>(at) % width;
        EXPECT_EQ(std::isnan(dirty[1][at]), c < 20 && t >= token)
            << "token " << t << " channel " << c;
      }
    }
  });
}

}  // namespace
}  // namespace packrat
