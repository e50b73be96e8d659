#include "models/layer.h"

namespace packrat {
namespace {

class RatMixer : public Mixer {
 public:
  RatMixer(const RatSpec& spec, const MixerLoad& load)
      : shape_{spec.num_heads, spec.num_groups, spec.head_dim, spec.chunk_size},
        d_(load.hidden_size),
        rope_(load.ropes->Get(spec.rope_base, spec.head_dim, spec.chunk_size)),
        in_proj_(load.weights->Matrix(load.prefix + "in_proj.weight", shape_.projection(), d_)),
        gate_bias_(load.weights->Floats(load.prefix + "gate_bias", {d_})),
        out_proj_(load.weights->Matrix(load.prefix + "out_proj.weight", d_, d_)) {}

  void Forward(const Step& step, const LayerState& state, const float* h, float* x) override {
    const int tokens = step.batch.num_tokens, width = shape_.projection();
    float* projection = step.activations;
    float* o = projection + static_cast<size_t>(tokens) * width;
    MatMul(h, d_, tokens, {{&in_proj_, projection, width}}, step.context);
    const absl::Status status =
        Rat(shape_, step.batch, step.Pages(state), step.Tails(state),
            {projection, gate_bias_.data(), rope_->rows.data(), o, DType::kF32}, step.context);
    PACKRAT_CHECK(status.ok());
    MatMul(o, d_, tokens, {{&out_proj_, x, d_, nullptr, /*accumulate=*/true}}, step.context);
  }

  size_t scratch_floats_per_token() const override { return shape_.projection() + d_; }
  size_t thread_scratch_floats() const override { return RatScratchFloats(shape_.head_dim); }
  int max_linear_inputs() const override { return d_; }

 private:
  const RatShape shape_;
  const int d_;
  const RopeTables::Table* rope_;
  PackedMatrix in_proj_;
  std::vector<float> gate_bias_;
  PackedMatrix out_proj_;
};

}  // namespace

std::unique_ptr<Mixer> LoadMixer(const RatSpec& spec, const MixerLoad& load) {
  return std::make_unique<RatMixer>(spec, load);
}

}  // namespace packrat
