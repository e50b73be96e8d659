#include "models/model_folder.h"

#include <utility>

namespace packrat {

absl::StatusOr<ModelFolder> OpenModelFolder(const std::string& dir) {
  auto config = LoadModelConfig(dir);
  if (!config.ok()) return config.status();
  auto checkpoint = Checkpoint::Open(dir);
  if (!checkpoint.ok()) return checkpoint.status();
  if (!config->nested.empty()) (*checkpoint)->Unnest(config->nested, "model.", config->others);
  return ModelFolder{*std::move(config), *std::move(checkpoint)};
}

}  // namespace packrat
