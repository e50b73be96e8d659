// The tensor names of each model family, and what identifies a model.
#ifndef PACKRAT_MODELS_FAMILY_NAMES_H_
#define PACKRAT_MODELS_FAMILY_NAMES_H_

#include <cstdint>
#include <string>

#include "models/config.h"

namespace packrat {

struct FamilyNames {
  std::string embedding, final_norm, head;
  std::string mixer_norm, mixer, feed_forward_norm, feed_forward;  // Within a layer.
  std::string layers;
};

FamilyNames NamesOf(Family family);

// Of config and weights, hex; see LanguageModel::fingerprint(). `weights_hash`: of a WeightLoader
// that has taken everything in the order of the layers.
std::string Fingerprint(const ModelConfig& config, uint64_t weights_hash);

}  // namespace packrat

#endif  // PACKRAT_MODELS_FAMILY_NAMES_H_
