#include "models/mixers/rat.h"

#include "absl/strings/str_cat.h"
#include "kernels/rat.h"

namespace packrat {
namespace {

class RatMixer : public Mixer {
 public:
  RatMixer(const RatSpec& spec, const MixerLoad& load)
      : shape_{spec.num_heads, spec.num_groups, spec.head_dim, spec.chunk_size},
        width_(spec.num_heads * spec.head_dim),
        type_(load.device->type()),
        plan_(load.device->Plan(shape_)),
        rope_(load.device->PlanRope(spec.rope_base, spec.head_dim, spec.chunk_size)),
        in_proj_(load.weights->Matrix(load.prefix + "in_proj.weight", shape_.projection(),
                                      load.hidden_size)),
        gate_bias_(load.weights->Floats(load.prefix + "gate_bias", {load.hidden_size})),
        out_proj_(load.weights->Matrix(load.prefix + "out_proj.weight", load.hidden_size, width_)) {
  }

  absl::Status Forward(const Step& step, const Normed& h, const Residual& to) const override {
    Device& device = *step.device;
    const int tokens = step.tokens();
    Carver memory(step.activations);
    void* projection =
        memory.Take<std::byte>(size_t{1} * tokens * shape_.projection() * DTypeBytes(type_));
    void* o = memory.Take<std::byte>(size_t{1} * tokens * width_ * DTypeBytes(type_));
    absl::Status status = device.MultiplyNormed(h, tokens, {{in_proj_, projection, type_}});
    if (!status.ok()) return status;
    status =
        device.Rat(plan_, shape_, step, {projection, gate_bias_, device.rope(rope_), o, type_});
    if (!status.ok()) return status;
    return device.AddProduct(out_proj_, o, tokens, nullptr, to);
  }

  size_t bytes_per_token() const override {
    return (shape_.projection() + width_) * DTypeBytes(type_);
  }

 private:
  const RatShape shape_;
  const int width_;
  const DType type_;
  const int plan_;
  const int rope_;
  const Weight in_proj_;
  const float* const gate_bias_;
  const Weight out_proj_;
};

}  // namespace

RatSpec RatSpec::Read(const std::string&, JsonFields* fields, const SharedFields& shared) {
  RatSpec rat;
  rat.num_heads = fields->Int("num_heads", 1, kMaxHeads);
  rat.head_dim = EvenHeadDim(fields, "num_heads", rat.num_heads, shared.hidden_size);
  rat.num_groups = DivisorOfHeads(fields, "num_groups", rat.num_heads, {});
  rat.chunk_size = fields->Int("chunk_size", 1, kMaxChunk);
  rat.rope_base = shared.rope_base;
  return rat;
}

MixerState RatSpec::State(const StateTypes& types) const {
  MixerState state;
  state.page_bytes = RatPageFloats(num_heads, head_dim) * DTypeBytes(types.pages);
  state.page_class = {PageClass::Kind::kRat, chunk_size, 0, 0, 0};
  state.tail_bytes = RatTailFloats(num_heads, head_dim) * sizeof(float);
  return state;
}

MixerInfo RatSpec::Info() const { return {kNames[0], num_heads, head_dim, num_groups, chunk_size}; }

std::string RatSpec::Identity() const {
  return absl::StrCat(kNames[0], " ", num_heads, " ", chunk_size, " ", Exact(rope_base));
}

std::unique_ptr<Mixer> RatSpec::Load(const MixerLoad& load) const {
  return std::make_unique<RatMixer>(*this, load);
}

}  // namespace packrat
