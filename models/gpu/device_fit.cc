#include "models/gpu/device_fit.h"

#include <string>
#include <variant>

#include "absl/strings/str_cat.h"
#include "kernels/mesa.h"

namespace packrat::gpu {
namespace {

std::string MiB(size_t bytes) { return absl::StrCat((bytes + (1 << 20) - 1) >> 20, " MiB"); }

}  // namespace

absl::Status CheckSharedMemory(const ModelConfig& config, DType mesa_state,
                               const DeviceInfo& device) {
  for (const MixerSpec& spec : config.layers) {
    const auto* mesa = std::get_if<MesaSpec>(&spec);
    if (mesa == nullptr) continue;
    const size_t bytes =
        MesaSharedBytes({mesa->num_heads, mesa->head_dim, mesa->conv_size}, mesa_state);
    if (bytes <= device.shared_bytes) continue;
    return absl::FailedPreconditionError(absl::StrCat(
        "Mesa heads of ", mesa->head_dim, " channels with ", DTypeName(mesa_state), " state need ",
        bytes, " bytes of shared memory in a block; ", device.name, " has ", device.shared_bytes,
        mesa_state == DType::kF32 ? "; --mesa_state=bfloat16 needs less" : ""));
  }
  return absl::OkStatus();
}

absl::Status CheckMemory(size_t weights, size_t scratch, const StateLayout& layout, int context,
                         const DeviceInfo& device) {
  if (weights + scratch <= device.free_bytes) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat(
      "too little device memory: ", device.name, " has ", MiB(device.free_bytes), " of ",
      MiB(device.total_bytes), " free; weights take ", MiB(weights), ", scratch ",
      scratch > 0 ? MiB(scratch) : "some", ", the state of one sequence of ", context, " tokens ",
      MiB(layout.SequenceBytes(context))));
}

}  // namespace packrat::gpu
