// Says what a model's folder holds, and what of it would be refused, without loading its weights.
#ifndef PACKRAT_MODELS_TOOLS_DESCRIBE_H_
#define PACKRAT_MODELS_TOOLS_DESCRIBE_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "models/model.h"

namespace packrat {

// All bytes are of one sequence on the CPU, in float32 unless attention computes in bfloat16.
struct MixerReport {
  std::string type;  // As in `layer_types`.
  int count = 0;
  int64_t fixed_bytes = 0;   // Of all of them, however long the text is.
  int64_t window_bytes = 0;  // What the rings of windows grow to.
  double token_bytes = 0;    // For each token.
};

struct TokenizerReport {
  std::string kind;
  int pieces = 0;
  std::string chat_template;                                     // "yes", or why not.
  std::vector<std::pair<std::string, std::string>> token_names;  // "bos_token" and its text, ...
};

struct ModelReport {
  std::string dir;
  // Whatever of the following could be read.
  std::optional<ModelConfig> config;
  std::vector<std::string> layers;  // What each is made of, as LayerNames() says.
  std::vector<MixerReport> mixers;  // In order of first use.
  // Of a whole sequence. Parts are aligned, so it may be more than the sum of the mixers'.
  int64_t fixed_bytes = 0, window_bytes = 0, longest_bytes = 0;
  double token_bytes = 0;
  int64_t parameters = 0, embedding_parameters = 0;
  int64_t active_parameters = 0;  // All but those of the experts that a token does not go through.
  std::map<std::string, int64_t> weight_bytes;  // By type, as stored.
  std::optional<TokenizerReport> tokenizer;
  std::vector<std::string> refused;   // Why the folder cannot be served. Empty: it can.
  std::vector<std::string> warnings;  // What is served in another way than the files say.
};

ModelReport DescribeModel(const std::string& dir, const ModelOptions& options);

// The types of each layer's mixers: "attention", with + between those that are side by side and
// then those that follow: experts, and feed-forwards where not each layer ends with one alone.
std::vector<std::string> LayerNames(const ModelConfig& config);

// "3 gated_delta, attention; 6 times": the shortest stretch that repeats.
std::string LayerPattern(const std::vector<std::string>& layers);

// For people, or as one JSON object.
std::string ReportText(const ModelReport& report);
std::string ReportJson(const ModelReport& report);

}  // namespace packrat

#endif  // PACKRAT_MODELS_TOOLS_DESCRIBE_H_
