#include "models/config.h"

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/check.h"
#include "models/families/families.h"
#include "models/files/file.h"
#include "models/files/json.h"
#include "models/files/json_fields.h"
#include "models/weights.h"

namespace packrat {
namespace {

constexpr size_t kMaxConfigBytes = 1 << 20;

constexpr Family kFamilies[] = {
    kRatFamily,       kRatPlusFamily,    kRatplusFamily,        kMesaNetFamily,
    kLlamaFamily,     kQwen2Family,      kQwen3Family,          kQwen35TextFamily,
    kQwen35Family,    kQwen3NextFamily,  kQwen35MoeTextFamily,  kQwen35MoeFamily,
    kLfm2Family,      kLfm2MoeFamily,    kFalconH1Family,       kGraniteMoeHybridFamily,
    kNemotronHFamily, kOlmoHybridFamily, kRecurrentGemmaFamily, kPackratFamily};

// Those whose feed-forwards are mixtures of experts, and what is served in their place.
constexpr struct {
  const char *type, *instead;
} kWithExperts[] = {{"granitemoe", "granitemoehybrid"},
                    {"granitemoeshared", "granitemoehybrid"},
                    {"mixtral", "llama"},
                    {"qwen2_moe", "qwen2"},
                    {"qwen3_moe", "qwen3"}};

absl::Status Invalid(const std::string& why) { return absl::InvalidArgumentError(why); }

// LongRoPE has other frequencies for longer texts than it says, so that no text becomes so long.
void LimitLongRope(JsonFields* f, ModelConfig* config) {
  for (const MixerSpec& mixer : config->mixers) {
    const auto* attention = std::get_if<AttentionSpec>(&mixer);
    if (attention == nullptr || attention->rope_scaling.divisors.empty()) continue;
    const RopeScaling& scaling = attention->rope_scaling;
    const std::string object =
        f->Get("rope_parameters") != nullptr ? "rope_parameters" : "rope_scaling";
    const int channels = attention->rotary_dim.value_or(attention->head_dim) / 2;
    if (static_cast<int>(scaling.divisors.size()) != channels) {
      f->Fail(object + ".short_factor",
              absl::StrCat("has ", scaling.divisors.size(), " numbers; must be ", channels,
                           ", half of the channels that are rotated"));
      return;
    }
    if (config->max_context <= scaling.longest) continue;
    config->max_context = scaling.longest;
    config->warnings.push_back(absl::StrCat(
        "texts end at ", scaling.longest, " tokens (original_max_position_embeddings of ", object,
        "): beyond them longrope would change what was computed of the tokens before"));
  }
}

absl::StatusOr<ModelConfig> ParseConfig(const std::string& text, const std::string& where,
                                        std::vector<std::string>* problems) {
  absl::StatusOr<Json> json = ParseJson(text.data(), text.size(), where);
  if (!json.ok()) {
    problems->emplace_back(json.status().message());
    return json.status();
  }
  JsonFields f(*json, "");
  const std::string type = f.String("model_type", "");
  const auto tell = [&] {
    for (const std::string& problem : f.problems()) {
      problems->push_back(absl::StrCat(where, ": ", problem));
    }
    return Invalid(absl::StrCat(where, ": ", f.status().message()));
  };
  for (const Family& family : kFamilies) {
    if (type != family.name || !f.status().ok()) continue;
    ModelConfig config;
    config.family = type;
    family.read(&f, &config);
    LimitLongRope(&f, &config);
    f.RefuseOthers();
    if (f.status().ok()) return config;
    return tell();
  }
  for (const auto& experts : kWithExperts) {
    if (type != experts.type) continue;
    f.Fail("model_type", absl::StrCat("is ", Quoted(type), ", whose experts are not served; ",
                                      experts.instead, " is"));
  }
  f.Fail("model_type", absl::StrCat("is ", Quoted(type), "; must be ", OneOf(FamilyNames())));
  return tell();
}

// A file's name in the place of its folder's is an error that is easily made.
absl::Status CheckFolder(const std::string& dir) {
  std::error_code ignored;
  if (std::filesystem::is_directory(dir, ignored)) return absl::OkStatus();
  if (!std::filesystem::exists(dir, ignored)) {
    return absl::NotFoundError(absl::StrCat(dir, ": no such folder"));
  }
  return absl::InvalidArgumentError(
      absl::StrCat(dir, ": not a folder; a model is one, with config.json in it"));
}

}  // namespace

absl::StatusOr<ModelConfig> ParseModelConfig(const std::string& json_text) {
  std::vector<std::string> problems;
  return ParseConfig(json_text, "config.json", &problems);
}

std::vector<std::string> FamilyNames() {
  std::vector<std::string> names;
  for (const Family& family : kFamilies) names.emplace_back(family.name);
  return names;
}

absl::StatusOr<ModelConfig> LoadModelConfig(const std::string& dir,
                                            std::vector<std::string>* problems) {
  std::vector<std::string> unread;
  if (problems == nullptr) problems = &unread;
  const std::string path = dir + "/config.json";
  const absl::Status folder = CheckFolder(dir);
  absl::StatusOr<std::string> text =
      folder.ok() ? ReadSmallFile(path, kMaxConfigBytes) : absl::StatusOr<std::string>(folder);
  if (!text.ok()) {
    problems->emplace_back(text.status().message());
    return text.status();
  }
  absl::StatusOr<ModelConfig> config = ParseConfig(*text, path, problems);
  if (!config.ok()) return config;

  absl::StatusOr<GenerationConfig> generation = LoadGenerationConfig(dir, config->vocab_size);
  if (!generation.ok()) {
    problems->emplace_back(generation.status().message());
    return generation.status();
  }
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

void ModelConfig::AddLayer(const MixerSpec& mixer, const std::string& tensors) {
  const int layer = num_layers();
  AddSublayer({layer, names.mixer_norm, {{tensors.empty() ? names.mixer : tensors}}}, {mixer});
  AddSublayer({layer, names.feed_forward_norm, {}});
}

void ModelConfig::AddSublayer(Sublayer sublayer, const std::vector<MixerSpec>& specs) {
  PACKRAT_CHECK(sublayer.mixers.size() == specs.size());
  mixers.insert(mixers.end(), specs.begin(), specs.end());
  sublayers.push_back(std::move(sublayer));
}

namespace {

// What neither tensors nor mixers show of how they are put together. Empty for models as most
// families have them, whose fingerprints are older than this: what was saved for them can be read.
std::string Arrangement(const ModelConfig& config) {
  std::string text;
  const auto add = [&](const std::string& name, double value, double usual) {
    if (value != usual) absl::StrAppend(&text, name, " ", Exact(value), "; ");
  };
  if (config.norm_plus_one) text = "1 + norm";
  if (config.activation == Activation::kSquaredRelu) absl::StrAppend(&text, "squared relu; ");
  if (config.activation == Activation::kGeglu) absl::StrAppend(&text, "geglu; ");
  add("gate", config.gate_scale, 1);
  add("feed-forward", config.feed_forward_scale, 1);
  add("embedding", config.embedding_scale, 1);
  add("logits", config.logits_scale, 1);
  add("cap", config.logits_cap, 0);
  for (size_t i = 0; i < config.sublayers.size(); ++i) {
    const Sublayer& sublayer = config.sublayers[i];
    const std::string at = absl::StrCat("sublayer ", i);
    if (sublayer.norm_after) absl::StrAppend(&text, at, " norm after; ");
    for (const ExpertsSpec& experts : sublayer.experts) {
      absl::StrAppend(&text, at, " ", experts.Identity(), "; ");
    }
    for (const MixerPlace& place : sublayer.mixers) {
      add(at + " in", place.input_scale, 1);
      add(at + " out", place.scale, 1);
    }
  }
  return text;
}

// Beyond the context nothing is in reach of any window.
RatPlusDial Reached(RatPlusDial dial, const ModelConfig& config) {
  dial.window = std::min(dial.window, config.max_context);
  dial.sinks = std::min(dial.sinks, config.max_context);
  return dial;
}

// The number of a layer among the mixers.
size_t NumberOf(const RatPlusSpec& layer, const ModelConfig& config) {
  const auto at = std::find_if(config.mixers.begin(), config.mixers.end(), [&](const auto& mixer) {
    return std::get_if<RatPlusSpec>(&mixer) == &layer;
  });
  return at - config.mixers.begin();
}

}  // namespace

absl::Status Choose(const ModelChoices& choices, ModelConfig* config) {
  std::vector<RatPlusSpec*> layers;
  std::vector<RatPlusDial> own;
  for (MixerSpec& mixer : config->mixers) {
    auto* layer = std::get_if<RatPlusSpec>(&mixer);
    if (layer == nullptr) continue;
    layers.push_back(layer);
    own.push_back(layer->dial);
  }
  const auto refuse = [](const std::string& what) {
    return absl::FailedPreconditionError("rat_plus_dial: " + what);
  };
  std::vector<LayerDials> chosen = choices.rat_plus_dials;
  if (layers.empty()) {
    if (chosen.empty()) return absl::OkStatus();
    return refuse(absl::StrCat("is ", chosen[0].own() ? kOwnDial : RatPlusDialText(chosen[0]),
                               "; the model has no layers of RAT+"));
  }
  if (chosen.empty()) chosen.emplace_back();
  if (chosen.size() > kMaxDials) {
    return refuse(absl::StrCat("has ", chosen.size(), " dials; at most ", kMaxDials));
  }
  for (int number = 0; number < static_cast<int>(chosen.size()); ++number) {
    const LayerDials& named = chosen[number];
    if (named.layers.size() > 1 && named.layers.size() != layers.size()) {
      return refuse(absl::StrCat("is ", RatPlusDialText(named), ", of ", named.layers.size(),
                                 " layers; the model has ", layers.size(), " of RAT+"));
    }
    bool alike = true;
    int first_same = 0;  // Of the dials before it, the first that is none other in any layer.
    for (size_t i = 0; i < layers.size(); ++i) {
      RatPlusSpec& layer = *layers[i];
      const RatPlusDial dial = named.own() ? own[i] : Reached(named.Of(i), *config);
      const bool known = dial == own[i] || (layer.pretrained && dial.dense());
      if (!known && !choices.rat_plus_unadapted) {
        return refuse(absl::StrCat("is ", RatPlusDialText(dial), "; the weights of layer ",
                                   NumberOf(layer, *config), " were trained for ",
                                   RatPlusDialText(own[i]), layer.pretrained ? " and for 1" : "",
                                   "; rat_plus_unadapted takes others"));
      }
      (number == 0 ? layer.dial : layer.others[number - 1]) = dial;
      layer.num_others = number;
      alike = alike && dial == layers[0]->dial_at(number);
    }
    const auto same = [&](int other) {
      return std::all_of(layers.begin(), layers.end(), [&](const RatPlusSpec* layer) {
        return layer->dial_at(other) == layer->dial_at(number);
      });
    };
    while (!same(first_same)) ++first_same;
    if (first_same < number) {
      return refuse(absl::StrCat("names ", config->dials[first_same], " twice"));
    }
    if (named.own()) {
      config->dials.push_back(alike ? RatPlusDialText(own[0]) : kOwnDial);
    } else {
      config->dials.push_back(RatPlusDialText(named));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<int> FindDial(const std::vector<std::string>& dials, const std::string& name) {
  if (name.empty()) return 0;
  LayerDials dial;
  if (name != kOwnDial) {
    auto parsed = ParseRatPlusDial(name);
    if (!parsed.ok()) return parsed.status();
    dial = *parsed;
  }
  for (size_t i = 0; i < dials.size(); ++i) {
    const auto offered = ParseRatPlusDial(dials[i]);
    if (offered.ok() ? dial == *offered : name == dials[i]) return static_cast<int>(i);
  }
  std::string text =
      absl::StrCat("is ", Quoted(name),
                   dials.empty() ? "; the model has no layers of RAT+" : "; this server has ");
  for (const std::string& offered : dials) {
    absl::StrAppend(&text, &offered == &dials[0] ? "" : " and ", offered);
  }
  return absl::FailedPreconditionError(text);
}

absl::Status CheckCoarser(const ModelConfig& config, int from, int to) {
  for (const MixerSpec& mixer : config.mixers) {
    const auto* layer = std::get_if<RatPlusSpec>(&mixer);
    if (layer == nullptr) continue;
    const std::string lacks = layer->dial_at(from).Lacks(layer->dial_at(to));
    if (lacks.empty()) continue;
    return absl::FailedPreconditionError(absl::StrCat("is ", config.dials[to], "; the text has ",
                                                      config.dials[from],
                                                      ", with which it has not kept ", lacks));
  }
  return absl::OkStatus();
}

std::vector<MixerSpec> MixersAt(const ModelConfig& config, int dial) {
  std::vector<MixerSpec> mixers = config.mixers;
  for (MixerSpec& mixer : mixers) {
    if (auto* layer = std::get_if<RatPlusSpec>(&mixer)) *layer = layer->AtDial(dial);
  }
  return mixers;
}

// Shapes follow from the config, so the names, shapes and bits of the tensors say nearly
// everything. Added here is what only numbers in the config say.
std::string Fingerprint(const ModelConfig& config, uint64_t weights_hash, int dial) {
  uint64_t hash = weights_hash;
  for (const MixerSpec& mixer : MixersAt(config, dial)) {
    const std::string identity = IdentityOf(mixer);
    hash = HashBytes(hash, identity.data(), identity.size());
  }
  const std::string arrangement = Arrangement(config);
  if (!arrangement.empty()) hash = HashBytes(hash, arrangement.data(), arrangement.size());
  return absl::StrFormat("%016x", HashBytes(hash, &config.norm_eps, sizeof config.norm_eps));
}

std::vector<std::string> Fingerprints(const ModelConfig& config, uint64_t weights_hash) {
  std::vector<std::string> fingerprints;
  for (int dial = 0; dial < config.num_dials(); ++dial) {
    fingerprints.push_back(Fingerprint(config, weights_hash, dial));
  }
  return fingerprints;
}

}  // namespace packrat
