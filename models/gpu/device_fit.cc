#include "models/gpu/device_fit.h"

#include <string>
#include <variant>

#include "absl/strings/str_cat.h"
#include "kernels/mesa.h"

namespace packrat::gpu {
namespace {

std::string MiB(size_t bytes) { return absl::StrCat((bytes + (1 << 20) - 1) >> 20, " MiB"); }

// Shared memory of a block, where a kind's kernels want more than every device has.
size_t SharedBytes(const RatSpec&, DType) { return 0; }
size_t SharedBytes(const AttentionSpec&, DType) { return 0; }
size_t SharedBytes(const MesaSpec& mesa, DType state) {
  return MesaSharedBytes({mesa.num_heads, mesa.head_dim, mesa.conv_size}, state);
}

}  // namespace

absl::Status CheckSharedMemory(const ModelConfig& config, DType mesa_state,
                               const DeviceInfo& device) {
  for (const MixerSpec& mixer : config.layers) {
    const size_t bytes =
        std::visit([&](const auto& spec) { return SharedBytes(spec, mesa_state); }, mixer);
    if (bytes <= device.shared_bytes) continue;
    const MixerInfo info = InfoOf(mixer);
    return absl::FailedPreconditionError(absl::StrCat(
        info.type, " heads of ", info.head_dim, " channels with ", DTypeName(mesa_state),
        " state need ", bytes, " bytes of shared memory in a block; ", device.name, " has ",
        device.shared_bytes,
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
