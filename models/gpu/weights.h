// Brings a checkpoint's tensors to the device through two pinned buffers that take turns, so that
// reading the disk and copying go on side by side.
#ifndef PACKRAT_MODELS_GPU_WEIGHTS_H_
#define PACKRAT_MODELS_GPU_WEIGHTS_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/dtype.h"
#include "models/device.h"
#include "models/files/checkpoint.h"
#include "models/gpu/memory.h"
#include "models/weights.h"

namespace packrat::gpu {

// bfloat16 if all matrices of the checkpoint are, else float32: the type of matrices and
// activations.
DType ActivationType(const Checkpoint& checkpoint);

class GpuWeights : public DeviceWeights {
 public:
  // Told after each tensor how much of the checkpoint is on the device.
  using Progress = std::function<void(size_t done_bytes, size_t total_bytes)>;

  // `loader` outlives it.
  static absl::StatusOr<std::unique_ptr<GpuWeights>> Create(WeightLoader* loader, DType type,
                                                            size_t weight_bytes, Progress progress);
  // To plan with: nothing is read or copied.
  GpuWeights(WeightLoader* measuring, DType type) : DeviceWeights(measuring), type_(type) {}
  // What the planned weights take of the device's memory, at most.
  size_t planned_bytes() const;
  ~GpuWeights() override;
  GpuWeights(const GpuWeights&) = delete;
  GpuWeights& operator=(const GpuWeights&) = delete;

  DType type() const { return type_; }  // Of matrices.
  const float* Upload(std::vector<float> values) override;

  // Waits for all copies. The loader's errors first.
  absl::Status Finish();

 private:
  static constexpr size_t kStagingBytes = size_t{16} << 20;

  Weight Load(const std::vector<Rows>& parts, int in, Use use, int count) override;
  void* Take(size_t bytes);
  // Copies `elements` of `from` to `to`, widening float16 and bfloat16 where `to_type` is float32.
  void Copy(const uint8_t* from, DType from_type, size_t elements, DType to_type, void* to);
  std::byte* NextStaging();
  void Check(absl::Status status);

  const DType type_;
  size_t matrix_bytes_ = 0;
  int uploads_ = 0;
  DeviceMemory memory_;
  size_t used_ = 0;
  PinnedMemory staging_;
  Event copied_[2];  // Out of each half of it.
  int turn_ = 0;
  CudaStream stream_ = nullptr;
  Progress progress_;
  size_t done_bytes_ = 0;
  absl::Status status_;
};

}  // namespace packrat::gpu

#endif  // PACKRAT_MODELS_GPU_WEIGHTS_H_
