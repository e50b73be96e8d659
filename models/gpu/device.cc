#include "models/gpu/device.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"
#include "kernels/matmul_fused.h"

namespace packrat::gpu {

GpuDevice::~GpuDevice() {
  if (stream_.stream != nullptr) cudaStreamDestroy(stream_);
}

absl::Status GpuDevice::Open(bool deterministic) {
  auto matmul = MatMul::Create({deterministic});
  if (!matmul.ok()) return matmul.status();
  matmul_ = *std::move(matmul);
  return CudaStatus(cudaStreamCreateWithFlags(&stream_.stream, cudaStreamNonBlocking),
                    "making a stream");
}

int GpuDevice::PlanFor(const std::string& region, size_t bytes, const AttendKind* kind,
                       const std::string& dial) {
  const auto find = [](const auto& all, const std::string& key) {
    const auto found =
        std::find_if(all.begin(), all.end(), [&](const auto& each) { return each.key == key; });
    return static_cast<int>(found - all.begin());
  };
  const std::string key = absl::StrCat(region, dial);
  const int plan = find(plans_, key);
  if (plan < static_cast<int>(plans_.size())) return plan;
  const int place = find(regions_, region);
  if (place == static_cast<int>(regions_.size())) regions_.push_back({region, bytes});
  PACKRAT_CHECK(regions_[place].bytes == bytes) << key;
  plans_.push_back({key, place, kind == nullptr ? -1 : static_cast<int>(attend_kinds_.size())});
  if (kind != nullptr) attend_kinds_.push_back(*kind);
  return plan;
}

int GpuDevice::Plan(const RatShape& s) {
  const AttendKind kind = RatKind(s, type());
  return PlanFor(absl::StrCat("rat ", s.num_heads, " ", s.head_dim, " ", s.chunk_size),
                 RatScratchBytes(s, type(), limits_.spans, limits_.tokens), &kind);
}

int GpuDevice::Plan(const RatPlusShape& s) {
  const AttendKind kind = RatPlusKind(s, type());
  return PlanFor(absl::StrCat("rat_plus ", s.num_heads, " ", s.head_dim),
                 RatPlusScratchBytes(s, type(), limits_.spans, limits_.tokens), &kind,
                 absl::StrCat(" ", s.dilation, " ", s.window, " ", s.sinks));
}

int GpuDevice::Plan(const AttentionShape& s) {
  const AttendKind kind = AttentionKind(s, type());
  return PlanFor(
      absl::StrCat("attention ", s.num_heads, " ", s.num_kv_heads, " ", s.head_dim, " ", s.window),
      AttentionScratchBytes(s, type(), limits_.spans, limits_.tokens), &kind);
}

int GpuDevice::Plan(const MesaShape& s) {
  const size_t bytes = MesaSharedBytes(s, state_type());
  if (bytes > info_.shared_bytes && plan_status_.ok()) {
    plan_status_ = absl::FailedPreconditionError(absl::StrCat(
        "Mesa heads of ", s.head_dim, " channels with ", DTypeName(state_type()), " state need ",
        bytes, " bytes of shared memory in a block; ", info_.name, " has ", info_.shared_bytes,
        state_type() == DType::kF32 ? "; --state_type=bfloat16 needs less" : ""));
  }
  return PlanFor(absl::StrCat("mesa ", s.num_heads, " ", s.head_dim, " ", s.conv_size),
                 MesaScratchBytes(s, limits_.spans, limits_.tokens));
}

int GpuDevice::Plan(const GatedDeltaShape& s) {
  const size_t bytes = GatedDeltaSharedBytes(s);
  if (bytes > info_.shared_bytes && plan_status_.ok()) {
    plan_status_ = absl::FailedPreconditionError(absl::StrCat(
        "gated delta heads of ", s.key_dim, " key channels need ", bytes,
        " bytes of shared memory in a block; ", info_.name, " has ", info_.shared_bytes));
  }
  return PlanFor(absl::StrCat("gated delta ", s.num_key_heads, " ", s.num_value_heads, " ",
                              s.key_dim, " ", s.value_dim, " ", s.conv_size),
                 GatedDeltaScratchBytes(s, limits_.spans, limits_.tokens));
}

int GpuDevice::Plan(const Mamba2Shape& s) {
  const size_t bytes = Mamba2SharedBytes(s);
  if (bytes > info_.shared_bytes && plan_status_.ok()) {
    plan_status_ = absl::FailedPreconditionError(absl::StrCat(
        "Mamba-2 heads with a state of ", s.state_size, " channels need ", bytes,
        " bytes of shared memory in a block; ", info_.name, " has ", info_.shared_bytes));
  }
  return 0;  // It keeps no memory of its own.
}

void GpuDevice::CarveScratch(Carver* carver) {
  for (Region& region : regions_) region.memory = carver->Take<std::byte>(region.bytes);
}

absl::Status GpuDevice::Write(const void* from, size_t bytes, void* to) const {
  absl::Status status =
      CudaStatus(cudaMemcpy(to, from, bytes, cudaMemcpyHostToDevice), "copying tables");
  // A copy of little memory may return before it is done, and other streams would not wait for it.
  return status.ok() ? CudaStatus(cudaDeviceSynchronize(), "copying tables") : status;
}

absl::StatusOr<const float*> GpuDevice::Read(const float* x, size_t n) {
  read_.resize(n);
  absl::Status status = CudaStatus(cudaStreamSynchronize(stream_), "running a step");
  if (!status.ok()) return status;
  status = CudaStatus(cudaMemcpy(read_.data(), x, n * sizeof(float), cudaMemcpyDeviceToHost),
                      "copying activations");
  if (!status.ok()) return status;
  return read_.data();
}

absl::Status GpuDevice::Multiply(const void* x, int rows, absl::Span<const Product> products) {
  for (const Product& p : products) {
    absl::Status status = matmul_->Run({&p.weight, x, type(), rows, p.y, p.type, p.bias}, stream_);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status GpuDevice::MultiplyNormed(const Normed& h, int rows,
                                       absl::Span<const Product> products) {
  const auto fused = [&](const Product& p) {
    return FusedProduct{
        {&p.weight, h.memory, type(), rows, p.y, p.type, p.bias}, h.x, h.weight, h.eps};
  };
  const auto can = [&](const Product& p) { return CanMultiplyFused(fused(p)); };
  if (h.weight == nullptr || !std::all_of(products.begin(), products.end(), can)) {
    return Device::MultiplyNormed(h, rows, products);
  }
  for (const Product& p : products) {
    absl::Status status = MultiplyFused(fused(p), stream_);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status GpuDevice::AddProduct(const Weight& weight, const void* h, int rows, const float* bias,
                                   const Residual& to) {
  return matmul_->Run(
      {&weight, h, type(), rows, to.x, DType::kF32, bias, /*accumulate=*/true, to.scale}, stream_);
}

absl::Status GpuDevice::AddGlu(const Normed& h, const GluWeights& weights, int rows, void* gate_up,
                               void* inner, const Residual& to) {
  FusedProduct up{{&weights.up, h.memory, type(), rows, inner, type(), weights.up_bias}};
  up.gating = &weights.gating;
  if (!CanMultiplyFused(up)) return Device::AddGlu(h, weights, rows, gate_up, inner, to);
  absl::Status status = absl::OkStatus();
  if (h.weight != nullptr) {
    FusedProduct normed = up;
    normed.norm_x = h.x, normed.norm_weight = h.weight, normed.norm_eps = h.eps;
    if (CanMultiplyFused(normed)) {
      up = normed;
    } else {
      status = Norm(h.x, nullptr, rows, h.n, h.weight, h.eps, h.memory);
    }
  }
  if (status.ok()) status = MultiplyFused(up, stream_);
  return status.ok() ? AddProduct(weights.down, inner, rows, weights.down_bias, to) : status;
}

}  // namespace packrat::gpu
