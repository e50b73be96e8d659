#include "models/gpu/layer.h"

#include <cuda_runtime_api.h>

#include "kernels/rope.h"

namespace packrat::gpu {

int RopeRows::Get(double base, int head_dim, int divisor) {
  for (size_t i = 0; i < tables_.size(); ++i) {
    const Table& t = tables_[i];
    if (t.base == base && t.head_dim == head_dim && t.divisor == divisor)
      return static_cast<int>(i);
  }
  tables_.push_back({base, head_dim, divisor});
  return static_cast<int>(tables_.size()) - 1;
}

void RopeRows::Carve(int max_tokens, Carver* carver) {
  for (Table& t : tables_) {
    t.frequencies = carver->Take<double>(t.head_dim / 2);
    t.rows = carver->Take<float>(static_cast<size_t>(max_tokens) * t.head_dim);
  }
}

absl::Status RopeRows::Upload() const {
  for (const Table& t : tables_) {
    const std::vector<double> frequencies = RopeFrequencies(t.base, t.head_dim);
    absl::Status status =
        CudaStatus(cudaMemcpy(const_cast<double*>(t.frequencies), frequencies.data(),
                              frequencies.size() * sizeof(double), cudaMemcpyHostToDevice),
                   "copying rotary frequencies");
    if (!status.ok()) return status;
  }
  // A copy of little memory may return before it is done, and other streams would not wait for it.
  return CudaStatus(cudaDeviceSynchronize(), "copying rotary frequencies");
}

absl::Status RopeRows::Fill(const BatchView& batch, CudaStream stream) const {
  for (const Table& t : tables_) {
    absl::Status status = FillRope(batch, t.frequencies, t.head_dim, t.divisor, t.rows, stream);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

int KernelScratch::Get(const std::string& key, size_t bytes) {
  for (size_t i = 0; i < regions_.size(); ++i) {
    if (regions_[i].key == key) return static_cast<int>(i);
  }
  regions_.push_back({key, bytes});
  return static_cast<int>(regions_.size()) - 1;
}

void KernelScratch::Carve(Carver* carver) {
  for (Region& region : regions_) region.memory = carver->Take<std::byte>(region.bytes);
}

StatePages Step::Pages(const LayerState& layer) const {
  return {memory.pages[layer.page_class] + layer.page_offset,
          layout.page_classes[layer.page_class].page_bytes, tables[layer.page_class]};
}

absl::Status Step::Multiply(const Matrix& weight, const void* x, void* y, const float* bias) const {
  return matmul->Run({&weight, x, batch.num_tokens, y, type, bias}, stream);
}

absl::Status Step::Accumulate(const Matrix& weight, const void* h, float* x) const {
  return matmul->Run({&weight, h, batch.num_tokens, x, DType::kF32, nullptr, /*accumulate=*/true},
                     stream);
}

}  // namespace packrat::gpu
