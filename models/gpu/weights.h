// Brings a checkpoint's tensors to the device through two pinned buffers that take turns, so that
// reading the disk and copying go on side by side.
#ifndef PACKRAT_MODELS_GPU_WEIGHTS_H_
#define PACKRAT_MODELS_GPU_WEIGHTS_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/dtype.h"
#include "models/device.h"
#include "models/files/checkpoint.h"
#include "models/gpu/memory.h"
#include "models/model.h"
#include "models/weight_formats.h"
#include "models/weights.h"

namespace packrat::gpu {

// bfloat16 if all matrices of the checkpoint are that or quantised, else float32: the type of
// activations, and of matrices that are not quantised.
DType ActivationType(const Checkpoint& checkpoint);

class GpuWeights : public DeviceWeights {
 public:
  // Told after each tensor how much of the checkpoint is on the device.
  using Progress = std::function<void(size_t done_bytes, size_t total_bytes)>;

  // `loader` outlives it. `tied`: see WeightFormats.
  static absl::StatusOr<std::unique_ptr<GpuWeights>> Create(WeightLoader* loader, bool tied,
                                                            DType type, const ModelOptions& options,
                                                            size_t weight_bytes, Progress progress);
  // To plan with: nothing is read or copied.
  GpuWeights(WeightLoader* measuring, bool tied, DType type, const ModelOptions& options)
      : DeviceWeights(measuring), type_(type), formats_(*measuring, tied, options) {}
  // What the planned weights take of the device's memory, at most.
  size_t planned_bytes() const;
  ~GpuWeights() override;
  GpuWeights(const GpuWeights&) = delete;
  GpuWeights& operator=(const GpuWeights&) = delete;

  DType type() const { return type_; }  // Of activations.
  const WeightFormats& formats() const { return formats_; }
  Weight Tied(const Weight& embedding, const std::string& name) override;
  const float* Upload(std::vector<float> values) override;

  // Waits for all copies. The loader's errors first.
  absl::Status Finish();

 private:
  static constexpr size_t kStagingBytes = size_t{16} << 20;

  Weight Load(const std::vector<Rows>& parts, int in, Use use, int count) override;
  std::byte* Take(size_t bytes);
  // The parts as rows of type_, at `to`; or as tiles (kernels/quant_tiles.h) of `weight`.
  void LoadRows(const std::vector<Rows>& parts, int in, std::byte* to);
  void LoadTiles(const std::vector<Rows>& parts, const Weight& weight, int rows, std::byte* to);
  // Copies `elements` of `from` to `to`: as they are, widened to float32, or, of quantised types,
  // rounded to bfloat16.
  void Copy(const uint8_t* from, DType from_type, size_t elements, DType to_type, std::byte* to);
  // Copies `bytes` to `to`, in pieces that are a multiple of 128 bytes, but for the last one.
  // fill(first, n, staging): those from `first` on.
  void CopyPieces(size_t bytes, std::byte* to,
                  absl::FunctionRef<void(size_t first, size_t n, std::byte* staging)> fill);
  std::byte* NextStaging();
  void Check(absl::Status status);

  const DType type_;
  const WeightFormats formats_;
  size_t matrix_bytes_ = 0;
  int uploads_ = 0;
  DeviceMemory memory_;
  size_t used_ = 0;
  PinnedMemory staging_;
  Event copied_[2];  // Out of each half of it.
  int turn_ = 0;
  CudaStream stream_;
  Progress progress_;
  size_t done_bytes_ = 0;
  std::vector<std::byte> tiles_;  // On their way.
  std::vector<float> wide_;
  absl::Status status_;
};

}  // namespace packrat::gpu

#endif  // PACKRAT_MODELS_GPU_WEIGHTS_H_
