#include <algorithm>
#include <cmath>

#include "models/layer.h"

namespace packrat {
namespace {

class MesaMixer : public Mixer {
 public:
  MesaMixer(const MesaSpec& spec, int hidden_size, float norm_eps, const std::string& prefix,
            WeightLoader* weights)
      : shape_{spec.num_heads, spec.head_dim, spec.conv_size},
        d_(hidden_size),
        width_(shape_.width()),
        norm_eps_(norm_eps) {
    q_proj_ = weights->Matrix(prefix + "q_proj.weight", width_, d_);
    k_proj_ = weights->Matrix(prefix + "k_proj.weight", width_, d_);
    v_proj_ = weights->Matrix(prefix + "v_proj.weight", width_, d_);
    a_proj_ = weights->Matrix(prefix + "a_proj.weight", shape_.num_heads, d_);
    a_bias_ = weights->Floats(prefix + "a_proj.bias", {shape_.num_heads});
    b_proj_ = weights->Matrix(prefix + "b_proj.weight", shape_.num_heads, d_);
    b_bias_ = weights->Floats(prefix + "b_proj.bias", {shape_.num_heads});
    if (spec.use_output_gate) g_proj_ = weights->Matrix(prefix + "g_proj.weight", width_, d_);
    o_proj_ = weights->Matrix(prefix + "o_proj.weight", d_, width_);
    LoadConvolution(prefix + "q_conv1d.", weights, &conv_q_, &conv_q_bias_);
    LoadConvolution(prefix + "k_conv1d.", weights, &conv_k_, &conv_k_bias_);
    lambda_ = weights->Floats(prefix + "lambda_params", {width_});
    for (float& l : lambda_) {  // softplus, without overflow
      l = std::max(l, 0.0f) + std::log1p(std::exp(-std::fabs(l))) + spec.lambda_lower_bound;
    }
    o_norm_ = weights->Floats(prefix + "o_norm.weight", {shape_.head_dim});
  }

  void Forward(const Step& step, const LayerState& state, const float* h, float* x) override {
    const auto tokens = static_cast<size_t>(step.batch.num_tokens);
    const int heads = shape_.num_heads;
    float* q = step.scratch->floats.data();
    float* k = q + tokens * width_;
    float* v = k + tokens * width_;
    float* g = v + tokens * width_;
    float* o = g + tokens * width_;
    float* a = o + tokens * width_;
    float* b = a + tokens * heads;
    auto& sequences = step.scratch->mesa;
    sequences.clear();
    for (int i = 0; i < step.batch.num_spans; ++i) {
      const Span& span = step.batch.spans[i];
      sequences.push_back({step.RowsOf(span), step.Slot(span.slot_in, state),
                           step.Slot(span.slot_out, state), step.Tail(span, state),
                           span.cg_tolerance, span.cg_max_steps});
    }
    const bool gated = g_proj_.out() > 0;
    const MatMulOutput outputs[] = {{&q_proj_, q, width_},
                                    {&k_proj_, k, width_},
                                    {&v_proj_, v, width_},
                                    {&a_proj_, a, heads, a_bias_.data()},
                                    {&b_proj_, b, heads, b_bias_.data()},
                                    {&g_proj_, g, width_}};
    MatMul(h, d_, step.batch.num_tokens, absl::MakeSpan(outputs).first(gated ? 6 : 5),
           step.context);
    const auto data = [](const std::vector<float>& w) { return w.empty() ? nullptr : w.data(); };
    const MesaWeights weights{conv_q_.data(),     conv_k_.data(), data(conv_q_bias_),
                              data(conv_k_bias_), lambda_.data(), o_norm_.data(),
                              norm_eps_};
    MesaSolves* solves = step.scratch->solves.data();
    Mesa(shape_, weights, sequences, {q, k, v, b, a, gated ? g : nullptr, o}, solves, step.context);
    MatMul(o, width_, step.batch.num_tokens, {{&o_proj_, x, d_, nullptr, /*accumulate=*/true}},
           step.context);
    for (int i = 0; i < step.batch.num_spans; ++i) {
      for (int head = 0; head < heads; ++head)
        Count(step.batch.spans[i], *solves++, &step.stats[i]);
    }
  }

  size_t scratch_floats_per_token() const override { return 5 * width_ + 2 * shape_.num_heads; }
  size_t thread_scratch_floats() const override { return MesaScratchFloats(shape_.head_dim); }
  int max_linear_inputs() const override { return std::max(d_, width_); }

 private:
  // (channels, 1, taps) as stored to (taps, channels).
  void LoadConvolution(const std::string& prefix, WeightLoader* weights, std::vector<float>* taps,
                       std::vector<float>* bias) {
    const int conv = shape_.conv_size;
    const std::vector<float> stored = weights->Floats(prefix + "weight", {width_, 1, conv});
    taps->resize(stored.size());
    for (size_t i = 0; i < stored.size(); ++i) {
      (*taps)[i % conv * width_ + i / conv] = stored[i];
    }
    if (weights->Has(prefix + "bias")) *bias = weights->Floats(prefix + "bias", {width_});
  }

  static void Count(const Span& span, const MesaSolves& solves, SpanStats* stats) {
    stats->cg_solves += span.num_tokens;
    stats->cg_steps += solves.steps;
    stats->cg_unconverged += solves.unconverged;
    if (!(solves.max_residual <= stats->max_residual)) stats->max_residual = solves.max_residual;
    if (!std::isfinite(solves.max_residual)) stats->finite = false;
  }

  const MesaShape shape_;
  const int d_, width_;
  const float norm_eps_;
  PackedMatrix q_proj_, k_proj_, v_proj_, a_proj_, b_proj_, g_proj_, o_proj_;
  std::vector<float> a_bias_, b_bias_;            // (heads)
  std::vector<float> conv_q_, conv_k_;            // (conv_size, width)
  std::vector<float> conv_q_bias_, conv_k_bias_;  // (width), or empty
  std::vector<float> lambda_;                     // (width)
  std::vector<float> o_norm_;                     // (head_dim)
};

}  // namespace

std::unique_ptr<Mixer> LoadMesa(const MesaSpec& spec, int hidden_size, float norm_eps,
                                const std::string& prefix, WeightLoader* weights) {
  return std::make_unique<MesaMixer>(spec, hidden_size, norm_eps, prefix, weights);
}

}  // namespace packrat
