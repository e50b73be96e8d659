// What layers are written over: the weights that a device keeps, and the operations of kernels/ as
// it runs them. Their contracts are in kernels/. Here they have no arguments for what only the
// device cares about (threads, streams, scratch). Pointers are to the device's memory.
//
// Statuses are those of the operations: on the CPU always OK.
#ifndef PACKRAT_MODELS_DEVICE_H_
#define PACKRAT_MODELS_DEVICE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/attention.h"
#include "kernels/batch.h"
#include "kernels/dtype.h"
#include "kernels/elementwise.h"
#include "kernels/experts.h"
#include "kernels/gated_conv.h"
#include "kernels/gated_delta.h"
#include "kernels/mamba2.h"
#include "kernels/matmul.h"
#include "kernels/mesa.h"
#include "kernels/rat.h"
#include "kernels/rat_plus.h"
#include "kernels/rg_lru.h"
#include "kernels/rope.h"
#include "models/weights.h"

namespace packrat {

// Cuts a block of memory into parts aligned to 256 bytes. Without memory it only counts, so that
// one function both measures a layout and hands it out.
class Carver {
 public:
  explicit Carver(std::byte* base = nullptr) : base_(base) {}
  template <class T>
  T* Take(size_t n) {
    std::byte* part = base_ == nullptr ? nullptr : base_ + used_;
    used_ += (n * sizeof(T) + 255) / 256 * 256;
    return reinterpret_cast<T*>(part);
  }
  size_t used() const { return used_; }

 private:
  std::byte* base_;
  size_t used_ = 0;
};

// The largest batch that scratch is made for.
struct Limits {
  int spans = 0, tokens = 0, rows = 0;  // rows: of logits.
  int context = 0;                      // Tokens of the longest text.
};

// Brings a checkpoint's tensors to a device. As WeightLoader: the first error is kept and makes
// everything after it a no-op.
class DeviceWeights {
 public:
  explicit DeviceWeights(WeightLoader* loader) : loader_(loader) {}
  virtual ~DeviceWeights() = default;

  // Rows [first, first + rows) of a tensor (out, in).
  struct Rows {
    Rows(std::string name, int out) : Rows(std::move(name), out, 0, out) {}
    Rows(std::string name, int out, int first, int rows)
        : name(std::move(name)), out(out), first(first), rows(rows) {}
    std::vector<int64_t> Shape(int in) const {
      if (count == 0) return {out, in};
      return {count, out / count, in};
    }
    std::string name;
    int out, first, rows;
    int count = 0;  // Not 0: the tensor is (count, out / count, in).
  };
  // The parts one after the other, so that products that share an input become one. The device may
  // keep the weight in another format than the checkpoint.
  Weight Stack(const std::vector<Rows>& parts, int in) { return Load(parts, in, Use::kProduct, 1); }
  Weight Matrix(const std::string& name, int out, int in) { return Stack({{name, out}}, in); }
  // `count` weights of one shape, of which each has an equal share of the parts' rows.
  Weight Experts(const std::vector<Rows>& parts, int in, int count) {
    return Load(parts, in, Use::kProduct, count);
  }
  // What stays as it is stored: gates, which are small, and the embedding, which is no product.
  Weight Stored(const std::vector<Rows>& parts, int in) { return Load(parts, in, Use::kStored, 1); }
  Weight Embedding(const std::string& name, int vocab, int width) {
    return Load({{name, vocab}}, width, Use::kEmbedding, 1);
  }
  // The output matrix. Tied() is for one that is the embedding: it returns that, or the same tensor
  // in another format.
  Weight Output(const std::string& name, int out, int in) {
    return Load({{name, out}}, in, Use::kOutput, 1);
  }
  virtual Weight Tied(const Weight& embedding, const std::string& name) { return embedding; }
  // Values made on the host; null if there are none.
  virtual const float* Upload(std::vector<float> values) = 0;
  // A tensor of this shape as float32.
  const float* Floats(const std::string& name, const std::vector<int64_t>& shape) {
    return Upload(loader_->Floats(name, shape));
  }
  // The biases of Stack(parts): tensors (out) with "bias" for "weight" in their names.
  const float* Biases(const std::vector<Rows>& parts);
  // The scales (n) of a norm: what is stored, or 1 + that; times `scale`.
  const float* Norm(const std::string& name, int n, bool plus_one = false, float scale = 1.0f);
  // The taps of a short convolution, (channels, 1, taps) as stored, tap-major
  // (kernels/short_conv.h). factors: (channels), which they are multiplied by, or empty.
  const float* Taps(const std::string& name, int channels, int taps,
                    const std::vector<float>& factors = {}) {
    return Taps(std::vector<std::string>{name}, channels, taps, factors);
  }
  // The same of tensors that have `channels` together, one after the other, however many each:
  // transformers writes OLMo's in thirds, whatever queries, keys and values have.
  const float* Taps(const std::vector<std::string>& names, int channels, int taps,
                    const std::vector<float>& factors = {});
  WeightLoader* loader() { return loader_; }

 protected:
  enum class Use { kProduct, kStored, kEmbedding, kOutput };
  virtual Weight Load(const std::vector<Rows>& parts, int in, Use use, int count) = 0;

  WeightLoader* const loader_;
};

// One product of Device::Multiply(): y = x W' (+ bias).
struct Product {
  const Weight& weight;
  void* y;                      // (rows, out), dense
  DType type;                   // Of y: that of activations, or float32.
  const float* bias = nullptr;  // (out)
};

// The input of a layer: RmsNorm() of rows of x (rows, n), which a device makes where a product
// reads it, or in `memory`, (rows, n) of the device's type. Without a weight, `memory` has it
// already.
struct Normed {
  const float* x;
  int n;
  const float* weight;
  float eps;
  void* memory;
};

// Where a layer adds its result: x += scale * result. x: (rows, out), float32.
struct Residual {
  float* x;
  float scale = 1.0f;
};

class Device;

// A gated linear unit between two products.
struct GluWeights {
  Weight up;             // (2 * width, in), the gate's rows first
  const float* up_bias;  // (2 * width) or null
  Gating gating;
  Weight down;             // (out, width)
  const float* down_bias;  // (out) or null
};

// A step as a layer sees it, besides its input: the batch, and the layer's part of the sequences'
// state. A layer whose kind has no pages, slots or tails ignores those.
struct Step {
  Device* device;
  const BatchView& batch;
  StatePages pages;
  StateParts slots, tails;
  SpanTotals* totals;  // (spans)
  std::byte*
      activations;  // The bytes_per_token() of the layer for each token, and kActivationSlack.
  // Where sequences may have one of several dials (models/batch.h): the same of those of each dial
  // alone, the places of the others unused; no spans if there are none.
  const Step* dials = nullptr;

  int tokens() const { return batch.num_tokens; }
};

class Device {
 public:
  virtual ~Device() = default;

  DType type() const { return type_; }              // Of activations and pages.
  DType state_type() const { return state_type_; }  // Of slots.

  // While layers are loaded, they announce what they will run. The number that is returned is the
  // first argument of the operation.
  virtual int Plan(const RatShape& shape) = 0;
  virtual int Plan(const RatPlusShape& shape) = 0;
  virtual int Plan(const AttentionShape& shape) = 0;
  virtual int Plan(const MesaShape& shape) = 0;
  virtual int Plan(const GatedDeltaShape& shape) = 0;
  virtual int Plan(const Mamba2Shape& shape) = 0;
  // The number of a rotary table. Layers with equal arguments share one.
  int PlanRope(double base, int head_dim, int divisor, const RopeScaling& scaling = {});

  // After that, Carve() hands out the scratch for steps of up to `max_tokens` tokens, and
  // FillTables() fills in what does not change from step to step.
  void Carve(int max_tokens, Carver* carver);
  absl::Status FillTables() const;

  // A step begins: fills the rotary tables for the batch's tokens, clears `totals`, and sets x
  // (tokens, in) = scale * the tokens' rows of the embedding.
  virtual absl::Status Begin(const BatchView& batch, const Weight& embedding, const int32_t* tokens,
                             float scale, float* x, SpanTotals* totals) = 0;
  const float* rope(int table) const { return ropes_[table].table.rows; }

  // Products of one x (rows, in). At most four.
  virtual absl::Status Multiply(const void* x, int rows, absl::Span<const Product> products) = 0;
  // The same of x = h.
  virtual absl::Status MultiplyNormed(const Normed& h, int rows,
                                      absl::Span<const Product> products);
  // Adds h W' + bias to `to`. bias: (out), or null.
  virtual absl::Status AddProduct(const Weight& weight, const void* h, int rows, const float* bias,
                                  const Residual& to) = 0;
  // Adds Glu(h up' + up_bias) down' + down_bias to `to`. gate_up, (rows, 2 * width), and inner,
  // (rows, width), both of type(), are memory for what lies between.
  virtual absl::Status AddGlu(const Normed& h, const GluWeights& weights, int rows, void* gate_up,
                              void* inner, const Residual& to);
  // RmsNorm(), or with `indices` RmsNormRows().
  virtual absl::Status Norm(const float* x, const int32_t* indices, int rows, int n,
                            const float* weight, float eps, void* y) = 0;
  // kernels/elementwise.h.
  virtual absl::Status AddNorm(const float* y, int rows, int n, const float* weight, float eps,
                               float* x) = 0;
  virtual absl::Status Convert(const float* x, int rows, int n, void* y) = 0;
  virtual absl::Status NormHeads(void* x, int stride, int rows, int heads, int head_dim,
                                 const float* weight, float eps) = 0;
  virtual absl::Status SigmoidGate(const void* gate, int stride, int rows, int n, void* y) = 0;
  virtual absl::Status Glu(const Gating& gating, const void* gate_up, int rows, int n, void* y) = 0;
  virtual absl::Status Gelu(void* x, int rows, int n) = 0;
  virtual absl::Status SquaredRelu(void* x, int rows, int n) = 0;
  virtual absl::Status SoftCap(float cap, int rows, int n, float* x) = 0;
  virtual absl::Status Rat(int plan, const RatShape& shape, const Step& step,
                           const RatOperands& operands) = 0;
  virtual absl::Status RatPlusAverage(const RatPlusShape& shape, const Step& step,
                                      const RatPlusOperands& operands) = 0;
  virtual absl::Status RatPlusAttention(int plan, const RatPlusShape& shape, const Step& step,
                                        const AttentionOperands& operands) = 0;
  virtual absl::Status Attention(int plan, const AttentionShape& shape, const Step& step,
                                 const AttentionOperands& operands) = 0;
  virtual absl::Status Mesa(int plan, const MesaShape& shape, const MesaWeights& weights,
                            const Step& step, const MesaOperands& operands) = 0;
  virtual absl::Status GatedDelta(int plan, const GatedDeltaShape& shape,
                                  const GatedDeltaWeights& weights, const Step& step,
                                  const GatedDeltaOperands& operands) = 0;
  virtual absl::Status Mamba2(int plan, const Mamba2Shape& shape, const Mamba2Weights& weights,
                              const Step& step, const Mamba2Operands& operands) = 0;
  virtual absl::Status GatedConv(const GatedConvShape& shape, const GatedConvWeights& weights,
                                 const Step& step, const GatedConvOperands& operands) = 0;
  virtual absl::Status RgLru(const RgLruShape& shape, const RgLruWeights& weights, const Step& step,
                             const RgLruOperands& operands) = 0;
  virtual absl::Status Experts(const ExpertsShape& shape, const ExpertsWeights& weights, int tokens,
                               const ExpertsOperands& operands) = 0;
  virtual absl::Status CheckFinite(const BatchView& batch, const float* x, int n,
                                   SpanTotals* totals) = 0;
  virtual absl::Status Clear(void* to, size_t bytes) = 0;
  // n values of x on the host, after all operations so far; valid until the next call. For tools:
  // it may wait and allocate.
  virtual absl::StatusOr<const float*> Read(const float* x, size_t n) = 0;

 protected:
  Device(DType type, DType state_type) : type_(type), state_type_(state_type) {}
  virtual void CarveScratch(Carver* carver) = 0;
  virtual absl::Status Write(const void* from, size_t bytes, void* to) const = 0;
  const RopeTable* rope_tables() const { return rope_tables_; }  // (num_ropes()), on the device.
  int num_ropes() const { return static_cast<int>(ropes_.size()); }

 private:
  struct Rope {
    double base;
    RopeScaling scaling;
    RopeTable table;  // frequencies: (head_dim / 2); rows: (tokens, head_dim)
  };
  const DType type_, state_type_;
  std::vector<Rope> ropes_;
  RopeTable* rope_tables_ = nullptr;
};

}  // namespace packrat

#endif  // PACKRAT_MODELS_DEVICE_H_
