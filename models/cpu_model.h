// A model on the CPU. See models/model.h for the contract, models/load.h for the door to all
// devices.
#ifndef PACKRAT_MODELS_CPU_MODEL_H_
#define PACKRAT_MODELS_CPU_MODEL_H_

#include <cstddef>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "models/model.h"

namespace packrat {

// INVALID_ARGUMENT for another name than auto, float32 or bfloat16.
absl::StatusOr<ActivationType> ActivationTypeOf(const std::string& name);

// What it would take, without loading it. Errors as LoadCpuModel(), of what it reads: config,
// names, shapes.
absl::StatusOr<ModelMemory> MeasureModel(const std::string& dir, const ModelOptions& options);

// Loads DIR/config.json and its safetensors onto the CPU. INVALID_ARGUMENT naming file, tensor and
// reason; FAILED_PRECONDITION where the processor has not what options.activations asks for;
// RESOURCE_EXHAUSTED where this process cannot have the memory.
absl::StatusOr<std::unique_ptr<LanguageModel>> LoadCpuModel(const std::string& dir,
                                                            const ModelOptions& options);

}  // namespace packrat

#endif  // PACKRAT_MODELS_CPU_MODEL_H_
