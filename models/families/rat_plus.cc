#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "models/families/families.h"

namespace packrat {
namespace {

// A part of the dial: one number for all layers, or a list with one for each.
std::vector<int> ReadDial(JsonFields* f, const std::string& name, int min, int fallback,
                          int num_layers) {
  const Json* value = f->Get(name);
  if (value == nullptr || !value->is_array()) {
    return std::vector<int>(num_layers, f->Int(name, min, RatPlusDial::kMax, fallback));
  }
  std::vector<int> numbers(num_layers, fallback);
  if (value->size() != numbers.size()) {
    f->Fail(name, absl::StrCat("has ", value->size(), " numbers; must be one, or one for each of ",
                               num_layers, " layers"));
    return numbers;
  }
  for (size_t i = 0; i < numbers.size(); ++i) {
    if (JsonFields::ToInt((*value)[i], min, RatPlusDial::kMax, &numbers[i])) continue;
    f->Fail(name, absl::StrCat("layer ", i, " has ", JsonFields::Shown((*value)[i]), "; ",
                               JsonFields::Range(min, RatPlusDial::kMax)));
    return std::vector<int>(num_layers, fallback);
  }
  return numbers;
}

}  // namespace

void ReadRatPlusConfig(JsonFields* f, ModelConfig* config) {
  const int num_layers = ReadRatSizes(f, config);
  config->max_context = f->Int("seq_len", 1, kMaxContext, config->max_context);
  RatPlusSpec spec;
  spec.num_heads = f->Int("num_head", 1, kMaxHeads);
  spec.head_dim = EvenHeadDim(f, "num_head", spec.num_heads, config->hidden_size);
  f->Only("d_head", spec.head_dim);
  spec.rope_base = f->Number("rope_base", 1.0, kMaxRopeBase, 10000.0);
  spec.pretrained = f->Bool("joint_train", false);
  f->Only("apply_re", true);
  f->Only("bias", false);
  f->Only("ln", "rmsnorm");

  // Beyond the context nothing is in reach of any window.
  const int context = config->max_context;
  const std::vector<int> dilations = ReadDial(f, "dilation_size", -1, 1, num_layers),
                         windows = ReadDial(f, "local_size", 0, 0, num_layers),
                         sinks = ReadDial(f, "initial_size", 0, 0, num_layers);
  for (int i = 0; i < num_layers; ++i) {
    spec.dial = {CheckedDilation(f, "dilation_size", dilations[i]), std::min(windows[i], context),
                 std::min(sinks[i], context)};
    config->AddLayer(spec);
  }
}

}  // namespace packrat
