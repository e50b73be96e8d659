#include "models/model_folder.h"

#include <utility>

namespace packrat {

absl::StatusOr<std::unique_ptr<Checkpoint>> OpenCheckpoint(const std::string& dir,
                                                           const ModelConfig& config) {
  auto checkpoint = Checkpoint::Open(dir);
  if (checkpoint.ok() && !config.nested.empty()) {
    (*checkpoint)->Unnest(config.nested, "model.", config.others);
  }
  return checkpoint;
}

absl::StatusOr<ModelFolder> OpenModelFolder(const std::string& dir, const ModelChoices& choices) {
  auto config = LoadModelConfig(dir);
  if (!config.ok()) return config.status();
  if (absl::Status chosen = Choose(choices, &*config); !chosen.ok()) return chosen;
  auto checkpoint = OpenCheckpoint(dir, *config);
  if (!checkpoint.ok()) return checkpoint.status();
  return ModelFolder{*std::move(config), *std::move(checkpoint)};
}

}  // namespace packrat
