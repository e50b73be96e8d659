// A CUDA device as a Device: kernels/*.cu, queued on one stream.
#ifndef PACKRAT_MODELS_GPU_DEVICE_H_
#define PACKRAT_MODELS_GPU_DEVICE_H_

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "kernels/attend_plan.h"
#include "kernels/elementwise.h"
#include "kernels/gpu.h"
#include "kernels/matmul.h"
#include "kernels/rope.h"
#include "kernels/sampling.h"
#include "models/device.h"
#include "models/gpu/memory.h"

namespace packrat::gpu {

class GpuDevice : public Device {
 public:
  // To plan with. `type`: of activations.
  GpuDevice(const DeviceInfo& info, const Limits& limits, DType type, DType state_type)
      : Device(type, state_type), info_(info), limits_(limits) {}
  ~GpuDevice() override;
  // FAILED_PRECONDITION: an operation that was planned wants more than the device has.
  const absl::Status& plan_status() const { return plan_status_; }

  // Makes the stream and the library's handle, before anything runs.
  absl::Status Open(bool deterministic);
  // For copies, and for kernels that do not overlap.
  CudaStream stream() const { return stream_.stream; }
  // For the kernels of a step.
  CudaStream step_stream() const { return stream_; }
  // Whether the kernels of the next step overlap, but for Begin()'s, before which is a copy.
  void SetOverlap(bool overlap) { stream_.overlap = overlap; }
  size_t workspace_bytes() const { return matmul_->workspace_bytes(); }
  // The kinds of BatchView::attend_lists, by which the planned mixers decode.
  const std::vector<AttendKind>& attend_kinds() const { return attend_kinds_; }
  // Where Begin() finds a SampledInRow().
  void SetSampled(const SampledToken* sampled) { sampled_ = sampled; }

  int Plan(const RatShape& shape) override;
  int Plan(const RatPlusShape& shape) override;
  int Plan(const AttentionShape& shape) override;
  int Plan(const MesaShape& shape) override;
  int Plan(const GatedDeltaShape& shape) override;
  int Plan(const Mamba2Shape& shape) override;
  absl::Status Begin(const BatchView& batch, const Weight& embedding, const int32_t* tokens,
                     float scale, float* x, SpanTotals* totals) override {
    return Embed(embedding.data, embedding.type, tokens, sampled_, batch.num_tokens, embedding.in,
                 scale, x, {batch, rope_tables(), num_ropes(), totals}, stream());
  }
  absl::Status Multiply(const void* x, int rows, absl::Span<const Product> products) override;
  absl::Status MultiplyNormed(const Normed& h, int rows,
                              absl::Span<const Product> products) override;
  absl::Status AddProduct(const Weight& weight, const void* h, int rows, const float* bias,
                          const Residual& to) override;
  absl::Status AddGlu(const Normed& h, const GluWeights& weights, int rows, void* gate_up,
                      void* inner, const Residual& to) override;
  absl::Status Norm(const float* x, const int32_t* indices, int rows, int n, const float* weight,
                    float eps, void* y) override {
    return indices == nullptr ? RmsNorm(x, rows, n, weight, eps, y, type(), stream_)
                              : RmsNormRows(x, indices, rows, n, weight, eps, y, type(), stream_);
  }
  absl::Status AddNorm(const float* y, int rows, int n, const float* weight, float eps,
                       float* x) override {
    return AddRmsNorm(y, rows, n, weight, eps, x, stream_);
  }
  absl::Status Convert(const float* x, int rows, int n, void* y) override {
    return gpu::Convert(x, rows, n, y, type(), stream_);
  }
  absl::Status NormHeads(void* x, int stride, int rows, int heads, int head_dim,
                         const float* weight, float eps) override {
    return RmsNormHeads(x, stride, rows, heads, head_dim, weight, eps, type(), stream_);
  }
  absl::Status SigmoidGate(const void* gate, int stride, int rows, int n, void* y) override {
    return gpu::SigmoidGate(gate, stride, rows, n, y, type(), stream_);
  }
  absl::Status Glu(const Gating& gating, const void* gate_up, int rows, int n, void* y) override {
    return gpu::Glu(gating, gate_up, rows, n, y, type(), stream_);
  }
  absl::Status Gelu(void* x, int rows, int n) override {
    return gpu::Gelu(x, rows, n, type(), stream_);
  }
  absl::Status SquaredRelu(void* x, int rows, int n) override {
    return gpu::SquaredRelu(x, rows, n, type(), stream_);
  }
  absl::Status SoftCap(float cap, int rows, int n, float* x) override {
    return gpu::SoftCap(cap, rows, n, x, stream_);
  }
  absl::Status Rat(int plan, const RatShape& shape, const Step& s,
                   const RatOperands& operands) override {
    return gpu::Rat(shape, s.batch, s.pages, s.tails, operands, AttendList(plan, s.batch),
                    Memory(plan), stream_);
  }
  absl::Status RatPlusAverage(const RatPlusShape& shape, const Step& s,
                              const RatPlusOperands& operands) override {
    return gpu::RatPlusAverage(shape, s.batch, s.tails, operands, stream_);
  }
  absl::Status RatPlusAttention(int plan, const RatPlusShape& shape, const Step& s,
                                const AttentionOperands& operands) override {
    return gpu::RatPlusAttention(shape, s.batch, s.pages, s.tails, operands,
                                 AttendList(plan, s.batch), Memory(plan), stream_);
  }
  absl::Status Attention(int plan, const AttentionShape& shape, const Step& s,
                         const AttentionOperands& operands) override {
    return gpu::Attention(shape, s.batch, s.pages, operands, AttendList(plan, s.batch),
                          Memory(plan), stream_);
  }
  absl::Status Mesa(int plan, const MesaShape& shape, const MesaWeights& weights, const Step& s,
                    const MesaOperands& operands) override {
    return gpu::Mesa(shape, weights, s.batch, s.slots, s.tails, operands, s.totals, Memory(plan),
                     stream_);
  }
  absl::Status GatedDelta(int plan, const GatedDeltaShape& shape, const GatedDeltaWeights& weights,
                          const Step& s, const GatedDeltaOperands& operands) override {
    return gpu::GatedDelta(shape, weights, s.batch, s.slots, s.tails, operands, s.totals,
                           Memory(plan), stream_);
  }
  absl::Status Mamba2(int, const Mamba2Shape& shape, const Mamba2Weights& weights, const Step& s,
                      const Mamba2Operands& operands) override {
    return gpu::Mamba2(shape, weights, s.batch, s.slots, s.tails, operands, s.totals, stream_);
  }
  absl::Status GatedConv(const GatedConvShape& shape, const GatedConvWeights& weights,
                         const Step& s, const GatedConvOperands& operands) override {
    return gpu::GatedConv(shape, weights, s.batch, s.tails, operands, stream_);
  }
  absl::Status RgLru(const RgLruShape& shape, const RgLruWeights& weights, const Step& s,
                     const RgLruOperands& operands) override {
    return gpu::RgLru(shape, weights, s.batch, s.tails, operands, stream_);
  }
  absl::Status Experts(const ExpertsShape& shape, const ExpertsWeights& weights, int tokens,
                       const ExpertsOperands& operands) override {
    return gpu::Experts(shape, weights, tokens, operands, stream_);
  }
  absl::Status CheckFinite(const BatchView& batch, const float* x, int n,
                           SpanTotals* totals) override {
    return gpu::CheckFinite(batch, x, n, totals, stream_);
  }
  absl::Status Clear(void* to, size_t bytes) override { return gpu::Clear(to, bytes, stream_); }
  absl::StatusOr<const float*> Read(const float* x, size_t n) override;

 protected:
  void CarveScratch(Carver* carver) override;
  absl::Status Write(const void* from, size_t bytes, void* to) const override;

 private:
  // Memory that kernels keep from launch to launch, a region for each kind and shape of mixer.
  // Layers of equal shape use it one after the other, and each leaves it as the next one expects
  // it.
  struct Region {
    std::string key;
    size_t bytes;
    std::byte* memory = nullptr;
  };
  // What a mixer was planned with. Dials of RAT+ share a region, and have lists of their own.
  struct Planned {
    std::string key;
    int region;
    int list;  // Of attend_kinds_; -1: it does not decode by a list.
  };
  // The number of a plan; the same for equal regions and equal text behind them.
  int PlanFor(const std::string& region, size_t bytes, const AttendKind* kind = nullptr,
              const std::string& dial = "");
  std::byte* Memory(int plan) const { return regions_[plans_[plan].region].memory; }
  const AttendItem* AttendList(int plan, const BatchView& batch) const {
    return batch.attend_lists[plans_[plan].list];
  }

  const DeviceInfo info_;
  const Limits limits_;
  absl::Status plan_status_;
  std::vector<Region> regions_;
  std::vector<Planned> plans_;
  std::vector<AttendKind> attend_kinds_;
  std::unique_ptr<MatMul> matmul_;
  CudaStream stream_;
  const SampledToken* sampled_ = nullptr;
  std::vector<float> read_;
};

}  // namespace packrat::gpu

#endif  // PACKRAT_MODELS_GPU_DEVICE_H_
