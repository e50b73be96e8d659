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
#include "kernels/matmul.h"
#include "models/files/checkpoint.h"
#include "models/gpu/memory.h"
#include "models/weights.h"

namespace packrat::gpu {

// bfloat16 if all matrices of the checkpoint are, else float32: the type of matrices and
// activations.
DType ActivationType(const Checkpoint& checkpoint);

// Device memory that the checkpoint's tensors take at most, matrices having elements of `type`.
size_t WeightBytes(const Checkpoint& checkpoint, DType type);

// As WeightLoader: the first error is kept and makes everything after it a no-op.
class DeviceWeights {
 public:
  // Told after each tensor how much of the checkpoint is on the device.
  using Progress = std::function<void(size_t done_bytes, size_t total_bytes)>;

  // `loader` outlives it.
  static absl::StatusOr<std::unique_ptr<DeviceWeights>> Create(WeightLoader* loader, DType type,
                                                               size_t weight_bytes,
                                                               Progress progress);
  ~DeviceWeights();
  DeviceWeights(const DeviceWeights&) = delete;
  DeviceWeights& operator=(const DeviceWeights&) = delete;

  // An empty matrix (out, in), to be filled by rows: products that share an input become one.
  Matrix NewMatrix(int out, int in);
  // Fills rows [at, at + rows) of `matrix` with rows [first, first + rows) of the tensor (out, in).
  void Fill(const Matrix& matrix, int at, const std::string& name, int out, int first, int rows);
  void Fill(const Matrix& matrix, int at, const std::string& name, int out) {
    Fill(matrix, at, name, out, 0, out);
  }
  Matrix Load(const std::string& name, int out, int in);
  // A tensor of this shape as float32.
  const float* Floats(const std::string& name, const std::vector<int64_t>& shape);
  // Values made on the host.
  const float* Upload(const std::vector<float>& values);

  WeightLoader* loader() { return loader_; }
  // Waits for all copies. The loader's errors first.
  absl::Status Finish();

 private:
  static constexpr size_t kStagingBytes = size_t{16} << 20;

  DeviceWeights() = default;
  void* Take(size_t bytes);
  // Copies `elements` of `from` to `to`, widening float16 and bfloat16 where `to_type` is float32.
  void Copy(const uint8_t* from, DType from_type, size_t elements, DType to_type, void* to);
  std::byte* NextStaging();
  void Check(absl::Status status);

  WeightLoader* loader_ = nullptr;
  DType type_ = DType::kF32;
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
