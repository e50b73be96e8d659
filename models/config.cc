#include "models/config.h"

#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "models/families/families.h"
#include "models/files/file.h"
#include "models/files/json.h"
#include "models/files/json_fields.h"
#include "models/weights.h"

namespace packrat {
namespace {

constexpr size_t kMaxConfigBytes = 1 << 20;

constexpr Family kFamilies[] = {kRatFamily,   kMesaNetFamily,    kLlamaFamily,  kQwen2Family,
                                kQwen3Family, kQwen35TextFamily, kQwen35Family, kPackratFamily};

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

  absl::StatusOr<GenerationConfig> generation = LoadGenerationConfig(dir, config->vocab_size);
  if (!generation.ok()) return generation.status();
  for (int id : generation->eos_ids) {
    if (std::count(config->eos_ids.begin(), config->eos_ids.end(), id) == 0) {
      config->eos_ids.push_back(id);
    }
  }
  config->sampling = std::move(generation->sampling);
  config->stop = std::move(generation->stop);
  for (std::string& warning : generation->warnings) {
    config->warnings.push_back(std::move(warning));
  }
  return config;
}

// Shapes follow from the config, so the names, shapes and bits of the tensors say nearly
// everything. Added here is what only numbers in the config say.
std::string Fingerprint(const ModelConfig& config, uint64_t weights_hash) {
  uint64_t hash = weights_hash;
  for (const MixerSpec& mixer : config.layers) {
    const std::string identity = IdentityOf(mixer);
    hash = HashBytes(hash, identity.data(), identity.size());
  }
  // Left out where it does not apply: the fingerprints of older models stay as they were, and what
  // was saved for them can be read.
  const std::string norm = config.norm_plus_one ? "1 + norm" : "";
  if (!norm.empty()) hash = HashBytes(hash, norm.data(), norm.size());
  return absl::StrFormat("%016x", HashBytes(hash, &config.norm_eps, sizeof config.norm_eps));
}

}  // namespace packrat
