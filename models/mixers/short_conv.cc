#include "models/mixers/short_conv.h"

namespace packrat {
namespace {

// One product makes the gate of the input, that of the output, and the input, in this order.
class ShortConvMixer : public Mixer {
 public:
  ShortConvMixer(const ShortConvSpec& spec, const MixerLoad& load)
      : shape_{spec.channels, spec.conv_size}, type_(load.device->type()) {
    const int d = spec.channels;
    const std::string in = load.prefix + "in_proj.weight", out = load.prefix + "out_proj.weight";
    in_proj_ = load.weights->Matrix(in, 3 * d, d);
    weights_.taps = load.weights->Taps(load.prefix + "conv.weight", d, spec.conv_size);
    out_proj_ = load.weights->Matrix(out, d, d);
    if (!spec.bias) return;
    in_bias_ = load.weights->Biases({{in, 3 * d}});
    weights_.bias = load.weights->Floats(load.prefix + "conv.bias", {d});
    out_bias_ = load.weights->Biases({{out, d}});
  }

  absl::Status Forward(const Step& step, const Normed& h, const Residual& to) const override {
    Device& device = *step.device;
    const int tokens = step.tokens(), d = shape_.channels;
    const size_t element = DTypeBytes(type_);
    Carver memory(step.activations);
    auto* in = memory.Take<std::byte>(size_t{3} * tokens * d * element);
    auto* out = memory.Take<std::byte>(size_t{1} * tokens * d * element);
    absl::Status status = device.MultiplyNormed(h, tokens, {{in_proj_, in, type_, in_bias_}});
    if (!status.ok()) return status;
    const GatedConvOperands operands{
        in + 2 * d * element, in, in + d * element, 3 * d, type_, out, type_};
    status = device.GatedConv(shape_, weights_, step, operands);
    if (!status.ok()) return status;
    return device.AddProduct(out_proj_, out, tokens, out_bias_, to);
  }

  size_t bytes_per_token() const override {
    return size_t{4} * shape_.channels * DTypeBytes(type_);
  }

 private:
  const GatedConvShape shape_;
  const DType type_;
  Weight in_proj_, out_proj_;
  const float *in_bias_ = nullptr, *out_bias_ = nullptr;
  GatedConvWeights weights_{};
};

}  // namespace

ShortConvSpec ShortConvSpec::Read(const std::string&, JsonFields* fields,
                                  const SharedFields& shared) {
  return {shared.hidden_size, fields->Int("conv_size", 1, kMaxConvSize),
          fields->Bool("bias", false)};
}

MixerState ShortConvSpec::State(const StateTypes&) const {
  MixerState state;
  state.tail_bytes = ShortConvTailFloats(channels, conv_size) * sizeof(float);
  return state;
}

MixerInfo ShortConvSpec::Info() const {
  MixerInfo info;
  info.type = kNames[0];
  return info;
}

std::string ShortConvSpec::Identity() const { return kNames[0]; }

std::unique_ptr<Mixer> ShortConvSpec::Load(const MixerLoad& load) const {
  return std::make_unique<ShortConvMixer>(*this, load);
}

}  // namespace packrat
