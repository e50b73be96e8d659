#include "models/mixers/gated_delta.h"

#include <cmath>
#include <numeric>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

namespace packrat {
namespace {

// Rows of a weight that has for each of `heads` parts of these sizes: the first parts of all heads,
// then the second ones, and so on.
std::vector<DeviceWeights::Rows> Regrouped(const std::string& name, int heads,
                                           const std::vector<int>& sizes) {
  const int stride = std::accumulate(sizes.begin(), sizes.end(), 0);
  std::vector<DeviceWeights::Rows> rows;
  int first = 0;
  for (const int size : sizes) {
    for (int head = 0; head < heads; ++head) {
      rows.emplace_back(name, heads * stride, head * stride + first, size);
    }
    first += size;
  }
  return rows;
}

// One product makes q, k, v and the output gate; another the two gates of the state, whose results
// are float32, since they decide how fast the state decays.
class GatedDeltaMixer : public Mixer {
 public:
  GatedDeltaMixer(const GatedDeltaSpec& spec, const MixerLoad& load)
      : shape_(spec.shape()), type_(load.device->type()), plan_(load.device->Plan(shape_)) {
    const int d = load.hidden_size, heads = shape_.num_value_heads;
    const std::string& prefix = load.prefix;
    DeviceWeights* weights = load.weights;
    const bool separate = spec.separate;
    const auto name = [&](const char* ours, const char* theirs) {
      return absl::StrCat(prefix, separate ? theirs : ours, ".weight");
    };
    const int key_heads = shape_.num_key_heads, group = heads / key_heads;
    if (spec.by_key_head) {
      const int values = group * shape_.value_dim;
      in_proj_ = weights->Stack(Regrouped(prefix + "in_proj_qkvz.weight", key_heads,
                                          {shape_.key_dim, shape_.key_dim, values, values}),
                                d);
      gates_ =
          weights->Stored(Regrouped(prefix + "in_proj_ba.weight", key_heads, {group, group}), d);
    } else if (separate) {
      in_proj_ = weights->Stack({{prefix + "q_proj.weight", shape_.keys()},
                                 {prefix + "k_proj.weight", shape_.keys()},
                                 {prefix + "v_proj.weight", shape_.values()},
                                 {prefix + "g_proj.weight", shape_.values()}},
                                d);
    } else {
      in_proj_ = weights->Stack({{prefix + "in_proj_qkv.weight", shape_.channels()},
                                 {prefix + "in_proj_z.weight", shape_.values()}},
                                d);
    }
    if (!spec.by_key_head) {
      gates_ = weights->Stored(
          {{name("in_proj_b", "b_proj"), heads}, {name("in_proj_a", "a_proj"), heads}}, d);
    }
    std::vector<std::string> convs = {prefix + "conv1d.weight"};
    if (separate && !weights->loader()->Has(convs[0])) {
      convs = {prefix + "q_conv1d.weight", prefix + "k_conv1d.weight", prefix + "v_conv1d.weight"};
    }
    weights_.conv = weights->Taps(convs, shape_.channels(), shape_.conv_size);
    std::vector<float> rate = weights->loader()->Floats(prefix + "A_log", {heads});
    for (float& a : rate) a = std::exp(a);
    weights_.decay_rate = weights->Upload(std::move(rate));
    weights_.dt_bias = weights->Floats(prefix + "dt_bias", {heads});
    weights_.norm = weights->Floats(name("norm", "o_norm"), {shape_.value_dim});
    weights_.norm_eps = spec.norm_eps > 0 ? spec.norm_eps : load.norm_eps;
    weights_.beta_scale = spec.beta_scale;
    out_proj_ = weights->Matrix(name("out_proj", "o_proj"), d, shape_.values());
  }

  absl::Status Forward(const Step& step, const Normed& h, const Residual& to) const override {
    Device& device = *step.device;
    const auto tokens = static_cast<size_t>(step.tokens());
    const size_t element = DTypeBytes(type_);
    const int heads = shape_.num_value_heads, stride = in_proj_.out;
    Carver memory(step.activations);
    auto* gates = memory.Take<float>(tokens * 2 * heads);
    auto* qkvz = memory.Take<std::byte>(tokens * stride * element);
    auto* o = memory.Take<std::byte>(tokens * shape_.values() * element);
    absl::Status status = device.MultiplyNormed(
        h, step.tokens(), {{in_proj_, qkvz, type_}, {gates_, gates, DType::kF32}});
    if (!status.ok()) return status;
    const GatedDeltaOperands operands{qkvz,          qkvz + shape_.channels() * element,
                                      stride,
                                      gates,          // beta
                                      gates + heads,  // decay
                                      2 * heads,     o,
                                      type_,         device.state_type()};
    status = device.GatedDelta(plan_, shape_, weights_, step, operands);
    if (!status.ok()) return status;
    return device.AddProduct(out_proj_, o, step.tokens(), nullptr, to);
  }

  size_t bytes_per_token() const override {
    return 2 * shape_.num_value_heads * sizeof(float) +
           (in_proj_.out + shape_.values()) * DTypeBytes(type_);
  }

 private:
  const GatedDeltaShape shape_;
  const DType type_;
  const int plan_;
  Weight in_proj_, gates_, out_proj_;
  GatedDeltaWeights weights_{};
};

}  // namespace

GatedDeltaSpec GatedDeltaSpec::Read(const std::string&, JsonFields* fields, const SharedFields&) {
  return Read(fields, {"num_key_heads", "num_value_heads", "key_dim", "value_dim", "conv_size"},
              std::nullopt);
}

GatedDeltaSpec GatedDeltaSpec::Read(JsonFields* fields, const Names& names,
                                    const std::optional<GatedDeltaSpec>& fallback) {
  const auto or_missing = [&](int GatedDeltaSpec::*field) {
    return fallback ? std::optional<int>((*fallback).*field) : std::nullopt;
  };
  GatedDeltaSpec delta;
  delta.num_value_heads = fields->Int(names.num_value_heads, 1, kMaxHeads,
                                      or_missing(&GatedDeltaSpec::num_value_heads));
  delta.num_key_heads = DivisorOfHeads(fields, names.num_key_heads, delta.num_value_heads,
                                       or_missing(&GatedDeltaSpec::num_key_heads));
  delta.key_dim = fields->Int(names.key_dim, 1, kMaxHeadDim, or_missing(&GatedDeltaSpec::key_dim));
  delta.value_dim =
      fields->Int(names.value_dim, 1, kMaxHeadDim, or_missing(&GatedDeltaSpec::value_dim));
  delta.conv_size =
      fields->Int(names.conv_size, 1, kMaxConvSize, or_missing(&GatedDeltaSpec::conv_size));
  CheckWidth(fields, names.num_key_heads, delta.num_key_heads, names.key_dim, delta.key_dim);
  CheckWidth(fields, names.num_value_heads, delta.num_value_heads, names.value_dim,
             delta.value_dim);
  return delta;
}

MixerState GatedDeltaSpec::State(const StateTypes& types) const {
  MixerState state;
  state.slot_bytes = GatedDeltaSlotFloats(shape()) * DTypeBytes(types.slots);
  state.tail_bytes = GatedDeltaTailLayout(shape()).end * sizeof(float);
  return state;
}

MixerInfo GatedDeltaSpec::Info() const {
  return {kNames[0], num_value_heads, value_dim, num_key_heads};
}

std::string GatedDeltaSpec::Identity() const {
  std::string text = absl::StrCat(kNames[0], " ", num_key_heads, " ", num_value_heads);
  // Left out where it does not apply, so that sessions of older models stay readable.
  if (beta_scale != 1.0f) absl::StrAppend(&text, " beta ", Exact(beta_scale));
  if (norm_eps != 0.0f) absl::StrAppend(&text, " eps ", Exact(norm_eps));
  return text;
}

std::unique_ptr<Mixer> GatedDeltaSpec::Load(const MixerLoad& load) const {
  return std::make_unique<GatedDeltaMixer>(*this, load);
}

}  // namespace packrat
