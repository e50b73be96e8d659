#include "models/mixers/attention.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/attention.h"

namespace packrat {
namespace {

// One product makes q, k and v, side by side in the order of the family's tensors.
class AttentionMixer : public Mixer {
 public:
  AttentionMixer(const AttentionSpec& spec, const MixerLoad& load)
      : shape_{spec.num_heads, spec.num_kv_heads, spec.head_dim, spec.window},
        q_width_(spec.num_heads * spec.head_dim),
        kv_width_(spec.num_kv_heads * spec.head_dim),
        type_(load.device->type()),
        plan_(load.device->Plan(shape_)),
        rope_(load.device->PlanRope(spec.rope_base, spec.head_dim, 1)) {
    const int d = load.hidden_size;
    const std::string& prefix = load.prefix;
    if (spec.fused_in_proj) {
      v_at_ = 0, q_at_ = kv_width_, k_at_ = kv_width_ + q_width_;
      in_proj_ = load.weights->Matrix(prefix + "in_proj.weight", width(), d);
      out_proj_ = load.weights->Matrix(prefix + "out_proj.weight", d, q_width_);
      return;
    }
    q_at_ = 0, k_at_ = q_width_, v_at_ = q_width_ + kv_width_;
    in_proj_ = load.weights->Stack({{prefix + "q_proj.weight", q_width_},
                                    {prefix + "k_proj.weight", kv_width_},
                                    {prefix + "v_proj.weight", kv_width_}},
                                   d);
    out_proj_ = load.weights->Matrix(prefix + "o_proj.weight", d, q_width_);
    if (!spec.qkv_bias) return;
    std::vector<float> bias;
    for (const auto& [name, n] : {std::pair<const char*, int>{"q_proj.bias", q_width_},
                                  {"k_proj.bias", kv_width_},
                                  {"v_proj.bias", kv_width_}}) {
      const std::vector<float> part = load.weights->loader()->Floats(prefix + name, {n});
      bias.insert(bias.end(), part.begin(), part.end());
    }
    bias_ = load.weights->Upload(std::move(bias));
  }

  absl::Status Forward(const Step& step, const void* h, float* x) const override {
    Device& device = *step.device;
    const int tokens = step.tokens();
    const size_t element = DTypeBytes(type_);
    Carver memory(step.activations);
    auto* qkv = memory.Take<std::byte>(tokens * width() * element);
    auto* o = memory.Take<std::byte>(tokens * q_width_ * element);
    absl::Status status = device.Multiply(h, tokens, {{in_proj_, qkv, type_, bias_}});
    if (!status.ok()) return status;
    status = device.Attention(plan_, shape_, step,
                              {qkv + q_at_ * element, qkv + k_at_ * element, qkv + v_at_ * element,
                               width(), device.rope(rope_), o, type_});
    if (!status.ok()) return status;
    return device.AddProduct(out_proj_, o, tokens, x);
  }

  size_t bytes_per_token() const override { return (width() + q_width_) * DTypeBytes(type_); }

 private:
  int width() const { return q_width_ + 2 * kv_width_; }

  const AttentionShape shape_;
  const int q_width_, kv_width_;
  const DType type_;
  const int plan_;
  const int rope_;
  int q_at_ = 0, k_at_ = 0, v_at_ = 0;  // Columns of the product.
  Weight in_proj_, out_proj_;
  const float* bias_ = nullptr;
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
  state.page_bytes = AttentionPageFloats(num_kv_heads, head_dim) * DTypeBytes(types.pages);
  state.page_class = {window > 0 ? PageClass::Kind::kWindow : PageClass::Kind::kFull, kBlockTokens,
                      window, 0, 0};
  return state;
}

MixerInfo AttentionSpec::Info() const {
  return {type(), num_heads, head_dim, num_kv_heads, /*chunk_size=*/0, window};
}

std::string AttentionSpec::Identity() const {
  return absl::StrCat(type(), " ", num_heads, " ", window, " ", Exact(rope_base));
}

std::unique_ptr<Mixer> AttentionSpec::Load(const MixerLoad& load) const {
  return std::make_unique<AttentionMixer>(*this, load);
}

}  // namespace packrat
