#include "models/generation_config.h"

#include <algorithm>
#include <set>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "models/bounds.h"
#include "models/families/families.h"
#include "models/files/file.h"
#include "models/files/json.h"
#include "models/files/json_fields.h"

namespace packrat {
namespace {

constexpr size_t kMaxBytes = 1 << 20;
constexpr int kMaxTokens = 1 << 30;

// How transformers runs a model and what it hands out, and ids that no request uses.
bool DoesNotMatter(const std::string& name) {
  static const auto* const names = new std::set<std::string>{
      "transformers_version", "bos_token_id", "pad_token_id", "decoder_start_token_id", "use_cache",
      "return_dict_in_generate", "return_legacy_cache", "low_memory", "cache_implementation",
      "cache_config", "compile_config", "disable_compile", "prefill_chunk_size",
      "trust_remote_code", "token_healing",
      // For an assistant model, which changes only the time that it takes.
      "is_assistant", "num_assistant_tokens", "num_assistant_tokens_schedule",
      "assistant_confidence_threshold", "prompt_lookup_num_tokens", "max_matching_ngram_size",
      "assistant_early_exit", "assistant_lookbehind", "target_lookbehind",
      // They matter only with several beams, and then `num_beams` is warned of.
      "length_penalty", "early_stopping", "diversity_penalty"};
  return names->count(name) > 0 || absl::StartsWith(name, "_") || absl::StartsWith(name, "output_");
}

// Whether this value leaves the field's feature of generate() off.
bool IsOff(const std::string& name, const Json& value) {
  static const auto* const ones =
      new std::set<std::string>{"num_beams", "num_beam_groups", "num_return_sequences",
                                "typical_p", "guidance_scale",  "encoder_repetition_penalty"};
  if (value.is_null() || value == false || value == Json::array()) return true;
  if (name == "max_length") return value == 20;  // What transformers writes for "not set".
  return value == (ones->count(name) > 0 ? 1 : 0);
}

std::vector<std::string> ReadStopStrings(JsonFields* fields) {
  const Json* value = fields->Get("stop_strings");
  if (value == nullptr) return {};
  std::vector<Json> list = {*value};
  if (value->is_array()) list = value->get<std::vector<Json>>();
  std::vector<std::string> strings;
  for (const Json& item : list) {
    if (item.is_string()) strings.push_back(item.get<std::string>());
  }
  const bool fit = std::all_of(strings.begin(), strings.end(), [](const std::string& text) {
    return bounds::kStopStringBytes.Holds(static_cast<double>(text.size()));
  });
  if (!fit || strings.size() != list.size() ||
      !bounds::kStopStrings.Holds(static_cast<double>(strings.size()))) {
    fields->Fail("stop_strings", absl::StrCat("must be at most ", bounds::kStopStrings.high,
                                              " strings of ", bounds::kStopStringBytes.low, " to ",
                                              bounds::kStopStringBytes.high, " bytes"));
  }
  return strings;
}

GenerationConfig Read(JsonFields* f, int vocab_size) {
  GenerationConfig config;
  config.eos_ids = ReadIds(f, "eos_token_id", vocab_size);
  SamplingDefaults& sampling = config.sampling;
  const bool do_sample = f->Bool("do_sample", true);
  // Where an end does not belong to the range, the nearest value that a file would hold.
  const auto number = [f](const char* name, const Bound& bound, double value) {
    return static_cast<float>(f->Number(name, bound.low + (bound.ends == Bound::kNotLow ? 1e-6 : 0),
                                        bound.high - (bound.ends == Bound::kNotHigh ? 1e-6 : 0),
                                        value));
  };
  sampling.temperature = number("temperature", bounds::kTemperature, 1);
  if (!do_sample) sampling.temperature = 0;
  // Like transformers, takes a top_k above the vocabulary's size to mean all of it.
  sampling.top_k = std::min(f->Int("top_k", 0, kMaxTokens, 0), vocab_size);
  sampling.top_p = number("top_p", bounds::kTopP, 1);
  sampling.min_p = number("min_p", bounds::kMinP, 0);
  sampling.repetition_penalty = number("repetition_penalty", bounds::kRepetitionPenalty, 1);
  for (int id : ReadIds(f, "suppress_tokens", vocab_size)) sampling.banned_ids.push_back(id);
  config.stop.strings = ReadStopStrings(f);
  config.stop.min_tokens = f->Int("min_new_tokens", 0, kMaxTokens, 0);
  config.stop.max_tokens = f->Int("max_new_tokens", 1, kMaxTokens, 0);
  return config;
}

}  // namespace

absl::StatusOr<GenerationConfig> LoadGenerationConfig(const std::string& dir, int vocab_size) {
  const std::string path = dir + "/generation_config.json";
  const absl::StatusOr<std::string> text = ReadSmallFile(path, kMaxBytes);
  if (absl::IsNotFound(text.status())) return GenerationConfig();
  if (!text.ok()) return text.status();
  const absl::StatusOr<Json> json = ParseJson(text->data(), text->size(), path);
  if (!json.ok()) return json.status();
  JsonFields fields(*json, "");
  GenerationConfig config = Read(&fields, vocab_size);
  if (!fields.status().ok()) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": ", fields.status().message()));
  }
  for (const auto& [name, value] : json->items()) {
    if (fields.Knows(name) || DoesNotMatter(name) || IsOff(name, value)) continue;
    config.warnings.push_back(absl::StrCat("generation_config.json: ", name, " is ",
                                           JsonFields::Shown(value), ", which is not honoured"));
  }
  return config;
}

}  // namespace packrat
