#include <algorithm>

#include "absl/strings/str_cat.h"
#include "kernels/attention.h"
#include "models/gpu/layer.h"

namespace packrat::gpu {
namespace {

// One product makes q, k and v: in the order of the family's tensors, so that the fingerprint is
// that of the CPU.
class AttentionMixer : public Mixer {
 public:
  AttentionMixer(const AttentionSpec& spec, const MixerLoad& load)
      : shape_{spec.num_heads, spec.num_kv_heads, spec.head_dim, spec.window},
        q_width_(spec.num_heads * spec.head_dim),
        kv_width_(spec.num_kv_heads * spec.head_dim),
        type_(load.type),
        rope_(load.ropes->Get(spec.rope_base, spec.head_dim, 1)),
        scratch_(
            load.scratch->Get(absl::StrCat("attention ", spec.num_heads, " ", spec.num_kv_heads,
                                           " ", spec.head_dim, " ", spec.window),
                              AttentionScratchBytes(shape_, load.limits.spans, load.limits.tokens,
                                                    load.limits.context))) {
    const int d = load.hidden_size;
    DeviceWeights* weights = load.weights;
    const std::string& prefix = load.prefix;
    in_proj_ = weights->NewMatrix(width(), d);
    if (spec.fused_in_proj) {  // v, q, k
      v_at_ = 0, q_at_ = kv_width_, k_at_ = kv_width_ + q_width_;
      const std::string name = prefix + "in_proj.weight";
      weights->Fill(in_proj_, v_at_, name, width(), v_at_, kv_width_);
      weights->Fill(in_proj_, q_at_, name, width(), q_at_, q_width_);
      weights->Fill(in_proj_, k_at_, name, width(), k_at_, kv_width_);
      out_proj_ = weights->Load(prefix + "out_proj.weight", d, q_width_);
      return;
    }
    q_at_ = 0, k_at_ = q_width_, v_at_ = q_width_ + kv_width_;
    weights->Fill(in_proj_, q_at_, prefix + "q_proj.weight", q_width_);
    weights->Fill(in_proj_, k_at_, prefix + "k_proj.weight", kv_width_);
    weights->Fill(in_proj_, v_at_, prefix + "v_proj.weight", kv_width_);
    out_proj_ = weights->Load(prefix + "o_proj.weight", d, q_width_);
    if (spec.qkv_bias) {
      std::vector<float> all;
      for (const auto& [name, n] : {std::pair<const char*, int>{"q_proj.bias", q_width_},
                                    {"k_proj.bias", kv_width_},
                                    {"v_proj.bias", kv_width_}}) {
        const std::vector<float> part = weights->loader()->Floats(prefix + name, {n});
        all.insert(all.end(), part.begin(), part.end());
      }
      bias_ = weights->Upload(all);
    }
  }

  absl::Status Forward(const Step& step, const LayerState& state, const void* h,
                       float* x) override {
    const size_t element = DTypeBytes(type_);
    const auto tokens = static_cast<size_t>(step.batch.num_tokens);
    Carver activations(step.activations);
    auto* qkv = activations.Take<std::byte>(tokens * width() * element);
    auto* o = activations.Take<std::byte>(tokens * q_width_ * element);
    absl::Status status = step.Multiply(in_proj_, h, qkv, bias_);
    if (!status.ok()) return status;
    status = Attention(shape_, step.batch, step.Pages(state),
                       {qkv + q_at_ * element, qkv + k_at_ * element, qkv + v_at_ * element,
                        width(), step.ropes.rows(rope_), o, type_},
                       step.scratch.region(scratch_), step.stream);
    if (!status.ok()) return status;
    return step.Accumulate(out_proj_, o, x);
  }

  size_t bytes_per_token() const override { return (width() + q_width_) * DTypeBytes(type_); }

 private:
  int width() const { return q_width_ + 2 * kv_width_; }

  const AttentionShape shape_;
  const int q_width_, kv_width_;
  const DType type_;
  const int rope_, scratch_;
  int q_at_ = 0, k_at_ = 0, v_at_ = 0;  // Columns of the product.
  Matrix in_proj_, out_proj_;
  const float* bias_ = nullptr;
};

}  // namespace

std::unique_ptr<Mixer> LoadMixer(const AttentionSpec& spec, const MixerLoad& load) {
  return std::make_unique<AttentionMixer>(spec, load);
}

}  // namespace packrat::gpu
