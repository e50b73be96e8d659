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

// The type called auto, float32 or bfloat16; INVALID_ARGUMENT for any other name.
absl::StatusOr<ActivationType> ActivationTypeOf(const std::string& name);

// Sets the formats of weights by name: stored, int8 or int4, and for the output matrix also auto.
// INVALID_ARGUMENT for any other name.
absl::Status SetWeightFormats(const std::string& weights, const std::string& output_weights,
                              ModelOptions* options);

// The tensors that loading would quantise, and to what. A tied output matrix is not among them,
// since its tensor is the embedding too. Errors as MeasureModel().
absl::StatusOr<std::map<std::string, DType>> QuantizedTensors(const std::string& dir,
                                                              const ModelOptions& options);

// The memory that the model would take, without loading it. Errors as LoadCpuModel(), as far as
// they show in config, names and shapes. `problems`, if not null, gets all errors and not only the
// first.
absl::StatusOr<ModelMemory> MeasureModel(const std::string& dir, const ModelOptions& options,
                                         std::vector<std::string>* problems = nullptr);

// Loads DIR/config.json and its safetensors onto the CPU. INVALID_ARGUMENT naming file, tensor and
// reason; FAILED_PRECONDITION if the processor lacks what options.activations asks for;
// RESOURCE_EXHAUSTED if this process cannot have the memory. `progress`, which may be empty, is
// told how much was read if weights are quantised on the way, which takes a while.
absl::StatusOr<std::unique_ptr<LanguageModel>> LoadCpuModel(
    const std::string& dir, const ModelOptions& options,
    std::function<void(size_t done_bytes, size_t total_bytes)> progress = nullptr);

}  // namespace packrat

#endif  // PACKRAT_MODELS_CPU_MODEL_H_
