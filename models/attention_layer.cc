#include "models/layer.h"

namespace packrat {
namespace {

// Full attention, sliding window and RAT's local attention.
class AttentionMixer : public Mixer {
 public:
  AttentionMixer(const AttentionSpec& spec, const MixerLoad& load)
      : shape_{spec.num_heads, spec.num_kv_heads, spec.head_dim, spec.window},
        d_(load.hidden_size),
        q_width_(spec.num_heads * spec.head_dim),
        kv_width_(spec.num_kv_heads * spec.head_dim),
        rope_(load.ropes->Get(spec.rope_base, spec.head_dim, 1)) {
    const std::string& prefix = load.prefix;
    WeightLoader* weights = load.weights;
    if (spec.fused_in_proj) {  // v, q, k
      const std::string name = prefix + "in_proj.weight";
      const int all = q_width_ + 2 * kv_width_;
      v_proj_ = weights->MatrixRows(name, all, d_, 0, kv_width_);
      q_proj_ = weights->MatrixRows(name, all, d_, kv_width_, q_width_);
      k_proj_ = weights->MatrixRows(name, all, d_, kv_width_ + q_width_, kv_width_);
      o_proj_ = weights->Matrix(prefix + "out_proj.weight", d_, q_width_);
      return;
    }
    q_proj_ = weights->Matrix(prefix + "q_proj.weight", q_width_, d_);
    k_proj_ = weights->Matrix(prefix + "k_proj.weight", kv_width_, d_);
    v_proj_ = weights->Matrix(prefix + "v_proj.weight", kv_width_, d_);
    o_proj_ = weights->Matrix(prefix + "o_proj.weight", d_, q_width_);
    if (spec.qkv_bias) {
      q_bias_ = weights->Floats(prefix + "q_proj.bias", {q_width_});
      k_bias_ = weights->Floats(prefix + "k_proj.bias", {kv_width_});
      v_bias_ = weights->Floats(prefix + "v_proj.bias", {kv_width_});
    }
  }

  void Forward(const Step& step, const LayerState& state, const float* h, float* x) override {
    const auto tokens = static_cast<size_t>(step.batch.num_tokens);
    const int width = q_width_ + 2 * kv_width_;
    float *q = step.activations, *k = q + q_width_, *v = k + kv_width_;
    float* o = q + tokens * width;
    const auto bias = [](const std::vector<float>& b) { return b.empty() ? nullptr : b.data(); };
    MatMul(h, d_, step.batch.num_tokens,
           {{&q_proj_, q, width, bias(q_bias_)},
            {&k_proj_, k, width, bias(k_bias_)},
            {&v_proj_, v, width, bias(v_bias_)}},
           step.context);
    const absl::Status status =
        Attention(shape_, step.batch, step.Pages(state),
                  {q, k, v, width, rope_->rows.data(), o, DType::kF32}, step.context);
    PACKRAT_CHECK(status.ok());
    MatMul(o, q_width_, step.batch.num_tokens, {{&o_proj_, x, d_, nullptr, /*accumulate=*/true}},
           step.context);
  }

  size_t scratch_floats_per_token() const override { return 2 * (q_width_ + kv_width_); }
  size_t thread_scratch_floats() const override { return AttentionScratchFloats(shape_.head_dim); }
  int max_linear_inputs() const override { return d_ > q_width_ ? d_ : q_width_; }

 private:
  const AttentionShape shape_;
  const int d_, q_width_, kv_width_;
  const RopeTables::Table* rope_;
  PackedMatrix q_proj_, k_proj_, v_proj_, o_proj_;
  std::vector<float> q_bias_, k_bias_, v_bias_;  // Empty: no bias.
};

}  // namespace

std::unique_ptr<Mixer> LoadMixer(const AttentionSpec& spec, const MixerLoad& load) {
  return std::make_unique<AttentionMixer>(spec, load);
}

}  // namespace packrat
