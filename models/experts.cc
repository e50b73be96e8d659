#include "models/experts.h"

#include <vector>

#include "absl/strings/str_cat.h"
#include "models/mixers/spec.h"

namespace packrat {
namespace {

// The name with the expert's number for its star.
std::string Numbered(const std::string& name, int expert) {
  const size_t star = name.find('*');
  if (star == std::string::npos) return name;
  return absl::StrCat(name.substr(0, star), expert, name.substr(star + 1));
}

class ExpertsLayer : public Mixer {
 public:
  ExpertsLayer(const ExpertsSpec& spec, const MixerLoad& load)
      : shape_(spec.shape(load.hidden_size)), type_(load.device->type()) {
    const int n = shape_.num_experts, d = shape_.hidden, f = shape_.width;
    const ExpertsSpec::Names& names = spec.names;
    DeviceWeights* weights = load.weights;
    const auto found = [&](const char* name, const char* other) {
      const bool is_other = other != nullptr && weights->loader()->Has(load.prefix + other);
      return load.prefix + (is_other ? other : name);
    };
    router_ = weights->Stored({{found(names.router, names.router_or), n}}, d);
    weights_.bias =
        names.bias == nullptr ? nullptr : weights->Floats(load.prefix + names.bias, {n});
    const bool in_one = names.all_up != nullptr &&
                        (names.up == nullptr || weights->loader()->Has(load.prefix + names.all_up));
    if (in_one) {
      weights_.up = weights->Experts({AllOf(found(names.all_up, names.all_up_or), 2 * f)}, d, n);
      weights_.down = weights->Experts({AllOf(found(names.all_down, names.all_down_or), d)}, f, n);
      return;
    }
    std::vector<DeviceWeights::Rows> ups, downs;
    for (int e = 0; e < n; ++e) {
      ups.emplace_back(load.prefix + Numbered(names.gate, e), f);
      ups.emplace_back(load.prefix + Numbered(names.up, e), f);
      downs.emplace_back(load.prefix + Numbered(names.down, e), d);
    }
    weights_.up = weights->Experts(ups, d, n);
    weights_.down = weights->Experts(downs, f, n);
  }

  absl::Status Forward(const Step& step, const Normed& h, const Residual& to) const override {
    Device& device = *step.device;
    const int tokens = step.tokens();
    const size_t choices = size_t{1} * tokens * shape_.num_chosen, element = DTypeBytes(type_);
    Carver memory(step.activations);
    auto* logits = memory.Take<float>(size_t{1} * tokens * shape_.num_experts);
    ExpertsMemory m;
    m.chosen = memory.Take<int32_t>(choices);
    m.shares = memory.Take<float>(choices);
    m.row_of = memory.Take<int32_t>(choices);
    m.token = memory.Take<int32_t>(choices);
    m.begins = memory.Take<int32_t>(shape_.num_experts + 1);
    m.up = memory.Take<std::byte>(choices * 2 * shape_.width * element);
    m.inner = memory.Take<std::byte>(choices * shape_.width * element);
    m.down = memory.Take<float>(choices * shape_.hidden);
    absl::Status status = absl::OkStatus();
    if (h.weight != nullptr) {  // Several products read it.
      status = device.Norm(h.x, nullptr, tokens, h.n, h.weight, h.eps, h.memory);
    }
    if (status.ok()) status = device.Multiply(h.memory, tokens, {{router_, logits, DType::kF32}});
    if (!status.ok()) return status;
    return device.Experts(shape_, weights_, tokens, {logits, h.memory, type_, m, to.x, to.scale});
  }

  size_t bytes_per_token() const override {
    const size_t choice = 3 * sizeof(int32_t) + sizeof(float) +
                          size_t{3} * shape_.width * DTypeBytes(type_) +
                          shape_.hidden * sizeof(float);
    // The begins are there once, and counted as if for each token.
    return (2 * shape_.num_experts + 1) * sizeof(float) + shape_.num_chosen * choice;
  }

 private:
  // A tensor of all experts' matrices, each of `out` rows.
  DeviceWeights::Rows AllOf(const std::string& name, int out) const {
    DeviceWeights::Rows rows(name, shape_.num_experts * out);
    rows.count = shape_.num_experts;
    return rows;
  }

  const ExpertsShape shape_;
  const DType type_;
  Weight router_;
  ExpertsWeights weights_{};
};

}  // namespace

bool ExpertsSpec::ReadNumbers(JsonFields* fields, const std::string& num_experts_name, int experts,
                              const std::string& num_chosen_name, int chosen, int least) {
  num_experts = fields->Int(num_experts_name, least, kMaxExperts, experts);
  if (num_experts == 0) {
    fields->Ignore({num_chosen_name.c_str()});
    return false;
  }
  num_chosen = fields->Int(num_chosen_name, 1, kMaxExperts, chosen);
  if (num_chosen > num_experts) {
    fields->Fail(num_chosen_name, absl::StrCat("is ", num_chosen, "; must be at most ",
                                               num_experts_name, ", ", num_experts));
  }
  return true;
}

// Names, shapes and types of tensors say the rest.
std::string ExpertsSpec::Identity() const {
  std::string text =
      absl::StrCat(score == RouterScore::kSoftmax ? "softmax" : "sigmoid", " ", num_chosen);
  if (normalize) absl::StrAppend(&text, " normalized ", Exact(normalize_eps));
  if (route_scale != 1.0f) absl::StrAppend(&text, " scale ", Exact(route_scale));
  return text;
}

std::unique_ptr<Mixer> ExpertsSpec::Load(const MixerLoad& load) const {
  return std::make_unique<ExpertsLayer>(*this, load);
}

}  // namespace packrat
