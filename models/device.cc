#include "models/device.h"

#include <utility>

namespace packrat {

const float* DeviceWeights::Norm(const std::string& name, int n, bool plus_one) {
  std::vector<float> scales = loader_->Floats(name, {n});
  if (plus_one) {
    for (float& scale : scales) scale += 1.0f;
  }
  return Upload(std::move(scales));
}

const float* DeviceWeights::Taps(const std::string& name, int channels, int taps,
                                 const std::vector<float>& factors) {
  const std::vector<float> stored = loader_->Floats(name, {channels, 1, taps});
  std::vector<float> out(stored.size());
  for (size_t i = 0; i < stored.size(); ++i) {
    const float factor = factors.empty() ? 1.0f : factors[i / taps];
    out[i % taps * channels + i / taps] = stored[i] * factor;
  }
  return Upload(std::move(out));
}

int Device::PlanRope(double base, int head_dim, int divisor, const RopeScaling& scaling) {
  for (size_t i = 0; i < ropes_.size(); ++i) {
    const Rope& r = ropes_[i];
    if (r.base == base && r.head_dim == head_dim && r.divisor == divisor && r.scaling == scaling) {
      return static_cast<int>(i);
    }
  }
  ropes_.push_back({base, head_dim, divisor, scaling});
  return static_cast<int>(ropes_.size()) - 1;
}

void Device::Carve(int max_tokens, Carver* carver) {
  for (Rope& r : ropes_) {
    r.frequencies = carver->Take<double>(r.head_dim / 2);
    r.rows = carver->Take<float>(static_cast<size_t>(max_tokens) * r.head_dim);
  }
  CarveScratch(carver);
}

absl::Status Device::FillTables() const {
  for (const Rope& r : ropes_) {
    const std::vector<double> frequencies = RopeFrequencies(r.base, r.head_dim, r.scaling);
    absl::Status status =
        Write(frequencies.data(), frequencies.size() * sizeof(double), r.frequencies);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status Device::Begin(const BatchView& batch, SpanTotals* totals) {
  absl::Status status = Clear(totals, batch.num_spans * sizeof(SpanTotals));
  for (size_t i = 0; i < ropes_.size() && status.ok(); ++i) {
    const Rope& r = ropes_[i];
    status = FillRope(batch, r.frequencies, r.head_dim, r.divisor, r.rows);
  }
  return status;
}

absl::Status Device::MultiplyNormed(const Normed& h, int rows, absl::Span<const Product> products) {
  absl::Status status = Norm(h.x, nullptr, rows, h.n, h.weight, h.eps, h.memory);
  return status.ok() ? Multiply(h.memory, rows, products) : status;
}

absl::Status Device::AddSwiGluProduct(const Weight& weight, const void* gate_up, int rows,
                                      void* memory, float* x) {
  absl::Status status = SwiGlu(gate_up, rows, weight.in, memory);
  return status.ok() ? AddProduct(weight, memory, rows, x) : status;
}

}  // namespace packrat
