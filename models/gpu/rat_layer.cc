#include "absl/strings/str_cat.h"
#include "kernels/rat.h"
#include "models/gpu/layer.h"

namespace packrat::gpu {
namespace {

class RatMixer : public Mixer {
 public:
  RatMixer(const RatSpec& spec, const MixerLoad& load)
      : shape_{spec.num_heads, spec.num_groups, spec.head_dim, spec.chunk_size},
        width_(spec.num_heads * spec.head_dim),
        type_(load.type),
        rope_(load.ropes->Get(spec.rope_base, spec.head_dim, spec.chunk_size)),
        scratch_(load.scratch->Get(
            absl::StrCat("rat ", spec.num_heads, " ", spec.head_dim, " ", spec.chunk_size),
            RatScratchBytes(shape_, load.limits.spans, load.limits.tokens, load.limits.context))),
        in_proj_(load.weights->Load(load.prefix + "in_proj.weight", shape_.projection(),
                                    load.hidden_size)),
        gate_bias_(load.weights->Floats(load.prefix + "gate_bias", {load.hidden_size})),
        out_proj_(load.weights->Load(load.prefix + "out_proj.weight", load.hidden_size,
                                     load.hidden_size)) {}

  absl::Status Forward(const Step& step, const LayerState& state, const void* h,
                       float* x) override {
    const auto tokens = static_cast<size_t>(step.batch.num_tokens);
    Carver activations(step.activations);
    auto* projection =
        activations.Take<std::byte>(tokens * shape_.projection() * DTypeBytes(type_));
    auto* o = activations.Take<std::byte>(tokens * width_ * DTypeBytes(type_));
    absl::Status status = step.Multiply(in_proj_, h, projection);
    if (!status.ok()) return status;
    status = Rat(shape_, step.batch, step.Pages(state), step.Tails(state),
                 {projection, gate_bias_, step.ropes.rows(rope_), o, type_},
                 step.scratch.region(scratch_), step.stream);
    if (!status.ok()) return status;
    return step.Accumulate(out_proj_, o, x);
  }

  size_t bytes_per_token() const override {
    return (shape_.projection() + width_) * DTypeBytes(type_);
  }

 private:
  const RatShape shape_;
  const int width_;
  const DType type_;
  const int rope_, scratch_;
  Matrix in_proj_;
  const float* gate_bias_;
  Matrix out_proj_;
};

}  // namespace

std::unique_ptr<Mixer> LoadMixer(const RatSpec& spec, const MixerLoad& load) {
  return std::make_unique<RatMixer>(spec, load);
}

}  // namespace packrat::gpu
