#include <algorithm>
#include <optional>

#include "models/layer.h"

namespace packrat {
namespace {

class MesaMixer : public Mixer {
 public:
  MesaMixer(const MesaSpec& spec, const MixerLoad& load)
      : shape_{spec.num_heads, spec.head_dim, spec.conv_size},
        d_(load.hidden_size),
        width_(shape_.width()),
        norm_eps_(load.norm_eps) {
    const std::string& prefix = load.prefix;
    WeightLoader* weights = load.weights;
    q_proj_ = weights->Matrix(prefix + "q_proj.weight", width_, d_);
    k_proj_ = weights->Matrix(prefix + "k_proj.weight", width_, d_);
    v_proj_ = weights->Matrix(prefix + "v_proj.weight", width_, d_);
    a_proj_ = weights->Matrix(prefix + "a_proj.weight", shape_.num_heads, d_);
    a_bias_ = weights->Floats(prefix + "a_proj.bias", {shape_.num_heads});
    b_proj_ = weights->Matrix(prefix + "b_proj.weight", shape_.num_heads, d_);
    b_bias_ = weights->Floats(prefix + "b_proj.bias", {shape_.num_heads});
    if (spec.use_output_gate) g_proj_ = weights->Matrix(prefix + "g_proj.weight", width_, d_);
    o_proj_ = weights->Matrix(prefix + "o_proj.weight", d_, width_);
    tensors_.emplace(spec, prefix, weights);
  }

  void Forward(const Step& step, const LayerState& state, const float* h, float* x) override {
    const auto tokens = static_cast<size_t>(step.batch.num_tokens);
    const bool gated = g_proj_.out() > 0;
    const int heads = shape_.num_heads, stride = (gated ? 4 : 3) * width_;
    float *q = step.activations, *k = q + width_, *v = k + width_, *g = v + width_;
    float* o = q + tokens * stride;
    float *a = o + tokens * width_, *b = a + heads;
    const MatMulOutput outputs[] = {{&q_proj_, q, stride},
                                    {&k_proj_, k, stride},
                                    {&v_proj_, v, stride},
                                    {&a_proj_, a, 2 * heads, a_bias_.data()},
                                    {&b_proj_, b, 2 * heads, b_bias_.data()},
                                    {&g_proj_, g, stride}};
    MatMul(h, d_, step.batch.num_tokens, absl::MakeSpan(outputs).first(gated ? 6 : 5),
           step.context);
    const auto data = [](const std::vector<float>& w) { return w.empty() ? nullptr : w.data(); };
    const MesaTensors& t = *tensors_;
    const MesaWeights weights{
        t.conv_q.data(), t.conv_k.data(), data(t.conv_q_bias), data(t.conv_k_bias), t.lambda.data(),
        t.o_norm.data(), norm_eps_};
    const absl::Status status =
        Mesa(shape_, weights, step.batch, step.Slots(state), step.Tails(state),
             {q, k, v, gated ? g : nullptr, stride, b, a, 2 * heads, o, DType::kF32, DType::kF32},
             step.totals, step.context);
    PACKRAT_CHECK(status.ok());
    MatMul(o, width_, step.batch.num_tokens, {{&o_proj_, x, d_, nullptr, /*accumulate=*/true}},
           step.context);
  }

  size_t scratch_floats_per_token() const override { return 5 * width_ + 2 * shape_.num_heads; }
  size_t thread_scratch_floats() const override { return MesaScratchFloats(shape_.head_dim); }
  int max_linear_inputs() const override { return std::max(d_, width_); }

 private:
  const MesaShape shape_;
  const int d_, width_;
  const float norm_eps_;
  PackedMatrix q_proj_, k_proj_, v_proj_, a_proj_, b_proj_, g_proj_, o_proj_;
  std::vector<float> a_bias_, b_bias_;  // (heads)
  std::optional<MesaTensors> tensors_;
};

}  // namespace

std::unique_ptr<Mixer> LoadMixer(const MesaSpec& spec, const MixerLoad& load) {
  return std::make_unique<MesaMixer>(spec, load);
}

}  // namespace packrat
