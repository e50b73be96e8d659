#include "absl/strings/str_cat.h"
#include "kernels/mesa.h"
#include "models/gpu/layer.h"

namespace packrat::gpu {
namespace {

// Two products: q, k, v and the output gate; and the two gates of the state, whose results are
// float32, since they decide how fast the state decays.
class MesaMixer : public Mixer {
 public:
  MesaMixer(const MesaSpec& spec, const MixerLoad& load)
      : shape_{spec.num_heads, spec.head_dim, spec.conv_size},
        width_(shape_.width()),
        gated_(spec.use_output_gate),
        norm_eps_(load.norm_eps),
        type_(load.type),
        state_type_(load.mesa_state),
        scratch_(load.scratch->Get(
            absl::StrCat("mesa ", spec.num_heads, " ", spec.head_dim, " ", spec.conv_size),
            MesaScratchBytes(shape_, load.limits.spans, load.limits.tokens))) {
    const int d = load.hidden_size, heads = shape_.num_heads;
    DeviceWeights* weights = load.weights;
    const std::string& prefix = load.prefix;
    in_proj_ = weights->NewMatrix(stride(), d);
    gates_ = weights->NewMatrix(2 * heads, d);
    weights->Fill(in_proj_, 0, prefix + "q_proj.weight", width_);
    weights->Fill(in_proj_, width_, prefix + "k_proj.weight", width_);
    weights->Fill(in_proj_, 2 * width_, prefix + "v_proj.weight", width_);
    weights->Fill(gates_, 0, prefix + "a_proj.weight", heads);
    std::vector<float> bias = weights->loader()->Floats(prefix + "a_proj.bias", {heads});
    weights->Fill(gates_, heads, prefix + "b_proj.weight", heads);
    const std::vector<float> b = weights->loader()->Floats(prefix + "b_proj.bias", {heads});
    bias.insert(bias.end(), b.begin(), b.end());
    gates_bias_ = weights->Upload(bias);
    if (gated_) weights->Fill(in_proj_, 3 * width_, prefix + "g_proj.weight", width_);
    out_proj_ = weights->Load(prefix + "o_proj.weight", d, width_);
    const MesaTensors tensors(spec, prefix, weights->loader());
    weights_ = {weights->Upload(tensors.conv_q),
                weights->Upload(tensors.conv_k),
                weights->Upload(tensors.conv_q_bias),
                weights->Upload(tensors.conv_k_bias),
                weights->Upload(tensors.lambda),
                weights->Upload(tensors.o_norm),
                norm_eps_};
  }

  absl::Status Forward(const Step& step, const LayerState& state, const void* h,
                       float* x) override {
    const auto tokens = static_cast<size_t>(step.batch.num_tokens);
    const size_t element = DTypeBytes(type_), heads = shape_.num_heads;
    Carver activations(step.activations);
    auto* gates = activations.Take<float>(tokens * 2 * heads);
    auto* qkvg = activations.Take<std::byte>(tokens * stride() * element);
    auto* o = activations.Take<std::byte>(tokens * width_ * element);
    absl::Status status = step.Multiply(in_proj_, h, qkvg);
    if (!status.ok()) return status;
    status = step.matmul->Run({&gates_, h, step.batch.num_tokens, gates, DType::kF32, gates_bias_},
                              step.stream);
    if (!status.ok()) return status;
    const auto part = [&](int i) { return qkvg + static_cast<size_t>(i) * width_ * element; };
    const MesaOperands operands{part(0),
                                part(1),
                                part(2),
                                gated_ ? part(3) : nullptr,
                                stride(),
                                gates + heads,  // beta
                                gates,          // gamma
                                static_cast<int>(2 * heads),
                                o,
                                type_,
                                state_type_};
    status = Mesa(shape_, weights_, step.batch, step.Slots(state), step.Tails(state), operands,
                  step.totals, step.scratch.region(scratch_), step.stream);
    if (!status.ok()) return status;
    return step.Accumulate(out_proj_, o, x);
  }

  size_t bytes_per_token() const override {
    return 2 * shape_.num_heads * sizeof(float) + (stride() + width_) * DTypeBytes(type_);
  }

 private:
  int stride() const { return (gated_ ? 4 : 3) * width_; }

  const MesaShape shape_;
  const int width_;
  const bool gated_;
  const float norm_eps_;
  const DType type_, state_type_;
  const int scratch_;
  Matrix in_proj_, gates_, out_proj_;
  const float* gates_bias_ = nullptr;
  MesaWeights weights_{};
};

}  // namespace

std::unique_ptr<Mixer> LoadMixer(const MesaSpec& spec, const MixerLoad& load) {
  return std::make_unique<MesaMixer>(spec, load);
}

}  // namespace packrat::gpu
