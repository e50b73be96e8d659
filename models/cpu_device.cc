#include "models/cpu_device.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"
#include "kernels/quantized.h"

namespace packrat {

Weight CpuWeights::Load(const std::vector<Rows>& parts, int in, Use use, int count) {
  const WeightFormat asked = use == Use::kProduct  ? formats_.layers
                             : use == Use::kOutput ? formats_.output
                                                   : WeightFormat::kStored;
  // Parts of different types become float32, which holds them all.
  const DType type = FormatOf(parts, in, asked, DType::kF32, loader_);
  int rows = 0;
  for (const Rows& part : parts) rows += part.rows;
  const int out = rows / count;
  const bool load = loader_->mode() == WeightLoader::Mode::kLoad;
  const Arithmetic arithmetic = ArithmeticFor(type, wanted_);
  if (use != Use::kEmbedding) SetMultipliesIn(arithmetic);  // That is only looked up.
  std::vector<PackedMatrix>& matrices = matrices_.emplace_back();
  matrices.reserve(load ? count : 0);
  for (int i = 0; load && i < count; ++i) matrices.emplace_back(type, arithmetic, out, in);
  matrix_bytes_ += count * PackedMatrix::Bytes(type, arithmetic, out, in);
  widest_ = std::max(widest_, in);
  int at = 0;
  for (const Rows& part : parts) {
    if (IsQuantized(type) && loader_->TypeOf(part.name) != type) {
      quantized_[part.name] = type;
      quantises_ = true;
    }
    if (IsQuantized(type)) {
      loader_->Groups(part.name, part.Shape(in), part.first, part.rows, type,
                      [&](int row, int group, const QuantGroup& values) {
                        const int to = at + row;
                        matrices[to / out].SetGroup(to % out, group, values);
                      });
    } else {
      loader_->Rows(
          part.name, part.Shape(in), part.first, part.rows,
          [&](const WeightLoader::Piece& piece) { SetRows(piece, at + piece.first, &matrices); });
    }
    at += part.rows;
  }
  return {matrices.data(), type, out, in};
}

// The piece's rows as rows `first` and on of all matrices, of their type or of float32.
void CpuWeights::SetRows(const WeightLoader::Piece& piece, int first,
                         std::vector<PackedMatrix>* matrices) {
  const PackedMatrix& any = matrices->front();
  const void* from = piece.data;
  if (piece.type != any.type()) {
    wide_.resize(static_cast<size_t>(piece.rows) * any.in());
    WidenStored(piece.data, piece.type, wide_.size(), wide_.data());
    from = wide_.data();
  }
  const size_t row_bytes = any.in() * DTypeBytes(any.type());
  for (int done = 0; done < piece.rows;) {
    const int row = (first + done) % any.out(), n = std::min(piece.rows - done, any.out() - row);
    (*matrices)[(first + done) / any.out()].SetRows(
        row, n, static_cast<const std::byte*>(from) + done * row_bytes);
    done += n;
  }
}

Weight CpuWeights::Tied(const Weight& embedding, const std::string& name) {
  if (FormatOf(embedding.type, formats_.output) == embedding.type) {
    SetMultipliesIn(ArithmeticFor(embedding.type, wanted_));
    return embedding;
  }
  Weight output;
  loader_->TakeAgain([&] { output = Output(name, embedding.out, embedding.in); });
  quantized_.erase(name);
  return output;
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

absl::Status CpuDevice::Begin(const BatchView& batch, const Weight& embedding,
                              const int32_t* tokens, float scale, float* x, SpanTotals* totals) {
  std::fill_n(totals, batch.num_spans, SpanTotals());
  for (int i = 0; i < num_ropes(); ++i) {
    const RopeTable& rope = rope_tables()[i];
    absl::Status status = FillRope(batch, rope.frequencies, rope.head_dim, rope.divisor,
                                   rope.factor, rope.rows, context_.get());
    if (!status.ok()) return status;
  }
  const int rows = batch.num_tokens;
  const auto* matrix = static_cast<const PackedMatrix*>(embedding.data);
  // A row is spread over as many cache lines as it has pairs of values, so threads share the wait.
  constexpr int kRows = 8;  // Per task.
  context_->pool.Run((rows + kRows - 1) / kRows, [&](int64_t task, int) {
    for (int64_t t = task * kRows; t < rows && t < (task + 1) * kRows; ++t) {
      float* row = x + t * embedding.in;
      matrix->CopyRow(tokens[t], row);
      for (int i = 0; scale != 1.0f && i < embedding.in; ++i) row[i] *= scale;
    }
  });
  return absl::OkStatus();
}

namespace {

// Products as MatMul() takes them.
class Outputs {
 public:
  explicit Outputs(absl::Span<const Product> products) : n_(products.size()) {
    PACKRAT_CHECK(n_ >= 1 && n_ <= kMost);
    for (size_t i = 0; i < n_; ++i) {
      const Product& p = products[i];
      PACKRAT_CHECK(p.type == DType::kF32);
      outputs_[i] = {static_cast<const PackedMatrix*>(p.weight.data), static_cast<float*>(p.y),
                     p.weight.out, p.bias};
    }
  }
  Outputs(const Weight& weight, const float* bias, const Residual& to) : n_(1) {
    outputs_[0] = {static_cast<const PackedMatrix*>(weight.data),
                   to.x,
                   weight.out,
                   bias,
                   /*accumulate=*/true,
                   to.scale};
  }
  absl::Span<const MatMulOutput> span() const { return absl::MakeConstSpan(outputs_, n_); }

 private:
  static constexpr size_t kMost = 4;
  size_t n_;
  MatMulOutput outputs_[kMost];
};

}  // namespace

absl::Status CpuDevice::Multiply(const void* x, int rows, absl::Span<const Product> products) {
  MatMul(static_cast<const float*>(x), products[0].weight.in, rows, Outputs(products).span(),
         context_.get());
  return absl::OkStatus();
}

namespace {

// Makes a row of the input to a product.
auto MakeNormed(const Normed& h) {
  return [&h](int row, float* to) {
    RmsNormRow(h.x + size_t{1} * row * h.n, h.n, h.weight, h.eps, to);
  };
}

}  // namespace

absl::Status CpuDevice::MultiplyNormed(const Normed& h, int rows,
                                       absl::Span<const Product> products) {
  if (h.weight == nullptr) return Multiply(h.memory, rows, products);
  MatMul(MakeNormed(h), rows, Outputs(products).span(), context_.get());
  return absl::OkStatus();
}

absl::Status CpuDevice::AddProduct(const Weight& weight, const void* h, int rows, const float* bias,
                                   const Residual& to) {
  MatMul(static_cast<const float*>(h), weight.in, rows, Outputs(weight, bias, to).span(),
         context_.get());
  return absl::OkStatus();
}

absl::Status CpuDevice::AddGlu(const Normed& h, const GluWeights& weights, int rows, void* gate_up,
                               void*, const Residual& to) {
  const Outputs down(weights.down, weights.down_bias, to);
  const GluUp up{static_cast<const PackedMatrix*>(weights.up.data), weights.up_bias,
                 &weights.gating};
  const auto copy = [&](int row, float* made) {
    std::copy_n(static_cast<const float*>(h.memory) + size_t{1} * row * h.n, h.n, made);
  };
  const auto normed = MakeNormed(h);
  const bool done = h.weight == nullptr
                        ? GluMatMul(copy, rows, up, down.span()[0], context_.get())
                        : GluMatMul(normed, rows, up, down.span()[0], context_.get());
  if (done) return absl::OkStatus();
  absl::Status status = MultiplyNormed(h, rows, {{weights.up, gate_up, type(), weights.up_bias}});
  if (!status.ok()) return status;
  const int n = weights.down.in;
  const auto make = [&](int row, float* inner) {
    GluRow(weights.gating, static_cast<const float*>(gate_up) + size_t{2} * row * n, n, inner);
  };
  MatMul(make, rows, down.span(), context_.get());
  return absl::OkStatus();
}

}  // namespace packrat
