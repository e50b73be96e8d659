#include "models/mixers/rg_lru.h"

#include <cmath>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/gated_conv.h"

namespace packrat {
namespace {

// One product makes the branch that is convolved and the one that gates the result. The tail: what
// the convolution keeps, then the state.
class RgLruMixer : public Mixer {
 public:
  RgLruMixer(const RgLruSpec& spec, const MixerLoad& load)
      : shape_(spec.shape()),
        conv_shape_{shape_.width(), spec.conv_size},
        type_(load.device->type()) {
    const int d = load.hidden_size, width = shape_.width();
    const std::string &prefix = load.prefix, conv = prefix + "conv_1d.", lru = prefix + "rg_lru.";
    DeviceWeights* weights = load.weights;
    const std::vector<DeviceWeights::Rows> in = {{prefix + "linear_x.weight", width},
                                                 {prefix + "linear_y.weight", width}};
    in_proj_ = weights->Stack(in, d);
    in_bias_ = weights->Biases(in);
    conv_.taps = weights->Taps(conv + "weight", width, spec.conv_size);
    conv_.bias = weights->Floats(conv + "bias", {width});
    const int heads = shape_.num_heads, dim = shape_.head_dim;
    weights_.input_gate = weights->Floats(lru + "input_gate_weight", {heads, dim, dim});
    weights_.input_bias = weights->Floats(lru + "input_gate_bias", {heads, dim});
    weights_.recurrent_gate = weights->Floats(lru + "recurrent_gate_weight", {heads, dim, dim});
    weights_.recurrent_bias = weights->Floats(lru + "recurrent_gate_bias", {heads, dim});
    std::vector<float> rate = weights->loader()->Floats(lru + "recurrent_param", {width});
    for (float& x : rate) {
      const double softplus = std::fmax(x, 0.0) + std::log1p(std::exp(-std::fabs(double{x})));
      x = static_cast<float>(8.0 * softplus);
    }
    weights_.rate = weights->Upload(std::move(rate));
    const std::string out = prefix + "linear_out.weight";
    out_proj_ = weights->Matrix(out, d, width);
    out_bias_ = weights->Biases({{out, d}});
  }

  absl::Status Forward(const Step& step, const Normed& h, const Residual& to) const override {
    Device& device = *step.device;
    const auto tokens = static_cast<size_t>(step.tokens()), width = size_t(shape_.width());
    const size_t element = DTypeBytes(type_);
    const int stride = 2 * shape_.width();
    Carver memory(step.activations);
    auto* x = memory.Take<float>(tokens * width);
    auto* work = memory.Take<float>(2 * tokens * width);
    auto* in = memory.Take<std::byte>(2 * tokens * width * element);
    auto* out = memory.Take<std::byte>(tokens * width * element);
    absl::Status status =
        device.MultiplyNormed(h, step.tokens(), {{in_proj_, in, type_, in_bias_}});
    if (!status.ok()) return status;
    status = device.GatedConv(conv_shape_, conv_, step,
                              {in, nullptr, nullptr, stride, type_, x, DType::kF32});
    if (!status.ok()) return status;
    Step state = step;
    state.tails.base += ConvBytes(conv_shape_);
    status =
        device.RgLru(shape_, weights_, state, {x, in + width * element, stride, work, out, type_});
    if (!status.ok()) return status;
    return device.AddProduct(out_proj_, out, step.tokens(), out_bias_, to);
  }

  size_t bytes_per_token() const override {
    return shape_.width() * (3 * sizeof(float) + 3 * DTypeBytes(type_));
  }

  // Of the tail.
  static size_t ConvBytes(const GatedConvShape& s) {
    return ShortConvTailFloats(s.channels, s.conv_size) * sizeof(float);
  }

 private:
  const RgLruShape shape_;
  const GatedConvShape conv_shape_;
  const DType type_;
  Weight in_proj_, out_proj_;
  const float *in_bias_ = nullptr, *out_bias_ = nullptr;
  GatedConvWeights conv_{};
  RgLruWeights weights_{};
};

}  // namespace

RgLruSpec RgLruSpec::Read(const std::string&, JsonFields* fields, const SharedFields& shared) {
  return Read(fields, {"num_heads", "width", "conv_size"}, shared.hidden_size, std::nullopt);
}

RgLruSpec RgLruSpec::Read(JsonFields* fields, const Names& names, int hidden_size,
                          const std::optional<RgLruSpec>& fallback) {
  const auto or_missing = [&](int RgLruSpec::*field) {
    return fallback ? std::optional<int>((*fallback).*field) : std::nullopt;
  };
  RgLruSpec lru;
  lru.num_heads = fields->Int(names.num_heads, 1, kMaxHeads, or_missing(&RgLruSpec::num_heads));
  const int width = fields->Int(names.width, 1, kMaxHidden, hidden_size);
  if (width % lru.num_heads != 0) {
    fields->Fail(names.num_heads,
                 absl::StrCat("is ", lru.num_heads, "; must divide ", names.width, ", ", width));
  }
  lru.head_dim = width / lru.num_heads;
  lru.conv_size = fields->Int(names.conv_size, 1, kMaxConvSize, or_missing(&RgLruSpec::conv_size));
  return lru;
}

MixerState RgLruSpec::State(const StateTypes&) const {
  MixerState state;
  state.tail_bytes = RgLruMixer::ConvBytes({shape().width(), conv_size}) +
                     RgLruTailFloats(shape()) * sizeof(float);
  return state;
}

MixerInfo RgLruSpec::Info() const { return {kNames[0], num_heads, head_dim}; }

std::string RgLruSpec::Identity() const { return kNames[0]; }

std::unique_ptr<Mixer> RgLruSpec::Load(const MixerLoad& load) const {
  return std::make_unique<RgLruMixer>(*this, load);
}

}  // namespace packrat
