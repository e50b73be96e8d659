#include "kernels/gated_conv.h"

#include <cmath>
#include <deque>

#include "tests/kernels/tail_feed.h"

namespace packrat {
namespace {

struct ConvText {
  int length;
  std::vector<float> rows;     // (length, stride): out gate, x, in gate, and NaN beside them
  Vector expected, tolerance;  // (length, channels)
};

// A layer, and texts with what comes of them, token by token in double precision.
struct ConvLayer {
  GatedConvShape shape;
  bool gated;
  int stride;
  std::vector<float> taps, bias;
  std::deque<ConvText> texts;

  ConvLayer(Random* random, const GatedConvShape& s, bool has_gates,
            const std::vector<int>& lengths, Storage storage)
      : shape(s), gated(has_gates), stride(3 * s.channels + random->Int(0, 3)) {
    taps = random->Normals(static_cast<size_t>(s.conv_size) * s.channels);
    if (random->Int(0, 1) == 1) bias = random->Normals(s.channels);
    for (const int length : lengths) {
      ConvText& text = texts.emplace_back(ConvText{length, {}, {}, {}});
      text.rows.assign(static_cast<size_t>(length) * stride, kNaN);
      for (int t = 0; t < length; ++t) {
        const auto row = storage(random->Normals(size_t{3} * s.channels));
        std::copy(row.begin(), row.end(), text.rows.begin() + static_cast<ptrdiff_t>(t) * stride);
      }
      for (int t = 0; t < length; ++t) {
        for (int c = 0; c < s.channels; ++c) Expect(t, c, storage, &text);
      }
    }
  }

  // A gated input takes one rounding and each multiply-add one more, which everything added so far
  // feels; then comes the output's gate.
  void Expect(int t, int c, Storage storage, ConvText* text) const {
    double sum = bias.empty() ? 0 : bias[c], size = std::fabs(sum);
    for (int back = 0; back < shape.conv_size && back <= t; ++back) {
      const float* row = &text->rows[static_cast<size_t>(t - back) * stride];
      const double z = double{row[shape.channels + c]} * (gated ? row[2 * shape.channels + c] : 1);
      const double term = z * taps[(shape.conv_size - 1 - back) * shape.channels + c];
      sum += term;
      size += std::fabs(term);
    }
    const double gate = gated ? text->rows[static_cast<size_t>(t) * stride + c] : 1;
    text->expected.push_back(gate * sum);
    text->tolerance.push_back((shape.conv_size + 3) * kUnit * size * std::fabs(gate) +
                              storage.rounding() * std::fabs(gate * sum));
  }
};

template <class T>
class GatedConvTest : public TextsTest {
 protected:
  static constexpr Storage kStorage{sizeof(T) == 2};

  static ConvLayer MakeLayer(Random* random, const GatedConvShape& shape, bool gated,
                             const std::vector<int>& lengths) {
    return ConvLayer(random, shape, gated, lengths, kStorage);
  }

  Outputs Feed(const ConvLayer& layer, Cut cut, uint64_t seed = 7) {
    const GatedConvShape& s = layer.shape;
    TailFeed feed(layer.texts, cut, seed, ShortConvTailFloats(s.channels, s.conv_size));
    const DeviceArray<float> taps(layer.taps);
    const DeviceArray<float> bias(layer.bias.empty() ? std::vector<float>{kNaN} : layer.bias);
    const GatedConvWeights weights{taps.data(), layer.bias.empty() ? nullptr : bias.data()};
    return feed.template Run<T>(s.channels, [&](const DeviceStep& step, T* out) {
      const DeviceArray<T> x(Stored<T>::From(feed.Gather(step, &ConvText::rows, layer.stride)));
      const GatedConvOperands operands{x.data() + s.channels,
                                       layer.gated ? x.data() + 2 * s.channels : nullptr,
                                       layer.gated ? x.data() : nullptr,
                                       layer.stride,
                                       Stored<T>::kType,
                                       out,
                                       Stored<T>::kType};
      return Run([&](auto device) {
        return ops::GatedConv(s, weights, step.batch(), feed.tails(), operands, device);
      });
    });
  }

  void ExpectRightInEveryCut(const ConvLayer& layer) {
    SCOPED_TRACE(testing::Message()
                 << layer.shape.channels << " channels, " << layer.shape.conv_size
                 << " taps, gates " << layer.gated << ", text " << layer.texts[0].length);
    ForEachDevice([&] {
      TextsTest::ExpectRightInEveryCut(
          layer.texts, [&](Cut cut, uint64_t seed) { return Feed(layer, cut, seed); });
    });
  }
};
TYPED_TEST_SUITE(GatedConvTest, ActivationTypes);

TYPED_TEST(GatedConvTest, MeetsTheReferenceInEveryCut) {
  Random random(1);
  for (const int channels : {1, 5, 16, 17, 48, 130}) {
    for (const int taps : {1, 2, 3, kMaxConvSize}) {
      std::vector<int> lengths(random.Int(1, 3));
      for (int& length : lengths) length = random.Int(1, kOnCpu ? 40 : 20);
      this->ExpectRightInEveryCut(
          this->MakeLayer(&random, {channels, taps}, random.Int(0, 2) > 0, lengths));
      if (this->HasFailure()) return;
    }
  }
}

// More than one part of channels, and enough for threads to share them.
TYPED_TEST(GatedConvTest, ManyChannels) {
  Random random(2);
  this->ExpectRightInEveryCut(this->MakeLayer(&random, {1000, 3}, true, {kOnCpu ? 40 : 7, 3}));
}

// On a GPU a convolution may go on in float32 where activations are bfloat16: nothing is rounded.
TYPED_TEST(GatedConvTest, ItsOutputMayBeFloat32) {
  using S = Stored<TypeParam>;
  Random random(3);
  const ConvLayer layer = this->MakeLayer(&random, {20, 4}, false, {9});
  const ConvText& text = layer.texts[0];
  DeviceTails tails(&random, ShortConvTailFloats(20, 4), 1);
  const DeviceStep step(&random, {{0, 9, 0}}, tails.places());
  DeviceArray<float> taps(layer.taps), out(static_cast<size_t>(step.num_tokens()) * 20);
  DeviceArray<float> bias(layer.bias.empty() ? std::vector<float>(20) : layer.bias);
  DeviceArray<TypeParam> x(S::From(step.Gather({&text.rows}, layer.stride)));
  const GatedConvOperands operands{x.data() + 20, nullptr,    nullptr,    layer.stride,
                                   S::kType,      out.data(), DType::kF32};
  ASSERT_TRUE(this->Run([&](auto device) {
                    return ops::GatedConv(layer.shape, {taps.data(), bias.data()}, step.batch(),
                                          tails.parts(), operands, device);
                  })
                  .ok());
  Outputs outputs(1);
  step.Scatter(out.Get(), 20, &outputs);
  const double rounding = this->kStorage.rounding();
  for (size_t j = 0; j < text.expected.size(); ++j) {
    ASSERT_NEAR(outputs[0][j], text.expected[j],
                text.tolerance[j] - rounding * std::fabs(text.expected[j]));
  }
}

// A NaN is seen by as many tokens as there are taps, of its own channel and text.
TYPED_TEST(GatedConvTest, NaNStaysInItsChannelAndText) {
  Random random(4);
  ConvLayer layer = this->MakeLayer(&random, {20, 3}, true, {30, 30});
  const int channel = 17, token = 11;
  this->ForEachDevice([&] {
    for (const Cut cut : {Cut::kWhole, Cut::kSingle}) {
      const Outputs clean = this->Feed(layer, cut);
      for (const int operand : {1, 2}) {  // x and the input's gate.
        ConvLayer bad = layer;
        bad.texts[1].rows[token * layer.stride + operand * 20 + channel] = kNaN;
        const Outputs dirty = this->Feed(bad, cut);
        EXPECT_TRUE(SameBits(dirty[0], clean[0]));
        for (size_t at = 0; at < clean[1].size(); ++at) {
          const int t = static_cast<int>(at) / 20, c = static_cast<int>(at) % 20;
          const bool seen = c == channel && t >= token && t < token + 3;
          EXPECT_EQ(std::isnan(dirty[1][at]), seen) << "token " << t << " channel " << c;
        }
      }
    }
  });
}

}  // namespace
}  // namespace packrat
