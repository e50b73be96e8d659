// A matrix product on the GPU with its operands, and the reference in double precision.
#ifndef PACKRAT_TESTS_GPU_MATMUL_CASE_H_
#define PACKRAT_TESTS_GPU_MATMUL_CASE_H_

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "kernels/matmul.h"
#include "tests/gpu/gpu.h"
#include "tests/kernels/quantized_weight.h"
#include "tests/kernels/random.h"
#ifdef PACKRAT_EMULATED
#include "tests/emulation/cublasLt.h"
#endif

namespace packrat {

// Numbers in device memory, of either type; the first `skip` elements are left out, so that
// operands begin at odd addresses.
class Stored {
 public:
  Stored(DType type, size_t n, int skip = 0) : type_(type), skip_(skip) {
    if (type == DType::kF32) {
      floats_ = std::make_unique<DeviceArray<float>>(n + skip);
    } else {
      halves_ = std::make_unique<DeviceArray<__nv_bfloat16>>(n + skip);
    }
  }
  Stored(DType type, const std::vector<float>& values, int skip = 0)
      : Stored(type, values.size(), skip) {
    Set(values);
  }
  void* data() const {
    return floats_ != nullptr ? static_cast<void*>(floats_->data() + skip_)
                              : static_cast<void*>(halves_->data() + skip_);
  }
  void Set(const std::vector<float>& values) {
    std::vector<float> all(skip_, kNaN);
    all.insert(all.end(), values.begin(), values.end());
    if (floats_ != nullptr) {
      floats_->Set(all);
    } else {
      halves_->Set(ToBFloat16(all));
    }
  }
  std::vector<float> Get() const {
    const std::vector<float> all = floats_ != nullptr ? floats_->Get() : ToFloats(halves_->Get());
    return std::vector<float>(all.begin() + skip_, all.end());
  }
  // What this type keeps of the values.
  static std::vector<float> Rounded(DType type, const std::vector<float>& values) {
    return type == DType::kF32 ? values : ToFloats(ToBFloat16(values));
  }

 private:
  DType type_;
  int skip_;
  std::unique_ptr<DeviceArray<float>> floats_;
  std::unique_ptr<DeviceArray<__nv_bfloat16>> halves_;
};

struct Shape {
  DType type;  // Of x and, if it has no format, of the weight.
  int rows, out, in;
  DType y_type = DType::kF32;
  bool bias = false, accumulate = false;
  int skip = 0;  // Elements by which the weight and x are off the alignment of allocations.
  float scale = 1.0f;
  std::optional<DType> format = {};  // Of a quantised weight.
};

// A weight with its numbers, and the largest magnitude of what is multiplied for each of them.
class StoredWeight {
 public:
  StoredWeight(const Shape& s, Random* random) {
    weight_ = {nullptr, s.format.value_or(s.type), s.out, s.in};
    if (s.format.has_value()) {
      QuantizedWeight quantized = MakeQuantizedWeight(random, weight_.type, s.out, s.in);
      values_ = std::move(quantized.values);
      magnitudes_ = std::move(quantized.magnitudes);
      tiles_ = std::make_unique<DeviceArray<std::byte>>(quantized.tiles);
      weight_.data = tiles_->data();
      return;
    }
    values_ = Stored::Rounded(s.type, random->Normals(static_cast<size_t>(s.out) * s.in));
    for (const float w : values_) magnitudes_.push_back(std::fabs(w));
    plain_ = std::make_unique<Stored>(s.type, values_, s.skip);
    weight_.data = plain_->data();
  }
  const Weight& weight() const { return weight_; }
  const std::vector<float>& values() const { return values_; }
  const std::vector<double>& magnitudes() const { return magnitudes_; }

 private:
  std::vector<float> values_;
  std::vector<double> magnitudes_;
  std::unique_ptr<Stored> plain_;
  std::unique_ptr<DeviceArray<std::byte>> tiles_;
  Weight weight_;
};

// A product and its operands.
class Case {
 public:
  Case(const Shape& shape, Random* random)
      : shape_(shape),
        weight_(shape, random),
        x_(Stored::Rounded(shape.type, random->Normals(Size(shape.rows, shape.in)))),
        bias_(random->Normals(shape.out)),
        before_(random->Normals(Size(shape.rows, shape.out))),
        device_x_(shape.type, x_, shape.skip),
        device_bias_(DType::kF32, bias_),
        y_(shape.y_type, Size(shape.rows, shape.out)) {
    Reset();
  }

  // As before any product.
  void Reset() { y_.Set(shape_.accumulate ? before_ : std::vector<float>(before_.size(), kNaN)); }
  gpu::MatMulArguments Arguments() const { return Arguments(0, shape_.rows); }
  // Of some of the rows.
  gpu::MatMulArguments Arguments(int first, int rows) const {
    const size_t x_at = Size(first, shape_.in) * DTypeBytes(shape_.type);
    const size_t y_at = Size(first, shape_.out) * DTypeBytes(shape_.y_type);
    return {&weight_.weight(),
            static_cast<const char*>(device_x_.data()) + x_at,
            shape_.type,
            rows,
            static_cast<char*>(y_.data()) + y_at,
            shape_.y_type,
            shape_.bias ? static_cast<const float*>(device_bias_.data()) : nullptr,
            shape_.accumulate,
            shape_.scale};
  }
  std::vector<float> Y() const { return y_.Get(); }
  const std::vector<float>& x() const { return x_; }
  const std::vector<float>& weights() const { return weight_.values(); }
  void SetX(const std::vector<float>& x) {
    x_ = Stored::Rounded(shape_.type, x);
    device_x_.Set(x_);
  }

  // A sum of n terms in float32, in any order, is within n units of the sum of their magnitudes;
  // beside the products (exact or within one multiply-add) there are the sums of parts, the bias
  // and the old value. Tensor cores may truncate where others round: twice the unit. Of quantised
  // weights a group's sum is multiplied by the scale, and with a minimum there are two terms for
  // each number: twice as many roundings have room for both.
  void ExpectRight() const {
    const std::vector<float> y = Y();
    for (int r = 0; r < shape_.rows; ++r) {
      for (int o = 0; o < shape_.out; ++o) {
        double sum = 0, magnitude = 0;
        const auto add = [&](double term) { sum += term, magnitude += std::fabs(term); };
        for (int k = 0; k < shape_.in; ++k) {
          const double x = x_[Size(r, shape_.in) + k];
          sum += x * weight_.values()[Size(o, shape_.in) + k];
          magnitude += std::fabs(x) * weight_.magnitudes()[Size(o, shape_.in) + k];
        }
        if (shape_.bias) add(bias_[o]);
        sum *= shape_.scale, magnitude *= std::fabs(shape_.scale);
        if (shape_.accumulate) add(before_[Size(r, shape_.out) + o]);
        const double unit = shape_.type == DType::kF32 ? kUnit : 2 * kUnit;
        const double stored = shape_.y_type == DType::kF32 ? 0 : 0x1p-8;  // The result's rounding.
        const int terms = shape_.format.has_value() ? 2 * shape_.in : shape_.in;
        const double error = (terms + 3 + 8) * unit * magnitude;
        ASSERT_NEAR(y[Size(r, shape_.out) + o], sum, error + stored * (std::fabs(sum) + error))
            << "row " << r << " output " << o;
      }
    }
  }

 private:
  static size_t Size(int a, int b) { return static_cast<size_t>(a) * b; }

  Shape shape_;
  StoredWeight weight_;
  std::vector<float> x_, bias_, before_;
  Stored device_x_, device_bias_, y_;
};

inline std::string Describe(const Shape& s) {
  return std::string(DTypeName(s.type)) +
         (s.format.has_value() ? std::string(" by ") + DTypeName(*s.format) : "") + " rows " +
         std::to_string(s.rows) + " out " + std::to_string(s.out) + " in " + std::to_string(s.in) +
         " to " + DTypeName(s.y_type) + (s.bias ? " bias" : "") +
         (s.accumulate ? " accumulate" : "") + " scale " + std::to_string(s.scale) + " skip " +
         std::to_string(s.skip);
}

class MatMulGpuTest : public GpuTest {
 protected:
  void SetUp() override {
    GpuTest::SetUp();
    if (IsSkipped()) return;
#ifdef PACKRAT_EMULATED
    emulation::cublas_lt = emulation::CublasLt();
#endif
  }
  static std::unique_ptr<gpu::MatMul> Make(bool deterministic) {
    gpu::MatMul::Options options;
    options.deterministic = deterministic;
    auto matmul = gpu::MatMul::Create(options);
    EXPECT_TRUE(matmul.ok()) << matmul.status();
    return *std::move(matmul);
  }
  // So many that each block of a kernel for few rows takes two tiles of 16, and some a third.
  static int ManyOutputs() {
    int multiprocessors = 0;
    EXPECT_CUDA_OK(
        cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, /*device=*/0));
    return 2 * multiprocessors * 2 * 16 + 37;
  }
  static size_t FreeMemory() {
    size_t free = 0, total = 0;
    EXPECT_CUDA_OK(cudaMemGetInfo(&free, &total));
    return free;
  }
  std::vector<float> Run(gpu::MatMul* matmul, Case* c) {
    c->Reset();
    EXPECT_TRUE(matmul->Run(c->Arguments(), stream_).ok());
    Wait();
    return c->Y();
  }
};

}  // namespace packrat

#endif  // PACKRAT_TESTS_GPU_MATMUL_CASE_H_
