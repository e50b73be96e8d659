#include "models/mixers/mamba2.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

namespace packrat {
namespace {

constexpr const char* kNorms[] = {"none", "before_gate", "after_gate"};  // In Mamba2Norm's order.

// One product makes z, x, B and C; another dt, whose results are float32, since they decide how
// fast the state decays.
class Mamba2Mixer : public Mixer {
 public:
  Mamba2Mixer(const Mamba2Spec& spec, const MixerLoad& load)
      : shape_(spec.shape()), type_(load.device->type()), plan_(load.device->Plan(shape_)) {
    const int d = load.hidden_size, heads = shape_.num_heads;
    const int width = shape_.values() + shape_.channels(), rows = width + heads;
    const std::string& prefix = load.prefix;
    DeviceWeights* weights = load.weights;
    in_proj_ = weights->Stack({{prefix + "in_proj.weight", rows, 0, width}}, d);
    dt_proj_ = weights->Stack({{prefix + "in_proj.weight", rows, width, heads}}, d);
    if (spec.in_bias) {
      const std::vector<float> bias = weights->loader()->Floats(prefix + "in_proj.bias", {rows});
      const auto cut = bias.begin() + (bias.empty() ? 0 : width);
      in_bias_ = weights->Upload({bias.begin(), cut});
      dt_bias_ = weights->Upload({cut, bias.end()});
    }
    LoadConv(spec, prefix, weights);
    std::vector<float> rate = weights->loader()->Floats(prefix + "A_log", {heads});
    for (float& a : rate) a = std::exp(a);
    weights_.decay_rate = weights->Upload(std::move(rate));
    weights_.skip = weights->Floats(prefix + "D", {heads});
    weights_.dt_bias = weights->Floats(prefix + "dt_bias", {heads});
    if (spec.norm != Mamba2Norm::kNone) {
      weights_.norm = weights->Floats(prefix + "norm.weight", {shape_.values()});
    }
    weights_.norm_eps = load.norm_eps;
    weights_.norm_groups = spec.norm_groups;
    weights_.gating = spec.norm;
    weights_.dt_min = spec.dt_min, weights_.dt_max = spec.dt_max;
    weights_.dt_scale = spec.dt_scale;
    weights_.gate_scale = spec.gate_scale;
    out_proj_ = weights->Matrix(prefix + "out_proj.weight", d, shape_.values());
    if (spec.out_bias) out_bias_ = weights->Biases({{prefix + "out_proj.weight", d}});
  }

  absl::Status Forward(const Step& step, const Normed& h, const Residual& to) const override {
    Device& device = *step.device;
    const auto tokens = static_cast<size_t>(step.tokens());
    const size_t element = DTypeBytes(type_);
    Carver carver(step.activations);
    auto* dt = carver.Take<float>(tokens * shape_.num_heads);
    auto* memory = carver.Take<float>(tokens * Mamba2TokenLayout(shape_).end);
    auto* zxbc = carver.Take<std::byte>(tokens * in_proj_.out * element);
    auto* y = carver.Take<std::byte>(tokens * shape_.values() * element);
    absl::Status status = device.MultiplyNormed(
        h, step.tokens(),
        {{in_proj_, zxbc, type_, in_bias_}, {dt_proj_, dt, DType::kF32, dt_bias_}});
    if (!status.ok()) return status;
    const Mamba2Operands operands{zxbc,
                                  zxbc + shape_.values() * element,
                                  in_proj_.out,
                                  dt,
                                  shape_.num_heads,
                                  memory,
                                  y,
                                  type_,
                                  device.state_type()};
    status = device.Mamba2(plan_, shape_, weights_, step, operands);
    if (!status.ok()) return status;
    return device.AddProduct(out_proj_, y, step.tokens(), out_bias_, to);
  }

  size_t bytes_per_token() const override {
    return (shape_.num_heads + Mamba2TokenLayout(shape_).end) * sizeof(float) +
           (in_proj_.out + shape_.values()) * DTypeBytes(type_);
  }

 private:
  void LoadConv(const Mamba2Spec& spec, const std::string& prefix, DeviceWeights* weights) {
    std::vector<float> factors(shape_.values(), spec.x_scale);
    factors.resize(factors.size() + shape_.keys(), spec.b_scale);
    factors.resize(factors.size() + shape_.keys(), spec.c_scale);
    weights_.conv =
        weights->Taps(prefix + "conv1d.weight", shape_.channels(), shape_.conv_size, factors);
    if (spec.conv_bias) {
      weights_.conv_bias = weights->Floats(prefix + "conv1d.bias", {shape_.channels()});
    }
  }

  const Mamba2Shape shape_;
  const DType type_;
  const int plan_;
  Weight in_proj_, dt_proj_, out_proj_;
  const float *in_bias_ = nullptr, *dt_bias_ = nullptr, *out_bias_ = nullptr;
  Mamba2Weights weights_{};
};

}  // namespace

Mamba2Spec Mamba2Spec::Read(const std::string&, JsonFields* fields, const SharedFields&) {
  Mamba2Spec mamba;
  mamba.num_heads = fields->Int("num_heads", 1, kMaxHeads);
  mamba.num_groups = DivisorOfHeads(fields, "num_groups", mamba.num_heads, 1);
  mamba.head_dim = fields->Int("head_dim", 1, kMaxHeadDim);
  mamba.state_size = fields->Int("state_size", 1, kMaxHeadDim);
  mamba.conv_size = fields->Int("conv_size", 1, kMaxConvSize, 4);
  mamba.Check(fields, {"num_heads", "num_groups", "head_dim", "state_size"});
  const std::string norm = fields->String("norm", "after_gate");
  const auto* found = std::find(std::begin(kNorms), std::end(kNorms), norm);
  if (found == std::end(kNorms)) {
    fields->Fail("norm",
                 absl::StrCat("is ", Quoted(norm), "; must be none, before_gate or after_gate"));
  } else {
    mamba.norm = static_cast<Mamba2Norm>(found - std::begin(kNorms));
  }
  mamba.norm_groups = DivisorOfHeads(fields, "norm_groups", mamba.num_heads, 1);
  mamba.conv_bias = fields->Bool("conv_bias", true);
  mamba.in_bias = fields->Bool("in_bias", false);
  mamba.out_bias = fields->Bool("out_bias", false);
  mamba.ReadStepLimits(fields, "time_step_limit");
  return mamba;
}

void Mamba2Spec::Check(JsonFields* fields, const Names& names) const {
  CheckWidth(fields, names.num_heads, num_heads, names.head_dim, head_dim);
  CheckWidth(fields, names.num_groups, num_groups, names.state_size, state_size);
}

void Mamba2Spec::ReadStepLimits(JsonFields* fields, const std::string& name) {
  const Json* value = fields->Get(name);
  if (value == nullptr) return;
  const auto number = [](const Json& limit) {
    const bool named = limit.is_object() && limit.size() == 1 && limit.contains("__float__");
    if (limit == "Infinity" || (named && limit["__float__"] == "Infinity")) return HUGE_VAL;
    return limit.is_number() ? limit.get<double>() : std::nan("");
  };
  const bool pair = value->is_array() && value->size() == 2;
  const double low = pair ? number((*value)[0]) : std::nan("");
  const double high = pair ? number((*value)[1]) : std::nan("");
  dt_min = static_cast<float>(low), dt_max = static_cast<float>(high);
  if (low >= 0.0 && high >= low && dt_min < HUGE_VALF) return;
  fields->Fail(name, "must be two numbers, the first from 0 to the second, which may be infinite");
}

MixerState Mamba2Spec::State(const StateTypes& types) const {
  MixerState state;
  state.slot_bytes = Mamba2SlotFloats(shape()) * DTypeBytes(types.slots);
  state.tail_bytes = Mamba2TailLayout(shape()).end * sizeof(float);
  return state;
}

MixerInfo Mamba2Spec::Info() const { return {kNames[0], num_heads, head_dim, num_groups}; }

std::string Mamba2Spec::Identity() const {
  std::string identity = absl::StrCat(kNames[0], " ", num_heads, " ", num_groups, " ",
                                      kNorms[static_cast<int>(norm)], " ", norm_groups);
  for (const float number : {dt_min, dt_max, gate_scale, x_scale, b_scale, c_scale, dt_scale}) {
    absl::StrAppend(&identity, " ", Exact(number));
  }
  return identity;
}

std::unique_ptr<Mixer> Mamba2Spec::Load(const MixerLoad& load) const {
  return std::make_unique<Mamba2Mixer>(*this, load);
}

}  // namespace packrat
