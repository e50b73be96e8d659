// A model on the CPU. See models/model.h for the contract, models/load.h for the door to all
// devices.
#ifndef PACKRAT_MODELS_CPU_MODEL_H_
#define PACKRAT_MODELS_CPU_MODEL_H_

#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/dtype.h"
#include "models/model.h"

namespace packrat {

// INVALID_ARGUMENT for another name than auto, float32 or bfloat16.
absl::StatusOr<ActivationType> ActivationTypeOf(const std::string& name);

// Sets the formats of weights from names: stored, int8 or int4, for the output matrix also auto.
// INVALID_ARGUMENT for another name.
absl::Status SetWeightFormats(const std::string& weights, const std::string& output_weights,
                              ModelOptions* options);

// The tensors that loading would quantise, and to what; without a tied output matrix, whose tensor
// is the embedding too. Errors as MeasureModel().
absl::StatusOr<std::map<std::string, DType>> QuantizedTensors(const std::string& dir,
                                                              const ModelOptions& options);

// What it would take, without loading it. Errors as LoadCpuModel(), of what it reads: config,
// names, shapes.
absl::StatusOr<ModelMemory> MeasureModel(const std::string& dir, const ModelOptions& options);

// Loads DIR/config.json and its safetensors onto the CPU. INVALID_ARGUMENT naming file, tensor and
// reason; FAILED_PRECONDITION where the processor has not what options.activations asks for;
// RESOURCE_EXHAUSTED where this process cannot have the memory. `progress`, which may be empty, is
// told how much was read where weights are quantised meanwhile, which takes its time.
absl::StatusOr<std::unique_ptr<LanguageModel>> LoadCpuModel(
    const std::string& dir, const ModelOptions& options,
    std::function<void(size_t done_bytes, size_t total_bytes)> progress = nullptr);

}  // namespace packrat

#endif  // PACKRAT_MODELS_CPU_MODEL_H_
