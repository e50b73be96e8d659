// generation_config.json: what the model's makers recommend where a request does not say.
#ifndef PACKRAT_MODELS_GENERATION_CONFIG_H_
#define PACKRAT_MODELS_GENERATION_CONFIG_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace packrat {

struct SamplingDefaults {
  float temperature = 1.0f;  // 0 where the file says `do_sample: false`.
  int top_k = 0;             // 0: off.
  float top_p = 1.0f;
  float min_p = 0.0f;
  float repetition_penalty = 1.0f;
  std::vector<int32_t> banned_ids;  // suppress_tokens
};

struct StopDefaults {
  std::vector<std::string> strings;
  int min_tokens = 0;
  int max_tokens = 0;  // 0: the server's own default.
};

struct GenerationConfig {
  std::vector<int> eos_ids;
  SamplingDefaults sampling;
  StopDefaults stop;
  // A sentence for each field that asks for something that no request can ask for.
  std::vector<std::string> warnings;
};

// Reads DIR/generation_config.json; defaults where there is none. INVALID_ARGUMENT, with the file,
// the field and its range, where a value is wrong: ids must be below `vocab_size`.
absl::StatusOr<GenerationConfig> LoadGenerationConfig(const std::string& dir, int vocab_size);

}  // namespace packrat

#endif  // PACKRAT_MODELS_GENERATION_CONFIG_H_
