#include "models/tools/gguf_rope.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/rope.h"

namespace packrat {
namespace {

// Factors are float32, of frequencies that somebody computed in float32.
bool Makes(const RopeScaling& scaling, double base, const std::vector<float>& factors) {
  const int head_dim = 2 * static_cast<int>(factors.size());
  const std::vector<double> plain = RopeFrequencies(base, head_dim);
  const std::vector<double> scaled = RopeFrequencies(base, head_dim, scaling);
  for (size_t i = 0; i < factors.size(); ++i) {
    const double factor = plain[i] / scaled[i];
    if (!(std::fabs(factors[i] - factor) <= 1e-5 * factor)) return false;
  }
  return true;
}

// The file has the factors alone. All models of this form were trained with the same two ends and
// a context that is a power of two, so that what fits is what made them.
absl::StatusOr<Json> OfFactors(const std::vector<float>& factors, double base) {
  RopeScaling scaling;
  scaling.factor = *std::max_element(factors.begin(), factors.end());
  if (!(scaling.factor >= 1)) return absl::InvalidArgumentError("are not at least 1");
  for (scaling.original_context = 1 << 10; scaling.original_context <= 1 << 20;
       scaling.original_context *= 2) {
    if (!Makes(scaling, base, factors)) continue;
    return Json{{"rope_type", "llama3"},
                {"factor", scaling.factor},
                {"low_freq_factor", scaling.low_freq_factor},
                {"high_freq_factor", scaling.high_freq_factor},
                {"original_max_position_embeddings", scaling.original_context}};
  }
  return absl::InvalidArgumentError("are not those of Llama 3.1's scaling");
}

}  // namespace

absl::StatusOr<Json> RopeScalingOfGguf(const GgufFile& file, GgufFields* fields, double base,
                                       int head_dim) {
  const auto invalid = [&](const std::string& why) {
    return absl::InvalidArgumentError(absl::StrCat(file.path(), ": ", why));
  };
  const GgufValue* stated = fields->Find(".rope.scaling.factor", GgufValue::Kind::kFloat);
  const double factor = fields->Number(".rope.scaling.factor", 0);
  // A factor alone scales: that is what those who write such files expect.
  const std::string name =
      fields->Text(".rope.scaling.type", stated != nullptr && factor != 0 ? "linear" : "none");
  if (name != "none" && name != "linear" && name != "yarn") {
    fields->Fail(".rope.scaling.type",
                 absl::StrCat("is ", Quoted(name), "; none, linear and yarn are read"));
  }
  if (name != "none" && !(factor >= 1)) {
    fields->Fail(".rope.scaling.factor",
                 absl::StrCat("is ", stated == nullptr ? "missing" : absl::StrCat(factor),
                              "; must be at least 1"));
  }
  Json scaling = {{"rope_type", name}, {"factor", factor}};
  // Of how much of YaRN there is, all. What llama.cpp does by default is transformers' default too.
  const double share = name == "yarn" ? 1 : 0;
  if (const double is = fields->Number(".rope.scaling.yarn_ext_factor", share); is != share) {
    fields->Fail(".rope.scaling.yarn_ext_factor", absl::StrCat("is ", is, "; must be ", share));
  }
  if (name == "yarn") {
    scaling["original_max_position_embeddings"] =
        fields->Count(".rope.scaling.original_context_length");
    scaling["beta_fast"] = fields->Number(".rope.scaling.yarn_beta_fast", 32);
    scaling["beta_slow"] = fields->Number(".rope.scaling.yarn_beta_slow", 1);
  }
  if (!fields->status().ok()) return fields->status();
  const auto table = file.header().tensors.find(kGgufRopeFactors);
  if (table == file.header().tensors.end()) {
    return name == "none" ? Json() : scaling;
  }
  const GgufTensor& tensor = table->second;
  if (name != "none" || tensor.type != GgufType::kF32 ||
      tensor.shape != std::vector<int64_t>{head_dim / 2}) {
    return invalid(absl::StrCat("tensor ", Quoted(kGgufRopeFactors), " must be ", head_dim / 2,
                                " F32 beside no other scaling"));
  }
  const auto bytes = file.Read(tensor);
  if (!bytes.ok()) return bytes.status();
  std::vector<float> factors(static_cast<size_t>(head_dim / 2));
  std::memcpy(factors.data(), bytes->data(), factors.size() * sizeof(float));
  auto made = OfFactors(factors, base);
  if (!made.ok()) {
    return invalid(absl::StrCat("tensor ", Quoted(kGgufRopeFactors), ": its factors ",
                                made.status().message()));
  }
  return made;
}

}  // namespace packrat
