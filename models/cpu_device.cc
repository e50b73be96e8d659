#include "models/cpu_device.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "kernels/check.h"

namespace packrat {

Weight CpuWeights::Stack(const std::vector<Rows>& parts, int in) {
  // Parts of different types meet in float32, which holds them all exactly.
  DType type = loader_->TypeOf(parts[0].name);
  int out = 0;
  for (const Rows& part : parts) {
    out += part.rows;
    if (loader_->TypeOf(part.name) != type) type = DType::kF32;
  }
  const bool load = loader_->mode() == WeightLoader::Mode::kLoad;
  const Arithmetic arithmetic = ArithmeticFor(type, wanted_);
  round_activations_ |= arithmetic == Arithmetic::kBFloat16;
  PackedMatrix& matrix =
      matrices_.emplace_back(load ? PackedMatrix(type, arithmetic, out, in) : PackedMatrix());
  matrix_bytes_ += PackedMatrix::Bytes(type, arithmetic, out, in);
  widest_ = std::max(widest_, in);
  int at = 0;
  std::vector<float> wide;
  for (const Rows& part : parts) {
    loader_->Rows(part.name, part.out, in, part.first, part.rows,
                  [&](const WeightLoader::Piece& piece) {
                    const void* rows = piece.data;
                    if (piece.type != type) {
                      wide.resize(static_cast<size_t>(piece.rows) * in);
                      for (size_t i = 0; i < wide.size(); ++i) {
                        wide[i] = LoadAsFloat(piece.data, i, piece.type);
                      }
                      rows = wide.data();
                    }
                    matrix.SetRows(at + piece.first, piece.rows, rows);
                  });
    at += part.rows;
  }
  return {&matrix, type, out, in};
}

const float* CpuWeights::Upload(std::vector<float> values) {
  if (values.empty()) return nullptr;
  return floats_.emplace_back(std::move(values)).data();
}

absl::Status CpuDevice::Clear(void* to, size_t bytes) {
  std::memset(to, 0, bytes);
  return absl::OkStatus();
}

absl::Status CpuDevice::Write(const void* from, size_t bytes, void* to) const {
  std::memcpy(to, from, bytes);
  return absl::OkStatus();
}

absl::Status CpuDevice::Embed(const Weight& embedding, const int32_t* tokens, int rows, float* x) {
  const auto* matrix = static_cast<const PackedMatrix*>(embedding.data);
  for (int t = 0; t < rows; ++t) matrix->CopyRow(tokens[t], x + size_t{1} * t * embedding.in);
  return absl::OkStatus();
}

absl::Status CpuDevice::Multiply(const void* x, int rows, absl::Span<const Product> products) {
  constexpr size_t kMost = 4;
  PACKRAT_CHECK(!products.empty() && products.size() <= kMost);
  MatMulOutput outputs[kMost];
  for (size_t i = 0; i < products.size(); ++i) {
    const Product& p = products[i];
    PACKRAT_CHECK(p.type == DType::kF32);
    outputs[i] = {static_cast<const PackedMatrix*>(p.weight.data), static_cast<float*>(p.y),
                  p.weight.out, p.bias};
  }
  MatMul(static_cast<const float*>(x), products[0].weight.in, rows,
         absl::MakeSpan(outputs, products.size()), context_.get());
  return absl::OkStatus();
}

absl::Status CpuDevice::AddProduct(const Weight& weight, const void* h, int rows, float* x) {
  MatMul(static_cast<const float*>(h), weight.in, rows,
         {{static_cast<const PackedMatrix*>(weight.data), x, weight.out, nullptr,
           /*accumulate=*/true}},
         context_.get());
  return absl::OkStatus();
}

}  // namespace packrat
