#include "models/config.h"

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "models/families/families.h"
#include "models/files/json.h"
#include "models/files/json_fields.h"
#include "models/weights.h"

namespace packrat {
namespace {

constexpr size_t kMaxConfigBytes = 1 << 20;

constexpr Family kFamilies[] = {kRatFamily, kMesaNetFamily, kPackratFamily};

absl::Status Invalid(const std::string& why) { return absl::InvalidArgumentError(why); }

absl::StatusOr<ModelConfig> ParseConfig(const std::string& text, const std::string& where) {
  absl::StatusOr<Json> json = ParseJson(text.data(), text.size(), where);
  if (!json.ok()) return json.status();
  JsonFields f(*json, "");
  const std::string type = f.String("model_type", "");
  std::vector<std::string> names;
  for (const Family& family : kFamilies) {
    names.push_back(family.name);
    if (type != family.name || !f.status().ok()) continue;
    ModelConfig config;
    config.family = type;
    family.read(&f, &config);
    f.RefuseOthers();
    if (f.status().ok()) return config;
  }
  f.Fail("model_type", absl::StrCat("is ", Quoted(type), "; must be ", OneOf(names)));
  return Invalid(absl::StrCat(where, ": ", f.status().message()));
}

}  // namespace

absl::StatusOr<ModelConfig> ParseModelConfig(const std::string& json_text) {
  return ParseConfig(json_text, "config.json");
}

absl::StatusOr<ModelConfig> LoadModelConfig(const std::string& dir) {
  const std::string path = dir + "/config.json";
  absl::StatusOr<std::string> text = ReadSmallFile(path, kMaxConfigBytes);
  if (!text.ok()) return text.status();
  absl::StatusOr<ModelConfig> config = ParseConfig(*text, path);
  if (!config.ok()) return config;

  const std::string generation_path = dir + "/generation_config.json";
  text = ReadSmallFile(generation_path, kMaxConfigBytes);
  if (absl::IsNotFound(text.status())) return config;
  if (!text.ok()) return text.status();
  absl::StatusOr<Json> json = ParseJson(text->data(), text->size(), generation_path);
  if (!json.ok()) return json.status();
  JsonFields f(*json, "");
  const std::vector<int> eos_ids = ReadIds(&f, "eos_token_id", config->vocab_size);
  SamplingDefaults& sampling = config->sampling;
  sampling.temperature = static_cast<float>(f.Number("temperature", 0, 100, sampling.temperature));
  sampling.top_k = f.Int("top_k", 0, config->vocab_size, sampling.top_k);
  sampling.top_p = static_cast<float>(f.Number("top_p", 1e-6, 1, sampling.top_p));
  if (!f.status().ok()) {
    return Invalid(absl::StrCat(generation_path, ": ", f.status().message()));
  }
  if (!eos_ids.empty()) config->eos_ids = eos_ids;
  return config;
}

// Shapes follow from the config, so names, shapes and bits say nearly all; the rest is what only
// numbers in the config tell.
std::string Fingerprint(const ModelConfig& config, uint64_t weights_hash) {
  uint64_t hash = weights_hash;
  for (const MixerSpec& mixer : config.layers) {
    const std::string identity = IdentityOf(mixer);
    hash = HashBytes(hash, identity.data(), identity.size());
  }
  return absl::StrFormat("%016x", HashBytes(hash, &config.norm_eps, sizeof config.norm_eps));
}

}  // namespace packrat
