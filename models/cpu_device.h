// The CPU as a Device: kernels/*.cc on a pool of threads, activations and state in float32.
#ifndef PACKRAT_MODELS_CPU_DEVICE_H_
#define PACKRAT_MODELS_CPU_DEVICE_H_

#include <algorithm>
#include <cstddef>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "kernels/context.h"
#include "kernels/elementwise.h"
#include "kernels/matmul.h"
#include "kernels/rope.h"
#include "models/device.h"
#include "models/model.h"
#include "models/weight_formats.h"

namespace packrat {

// Weights packed for products, in the types that they are stored in, or quantised. With a loader
// that only measures they stay empty, and bytes() is what they would take.
class CpuWeights : public DeviceWeights {
 public:
  // Weights whose type allows it are packed for products in `arithmetic`. `tied`: see
  // WeightFormats.
  CpuWeights(WeightLoader* loader, bool tied, Arithmetic arithmetic, const ModelOptions& options)
      : DeviceWeights(loader), wanted_(arithmetic), formats_(*loader, tied, options) {}
  Weight Tied(const Weight& embedding, const std::string& name) override;
  const float* Upload(std::vector<float> values) override;
  size_t bytes() const { return matrix_bytes_ + loader_->float_bytes(); }
  int widest() const { return widest_; }  // The largest `in` of them.
  const WeightFormats& formats() const { return formats_; }
  // The tensors that were quantised here, and to what.
  const std::map<std::string, DType>& quantized() const { return quantized_; }
  // Whether there are any, or the output matrix is quantised from a tied embedding.
  bool quantises() const { return quantises_; }
  // Whether any of them is multiplied in `arithmetic`.
  bool multiplies_in(Arithmetic arithmetic) const {
    return arithmetics_[static_cast<size_t>(arithmetic)];
  }

 private:
  Weight Load(const std::vector<Rows>& parts, int in, Use use, int count) override;
  void SetMultipliesIn(Arithmetic arithmetic) {
    arithmetics_[static_cast<size_t>(arithmetic)] = true;
  }
  void SetRows(const WeightLoader::Piece& piece, int first, std::vector<PackedMatrix>* matrices);

  const Arithmetic wanted_;
  const WeightFormats formats_;
  std::deque<std::vector<PackedMatrix>> matrices_;  // At fixed addresses; most of them alone.
  std::deque<std::vector<float>> floats_;
  std::vector<float> wide_;  // While they are loaded.
  size_t matrix_bytes_ = 0;
  int widest_ = 0;
  bool arithmetics_[3] = {}, quantises_ = false;
  std::map<std::string, DType> quantized_;
};

class CpuDevice : public Device {
 public:
  CpuDevice() : Device(DType::kF32, DType::kF32) {}

  // The memory for products of up to `rows` rows of up to `widest` values and for what was planned.
  // Call Allocate() before anything runs.
  size_t Bytes(int threads, int rows, int widest) const {
    return KernelContext::Bytes(threads, Packed(rows, widest), ThreadFloats(widest));
  }
  void Allocate(int threads, int rows, int widest) {
    context_ = std::make_unique<KernelContext>(threads, Packed(rows, widest), ThreadFloats(widest));
  }
  ThreadPool* pool() { return &context_->pool; }
  // Attention, and the matrices of gated delta and Mamba-2. Pages are then those of
  // StateTypes::paired_keys, and slots as kernels/paired_state.h says.
  void ComputeInBFloat16() { in_bfloat16_ = true; }

  int Plan(const RatShape& s) override { return PlanThreads(RatScratchFloats(s.head_dim)); }
  int Plan(const RatPlusShape& s) override { return PlanThreads(RatPlusScratchFloats(s.head_dim)); }
  int Plan(const AttentionShape& s) override {
    // In what it attends is known when all weights are.
    return PlanThreads(
        std::max(AttentionScratchFloats(s.head_dim), AttentionInBFloat16ScratchFloats()));
  }
  int Plan(const MesaShape& s) override { return PlanThreads(MesaScratchFloats(s.head_dim)); }
  int Plan(const GatedDeltaShape& s) override { return PlanThreads(GatedDeltaScratchFloats(s)); }
  int Plan(const Mamba2Shape& s) override { return PlanThreads(Mamba2ScratchFloats(s)); }
  absl::Status Begin(const BatchView& batch, const Weight& embedding, const int32_t* tokens,
                     float scale, float* x, SpanTotals* totals) override;
  absl::Status Multiply(const void* x, int rows, absl::Span<const Product> products) override;
  absl::Status MultiplyNormed(const Normed& h, int rows,
                              absl::Span<const Product> products) override;
  absl::Status AddProduct(const Weight& weight, const void* h, int rows, const float* bias,
                          const Residual& to) override;
  absl::Status AddGlu(const Normed& h, const GluWeights& weights, int rows, void* gate_up,
                      void* inner, const Residual& to) override;
  absl::Status Norm(const float* x, const int32_t* indices, int rows, int n, const float* weight,
                    float eps, void* y) override {
    return indices == nullptr
               ? RmsNorm(x, rows, n, weight, eps, y, type(), context_.get())
               : RmsNormRows(x, indices, rows, n, weight, eps, y, type(), context_.get());
  }
  absl::Status AddNorm(const float* y, int rows, int n, const float* weight, float eps,
                       float* x) override {
    return AddRmsNorm(y, rows, n, weight, eps, x, context_.get());
  }
  absl::Status Convert(const float* x, int rows, int n, void* y) override {
    return packrat::Convert(x, rows, n, y, type(), context_.get());
  }
  absl::Status NormHeads(void* x, int stride, int rows, int heads, int head_dim,
                         const float* weight, float eps) override {
    return RmsNormHeads(x, stride, rows, heads, head_dim, weight, eps, type(), context_.get());
  }
  absl::Status SigmoidGate(const void* gate, int stride, int rows, int n, void* y) override {
    return packrat::SigmoidGate(gate, stride, rows, n, y, type(), context_.get());
  }
  absl::Status Glu(const Gating& gating, const void* gate_up, int rows, int n, void* y) override {
    return packrat::Glu(gating, gate_up, rows, n, y, type(), context_.get());
  }
  absl::Status Gelu(void* x, int rows, int n) override {
    return packrat::Gelu(x, rows, n, type(), context_.get());
  }
  absl::Status SquaredRelu(void* x, int rows, int n) override {
    return packrat::SquaredRelu(x, rows, n, type(), context_.get());
  }
  absl::Status SoftCap(float cap, int rows, int n, float* x) override {
    return packrat::SoftCap(cap, rows, n, x, context_.get());
  }
  absl::Status Rat(int, const RatShape& shape, const Step& s,
                   const RatOperands& operands) override {
    return packrat::Rat(shape, s.batch, s.pages, s.tails, operands, context_.get());
  }
  absl::Status RatPlusAverage(const RatPlusShape& shape, const Step& s,
                              const RatPlusOperands& operands) override {
    return packrat::RatPlusAverage(shape, s.batch, s.tails, operands, context_.get());
  }
  absl::Status RatPlusAttention(int, const RatPlusShape& shape, const Step& s,
                                const AttentionOperands& operands) override {
    return packrat::RatPlusAttention(shape, s.batch, s.pages, s.tails, operands, context_.get());
  }
  absl::Status Attention(int, const AttentionShape& shape, const Step& s,
                         const AttentionOperands& operands) override {
    return in_bfloat16_ ? AttentionInBFloat16(shape, s.batch, s.pages, operands, context_.get())
                        : packrat::Attention(shape, s.batch, s.pages, operands, context_.get());
  }
  absl::Status Mesa(int, const MesaShape& shape, const MesaWeights& weights, const Step& s,
                    const MesaOperands& operands) override {
    return packrat::Mesa(shape, weights, s.batch, s.slots, s.tails, operands, s.totals,
                         context_.get());
  }
  absl::Status GatedDelta(int, const GatedDeltaShape& shape, const GatedDeltaWeights& weights,
                          const Step& s, const GatedDeltaOperands& operands) override {
    return (in_bfloat16_ ? GatedDeltaInBFloat16 : packrat::GatedDelta)(
        shape, weights, s.batch, s.slots, s.tails, operands, s.totals, context_.get());
  }
  absl::Status Mamba2(int, const Mamba2Shape& shape, const Mamba2Weights& weights, const Step& s,
                      const Mamba2Operands& operands) override {
    return (in_bfloat16_ ? Mamba2InBFloat16 : packrat::Mamba2)(
        shape, weights, s.batch, s.slots, s.tails, operands, s.totals, context_.get());
  }
  absl::Status GatedConv(const GatedConvShape& shape, const GatedConvWeights& weights,
                         const Step& s, const GatedConvOperands& operands) override {
    return packrat::GatedConv(shape, weights, s.batch, s.tails, operands, context_.get());
  }
  absl::Status RgLru(const RgLruShape& shape, const RgLruWeights& weights, const Step& s,
                     const RgLruOperands& operands) override {
    return packrat::RgLru(shape, weights, s.batch, s.tails, operands, context_.get());
  }
  absl::Status Experts(const ExpertsShape& shape, const ExpertsWeights& weights, int tokens,
                       const ExpertsOperands& operands) override {
    return packrat::Experts(shape, weights, tokens, operands, context_.get());
  }
  absl::Status CheckFinite(const BatchView& batch, const float* x, int n,
                           SpanTotals* totals) override {
    return packrat::CheckFinite(batch, x, n, totals, context_.get());
  }
  absl::Status Clear(void* to, size_t bytes) override;
  absl::StatusOr<const float*> Read(const float* x, size_t) override { return x; }

 protected:
  void CarveScratch(Carver*) override {}
  absl::Status Write(const void* from, size_t bytes, void* to) const override;

 private:
  static size_t Packed(int rows, int widest) { return static_cast<size_t>(rows) * widest; }
  size_t ThreadFloats(int widest) const {
    return std::max(thread_floats_, MatMulScratchFloats(widest));
  }
  int PlanThreads(size_t floats) {
    thread_floats_ = std::max(thread_floats_, floats);
    return 0;
  }

  bool in_bfloat16_ = false;
  size_t thread_floats_ = 0;  // The most scratch that an operation takes of a thread.
  std::unique_ptr<KernelContext> context_;
};

}  // namespace packrat

#endif  // PACKRAT_MODELS_CPU_DEVICE_H_
