#include "models/mixers/mesa.h"

#include <algorithm>
#include <cmath>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/mesa.h"

namespace packrat {
namespace {

// One product makes q, k, v and the output gate; another the two gates of the state, whose results
// are float32, since they decide how fast the state decays.
class MesaMixer : public Mixer {
 public:
  MesaMixer(const MesaSpec& spec, const MixerLoad& load)
      : shape_{spec.num_heads, spec.head_dim, spec.conv_size},
        width_(shape_.width()),
        type_(load.device->type()),
        plan_(load.device->Plan(shape_)) {
    const int d = load.hidden_size, heads = shape_.num_heads;
    const std::string& prefix = load.prefix;
    DeviceWeights* weights = load.weights;
    std::vector<DeviceWeights::Rows> in = {{prefix + "q_proj.weight", width_},
                                           {prefix + "k_proj.weight", width_},
                                           {prefix + "v_proj.weight", width_}};
    if (spec.use_output_gate) in.emplace_back(prefix + "g_proj.weight", width_);
    in_proj_ = weights->Stack(in, d);
    gates_ =
        weights->Stored({{prefix + "a_proj.weight", heads}, {prefix + "b_proj.weight", heads}}, d);
    std::vector<float> bias = weights->loader()->Floats(prefix + "a_proj.bias", {heads});
    const std::vector<float> b = weights->loader()->Floats(prefix + "b_proj.bias", {heads});
    bias.insert(bias.end(), b.begin(), b.end());
    gates_bias_ = weights->Upload(std::move(bias));
    out_proj_ = weights->Matrix(prefix + "o_proj.weight", d, width_);
    weights_.norm_eps = load.norm_eps;
    LoadSmall(spec, prefix, weights);
  }

  absl::Status Forward(const Step& step, const Normed& h, const Residual& to) const override {
    Device& device = *step.device;
    const auto tokens = static_cast<size_t>(step.tokens());
    const size_t element = DTypeBytes(type_);
    const int heads = shape_.num_heads, stride = in_proj_.out;
    Carver memory(step.activations);
    auto* gates = memory.Take<float>(tokens * 2 * heads);
    auto* qkvg = memory.Take<std::byte>(tokens * stride * element);
    auto* o = memory.Take<std::byte>(tokens * width_ * element);
    absl::Status status = device.MultiplyNormed(
        h, step.tokens(), {{in_proj_, qkvg, type_}, {gates_, gates, DType::kF32, gates_bias_}});
    if (!status.ok()) return status;
    const auto part = [&](int i) { return qkvg + i * width_ * element; };
    const MesaOperands operands{
        part(0),       part(1), part(2), stride > 3 * width_ ? part(3) : nullptr,
        stride,
        gates + heads,  // beta
        gates,          // gamma
        2 * heads,     o,       type_,   device.state_type()};
    status = device.Mesa(plan_, shape_, weights_, step, operands);
    if (!status.ok()) return status;
    return device.AddProduct(out_proj_, o, step.tokens(), nullptr, to);
  }

  size_t bytes_per_token() const override {
    return 2 * shape_.num_heads * sizeof(float) + (in_proj_.out + width_) * DTypeBytes(type_);
  }

 private:
  void LoadSmall(const MesaSpec& spec, const std::string& prefix, DeviceWeights* weights) {
    WeightLoader* loader = weights->loader();
    for (auto [name, taps, bias] :
         {std::tuple{"q_conv1d.", &weights_.conv_q, &weights_.conv_q_bias},
          std::tuple{"k_conv1d.", &weights_.conv_k, &weights_.conv_k_bias}}) {
      *taps = weights->Taps(prefix + name + "weight", width_, spec.conv_size);
      const std::string bias_name = prefix + name + "bias";
      if (loader->Has(bias_name)) *bias = weights->Floats(bias_name, {width_});
    }
    std::vector<float> lambda = loader->Floats(prefix + "lambda_params", {width_});
    for (float& l : lambda) {  // softplus, without overflow
      l = std::max(l, 0.0f) + std::log1p(std::exp(-std::fabs(l))) + spec.lambda_lower_bound;
    }
    weights_.lambda = weights->Upload(std::move(lambda));
    weights_.o_norm = weights->Floats(prefix + "o_norm.weight", {spec.head_dim});
  }

  const MesaShape shape_;
  const int width_;
  const DType type_;
  const int plan_;
  Weight in_proj_, gates_, out_proj_;
  const float* gates_bias_ = nullptr;
  MesaWeights weights_{};
};

}  // namespace

MesaSpec MesaSpec::Read(const std::string&, JsonFields* fields, const SharedFields&) {
  MesaSpec mesa;
  mesa.num_heads = fields->Int("num_heads", 1, kMaxHeads, 16);
  mesa.head_dim = fields->Int("head_dim", 1, kMaxHeadDim, 128);
  mesa.conv_size = fields->Int("conv_size", 1, kMaxConvSize, 4);
  mesa.lambda_lower_bound =
      static_cast<float>(fields->Number("lambda_lower_bound", 0.0, 1e6, 0.25));
  mesa.use_output_gate = fields->Bool("use_output_gate", false);
  if (mesa.num_heads * mesa.head_dim > kMaxHidden) {
    fields->Fail("num_heads", absl::StrCat("is ", mesa.num_heads,
                                           "; num_heads * head_dim must be at most ", kMaxHidden));
  }
  return mesa;
}

MixerState MesaSpec::State(const StateTypes& types) const {
  MixerState state;
  state.slot_bytes = MesaSlotFloats(num_heads, head_dim) * DTypeBytes(types.slots);
  state.tail_bytes = MesaTailLayout(num_heads, head_dim, conv_size).end * sizeof(float);
  return state;
}

MixerInfo MesaSpec::Info() const { return {kNames[0], num_heads, head_dim}; }

std::string MesaSpec::Identity() const {
  return absl::StrCat(kNames[0], " ", Exact(lambda_lower_bound));
}

std::unique_ptr<Mixer> MesaSpec::Load(const MixerLoad& load) const {
  return std::make_unique<MesaMixer>(*this, load);
}

}  // namespace packrat
