// A mixture of experts among a layer's feed-forwards; kernels/experts.h.
#ifndef PACKRAT_MODELS_EXPERTS_H_
#define PACKRAT_MODELS_EXPERTS_H_

#include <cstdint>
#include <memory>
#include <string>

#include "kernels/experts.h"
#include "models/files/json_fields.h"
#include "models/layer.h"

namespace packrat {

// All experts are gated by SiLU and as wide as each other. An expert that every token goes through,
// weighted by a sigmoid of its own, is a mixture of one.
struct ExpertsSpec {
  int num_experts = 1;
  int num_chosen = 1;  // Of a token.
  int width = 0;
  RouterScore score = RouterScore::kSoftmax;
  bool normalize = true;
  float normalize_eps = 0.0f;
  float route_scale = 1.0f;
  // What the checkpoint calls its tensors within the layer.
  struct Names {
    const char* router = nullptr;
    const char* bias = nullptr;  // Null: there is none.
    // The matrices of an expert, whose number stands where the star is. May be null.
    const char *gate = nullptr, *up = nullptr, *down = nullptr;
    // Or all of them in one, of three dimensions, an expert's gate before its up. May be null.
    const char *all_up = nullptr, *all_down = nullptr;
    // What other files call them, if they do.
    const char *router_or = nullptr, *all_up_or = nullptr, *all_down_or = nullptr;
  } names;

  // Sets num_experts and num_chosen from fields of these names. False: there are none, which the
  // file may say with a 0 if `least` is 0.
  bool ReadNumbers(JsonFields* fields, const std::string& num_experts_name, int experts,
                   const std::string& num_chosen_name, int chosen, int least = 1);
  std::string Identity() const;
  // The weights of one expert, with what chooses it left out.
  int64_t ExpertParameters(int hidden_size) const { return int64_t{3} * width * hidden_size; }
  std::unique_ptr<Mixer> Load(const MixerLoad& load) const;

  ExpertsShape shape(int hidden_size) const {
    return {num_experts, num_chosen, hidden_size,   width,
            score,       normalize,  normalize_eps, route_scale};
  }
};

}  // namespace packrat

#endif  // PACKRAT_MODELS_EXPERTS_H_
