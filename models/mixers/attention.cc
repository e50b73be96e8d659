#include "models/mixers/attention.h"

#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/attention.h"
#include "kernels/check.h"

namespace packrat {
namespace {

// One product makes q, k, v and the output gate, side by side in the order of the family's tensors.
class AttentionMixer : public Mixer {
 public:
  AttentionMixer(const AttentionSpec& spec, const MixerLoad& load)
      : shape_{spec.num_heads,
               spec.num_kv_heads,
               spec.head_dim,
               spec.window,
               spec.rotary_dim.value_or(spec.head_dim),
               spec.scale ? static_cast<float>(1.0 / *spec.scale) : 0.0f},
        q_width_(spec.num_heads * spec.head_dim),
        kv_width_(spec.num_kv_heads * spec.head_dim),
        type_(load.device->type()),
        plan_(load.device->Plan(shape_)),
        rope_(shape_.rotary_dim == 0
                  ? -1
                  : load.device->PlanRope(spec.rope_base, shape_.rotary_dim, 1, spec.rope_scaling)),
        norm_whole_(spec.qk_norm_whole),
        norm_eps_(load.norm_eps) {
    PACKRAT_CHECK(!spec.output_gate || !spec.fused_in_proj);
    const int d = load.hidden_size;
    const std::string& prefix = load.prefix;
    if (spec.fused_in_proj) {
      v_at_ = 0, q_at_ = kv_width_, k_at_ = kv_width_ + q_width_;
      in_proj_ = load.weights->Matrix(prefix + "in_proj.weight", q_width_ + 2 * kv_width_, d);
      out_proj_ = load.weights->Matrix(prefix + "out_proj.weight", d, q_width_);
      return;
    }
    q_at_ = 0, k_at_ = q_width_, v_at_ = q_width_ + kv_width_;
    const std::vector<DeviceWeights::Rows> in = InProjection(spec, prefix);
    const std::string out = absl::StrCat(prefix, spec.names.out_proj, ".weight");
    in_proj_ = load.weights->Stack(in, d);
    out_proj_ = load.weights->Matrix(out, d, q_width_);
    if (spec.output_gate) gate_at_ = v_at_ + kv_width_;
    if (spec.qk_norm) {
      const auto norm = [&](const char* name, int width) {
        return load.weights->Norm(absl::StrCat(prefix, name, ".weight"),
                                  norm_whole_ ? width : spec.head_dim, spec.norm_plus_one);
      };
      q_norm_ = norm(spec.names.q_norm, q_width_);
      k_norm_ = norm(spec.names.k_norm, kv_width_);
    }
    if (spec.qkv_bias) in_bias_ = load.weights->Biases(in);
    if (spec.out_bias) out_bias_ = load.weights->Biases({{out, d}});
  }

  absl::Status Forward(const Step& step, const Normed& h, const Residual& to) const override {
    Device& device = *step.device;
    const int tokens = step.tokens();
    const size_t element = DTypeBytes(type_);
    Carver memory(step.activations);
    auto* qkv = memory.Take<std::byte>(size_t{1} * tokens * width() * element);
    auto* o = memory.Take<std::byte>(size_t{1} * tokens * q_width_ * element);
    const auto column = [&](int at) { return qkv + at * element; };
    absl::Status status = device.MultiplyNormed(h, tokens, {{in_proj_, qkv, type_, in_bias_}});
    if (!status.ok()) return status;
    if (q_norm_ != nullptr) {
      status = NormHeads(device, column(q_at_), tokens, shape_.num_heads, q_norm_);
      if (!status.ok()) return status;
      status = NormHeads(device, column(k_at_), tokens, shape_.num_kv_heads, k_norm_);
      if (!status.ok()) return status;
    }
    status = device.Attention(plan_, shape_, step,
                              {column(q_at_), column(k_at_), column(v_at_), width(),
                               rope_ < 0 ? nullptr : device.rope(rope_), o, type_});
    if (!status.ok()) return status;
    if (gate_at_ > 0) {
      status = device.SigmoidGate(column(gate_at_), width(), tokens, q_width_, o);
      if (!status.ok()) return status;
    }
    return device.AddProduct(out_proj_, o, tokens, out_bias_, to);
  }

  size_t bytes_per_token() const override { return (width() + q_width_) * DTypeBytes(type_); }

 private:
  // All queries come first and all gates last, so that heads of either follow each other.
  static std::vector<DeviceWeights::Rows> InProjection(const AttentionSpec& spec,
                                                       const std::string& prefix) {
    const std::string q = prefix + "q_proj.weight";
    const int dim = spec.head_dim, heads = spec.num_heads, kv_width = spec.num_kv_heads * dim;
    std::vector<DeviceWeights::Rows> parts;
    const auto add_heads = [&](int first) {
      for (int i = 0; i < heads; ++i) {
        parts.emplace_back(q, heads * 2 * dim, i * 2 * dim + first, dim);
      }
    };
    if (spec.output_gate) {
      add_heads(0);
    } else {
      parts.emplace_back(q, heads * dim);
    }
    parts.emplace_back(prefix + "k_proj.weight", kv_width);
    parts.emplace_back(prefix + "v_proj.weight", kv_width);
    if (spec.output_gate) add_heads(dim);
    return parts;
  }

  absl::Status NormHeads(Device& device, void* x, int tokens, int heads,
                         const float* weight) const {
    const int dim = shape_.head_dim;
    return norm_whole_ ? device.NormHeads(x, width(), tokens, 1, heads * dim, weight, norm_eps_)
                       : device.NormHeads(x, width(), tokens, heads, dim, weight, norm_eps_);
  }

  int width() const { return in_proj_.out; }

  const AttentionShape shape_;
  const int q_width_, kv_width_;
  const DType type_;
  const int plan_;
  const int rope_;  // -1: none.
  const bool norm_whole_;
  const float norm_eps_;
  int q_at_ = 0, k_at_ = 0, v_at_ = 0;  // Columns of the product.
  int gate_at_ = 0;                     // 0: there is none.
  Weight in_proj_, out_proj_;
  const float *in_bias_ = nullptr, *out_bias_ = nullptr;
  const float *q_norm_ = nullptr, *k_norm_ = nullptr;
};

}  // namespace

AttentionSpec AttentionSpec::Read(const std::string& type, JsonFields* fields,
                                  const SharedFields& shared) {
  AttentionSpec attention;
  attention.num_heads = fields->Int("num_heads", 1, kMaxHeads);
  attention.head_dim = EvenHeadDim(fields, "num_heads", attention.num_heads, shared.hidden_size);
  attention.num_kv_heads =
      DivisorOfHeads(fields, "num_kv_heads", attention.num_heads, attention.num_heads);
  attention.rope_base = ReadRopeTheta(fields, shared.rope_base);
  if (type == kNames[1]) attention.window = fields->Int("window_size", 1, kMaxWindow);
  return attention;
}

MixerState AttentionSpec::State(const StateTypes& types) const {
  MixerState state;
  const size_t element = DTypeBytes(types.paired_keys ? DType::kBF16 : types.pages);
  state.page_bytes = AttentionPageFloats(num_kv_heads, head_dim) * element;
  state.page_row_bytes[0] = (types.paired_keys ? 2 : PadTo16(head_dim)) * element;
  state.page_row_bytes[1] = PadTo16(head_dim) * element;
  state.page_class = {window > 0 ? PageClass::Kind::kWindow : PageClass::Kind::kFull, kBlockTokens,
                      window, 0, 0};
  return state;
}

MixerInfo AttentionSpec::Info() const {
  return {type(), num_heads, head_dim, num_kv_heads, /*chunk_size=*/0, window};
}

std::string AttentionSpec::Identity() const {
  std::string text = absl::StrCat(type(), " ", num_heads, " ", window, " ", Exact(rope_base));
  // Left out where it does not apply, so that sessions of older models stay readable.
  if (rotary_dim.has_value()) absl::StrAppend(&text, " rotary ", *rotary_dim);
  if (norm_plus_one) absl::StrAppend(&text, " plus_one");
  if (scale.has_value()) absl::StrAppend(&text, " scale ", Exact(*scale));
  if (const RopeScaling& s = rope_scaling; s.factor != 1.0) {
    absl::StrAppend(&text, " scaled ", Exact(s.factor), " ", Exact(s.low_freq_factor), " ",
                    Exact(s.high_freq_factor), " ", s.original_context);
    if (s.ramp != RopeScaling::Ramp::kTurns) {
      absl::StrAppend(&text, " by channels ", static_cast<int>(s.ramp));
    }
  }
  if (!rope_scaling.divisors.empty()) absl::StrAppend(&text, " divided by");
  for (double divisor : rope_scaling.divisors) absl::StrAppend(&text, " ", Exact(divisor));
  if (rope_scaling.attention_factor != 1.0) {
    absl::StrAppend(&text, " attention_factor ", Exact(rope_scaling.attention_factor));
  }
  return text;
}

std::unique_ptr<Mixer> AttentionSpec::Load(const MixerLoad& load) const {
  return std::make_unique<AttentionMixer>(*this, load);
}

}  // namespace packrat
