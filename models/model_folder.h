// A folder with a model: its configuration and its checkpoint.
#ifndef PACKRAT_MODELS_MODEL_FOLDER_H_
#define PACKRAT_MODELS_MODEL_FOLDER_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "models/config.h"
#include "models/files/checkpoint.h"

namespace packrat {

struct ModelFolder {
  ModelConfig config;
  std::unique_ptr<Checkpoint> checkpoint;  // The language model alone, under the config's names.
};

// DIR's checkpoint as the config names it. Errors as of Checkpoint::Open().
absl::StatusOr<std::unique_ptr<Checkpoint>> OpenCheckpoint(const std::string& dir,
                                                           const ModelConfig& config);

// Errors as LoadModelConfig(), Choose() and OpenCheckpoint().
absl::StatusOr<ModelFolder> OpenModelFolder(const std::string& dir,
                                            const ModelChoices& choices = {});

}  // namespace packrat

#endif  // PACKRAT_MODELS_MODEL_FOLDER_H_
