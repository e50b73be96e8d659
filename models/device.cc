#include "models/device.h"

#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace packrat {

const float* DeviceWeights::Norm(const std::string& name, int n, bool plus_one, float scale) {
  std::vector<float> scales = loader_->Floats(name, {n});
  for (float& value : scales) value = (plus_one ? value + 1.0f : value) * scale;
  return Upload(std::move(scales));
}

const float* DeviceWeights::Biases(const std::vector<Rows>& parts) {
  std::vector<float> biases;
  std::map<std::string, std::vector<float>> read;  // One tensor may have several of the parts.
  for (const Rows& part : parts) {
    const std::string name = absl::StrCat(absl::StripSuffix(part.name, "weight"), "bias");
    const auto [found, first] = read.try_emplace(name);
    std::vector<float>& whole = found->second;
    if (first) whole = loader_->Floats(name, {part.out});
    if (whole.empty()) continue;  // After an error, or while it only measures.
    biases.insert(biases.end(), whole.begin() + part.first, whole.begin() + part.first + part.rows);
  }
  return Upload(std::move(biases));
}

const float* DeviceWeights::Taps(const std::vector<std::string>& names, int channels, int taps,
                                 const std::vector<float>& factors) {
  std::vector<float> stored;
  int64_t together = 0;
  for (const std::string& name : names) {
    const int64_t part = names.size() == 1 ? channels : loader_->LengthOf(name);
    const std::vector<float> values = loader_->Floats(name, {part, 1, taps});
    stored.insert(stored.end(), values.begin(), values.end());
    together += part;
  }
  if (together != channels) {
    loader_->Refuse(names.back(), absl::StrCat("ends ", together,
                                               " channels of convolutions; the "
                                               "config asks for ",
                                               channels));
    return nullptr;
  }
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
    if (r.base == base && r.table.head_dim == head_dim && r.table.divisor == divisor &&
        r.scaling == scaling) {
      return static_cast<int>(i);
    }
  }
  Rope rope = {base, scaling};
  rope.table.head_dim = head_dim;
  rope.table.divisor = divisor;
  rope.table.factor = scaling.attention_factor;
  ropes_.push_back(rope);
  return num_ropes() - 1;
}

void Device::Carve(int max_tokens, Carver* carver) {
  rope_tables_ = carver->Take<RopeTable>(ropes_.size());
  for (Rope& r : ropes_) {
    const int head_dim = r.table.head_dim;
    r.table.frequencies = carver->Take<double>(head_dim / 2);
    r.table.rows = carver->Take<float>(static_cast<size_t>(max_tokens) * head_dim);
  }
  CarveScratch(carver);
}

absl::Status Device::FillTables() const {
  for (size_t i = 0; i < ropes_.size(); ++i) {
    const Rope& r = ropes_[i];
    const std::vector<double> frequencies = RopeFrequencies(r.base, r.table.head_dim, r.scaling);
    absl::Status status =
        Write(frequencies.data(), frequencies.size() * sizeof(double), r.table.frequencies);
    if (status.ok()) status = Write(&r.table, sizeof r.table, rope_tables_ + i);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status Device::MultiplyNormed(const Normed& h, int rows, absl::Span<const Product> products) {
  absl::Status status = absl::OkStatus();
  if (h.weight != nullptr) {
    status = Norm(h.x, nullptr, rows, h.n, h.weight, h.eps, h.memory);
  }
  return status.ok() ? Multiply(h.memory, rows, products) : status;
}

absl::Status Device::AddGlu(const Normed& h, const GluWeights& weights, int rows, void* gate_up,
                            void* inner, const Residual& to) {
  absl::Status status = MultiplyNormed(h, rows, {{weights.up, gate_up, type(), weights.up_bias}});
  if (status.ok()) status = Glu(weights.gating, gate_up, rows, weights.down.in, inner);
  return status.ok() ? AddProduct(weights.down, inner, rows, weights.down_bias, to) : status;
}

}  // namespace packrat
