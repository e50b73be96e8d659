// Configurations as text with a change, and what the parser says of them.
#ifndef PACKRAT_TESTS_MODELS_CONFIG_TEXT_H_
#define PACKRAT_TESTS_MODELS_CONFIG_TEXT_H_

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <string>
#include <variant>
#include <vector>

#include "models/config.h"
#include "models/files/json.h"

namespace packrat {

// Small ones that are right.
inline constexpr char kRat[] =
    R"({"model_type": "rat", "vocab_size": 100, "d_model": 64, "d_ffn": 256,
    "num_layers": 4, "num_head": 4, "ngroups": 2, "chunk_size": 16})";
inline constexpr char kMesaNet[] =
    R"({"model_type": "mesa_net", "vocab_size": 100, "hidden_size": 64,
    "num_heads": 3, "head_dim": 21, "num_hidden_layers": 4})";
inline constexpr char kPackrat[] =
    R"({"model_type": "packrat", "vocab_size": 100, "hidden_size": 64,
    "intermediate_size": 160, "num_hidden_layers": 2, "layer_types": ["rat", "mesa"],
    "rat": {"num_heads": 4, "num_groups": 2, "chunk_size": 16},
    "mesa": {"num_heads": 2, "head_dim": 32}})";

// `text` with the first `from` replaced.
inline std::string With(std::string text, const std::string& from, const std::string& to) {
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return at == std::string::npos ? text : text.replace(at, from.size(), to);
}

inline ModelConfig Parse(const std::string& text) {
  auto config = ParseModelConfig(text);
  EXPECT_TRUE(config.ok()) << config.status() << "\n" << text;
  return config.value_or(ModelConfig());
}

inline absl::StatusOr<ModelConfig> ParseWith(const std::string& text, const std::string& from,
                                             const std::string& to) {
  return ParseModelConfig(With(text, from, to));
}

// Of a layer that has attention.
inline const AttentionSpec& AttentionAt(int layer, const ModelConfig& config) {
  return std::get<AttentionSpec>(config.mixers.at(layer));
}

// Of a file.
inline Json ReadConfig(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  auto json = ParseJson(text.data(), text.size(), path);
  EXPECT_TRUE(json.ok()) << json.status();
  return json.ok() ? *json : Json();
}

inline std::string Refusal(const std::string& text) {
  const auto config = ParseModelConfig(text);
  EXPECT_EQ(config.status().code(), absl::StatusCode::kInvalidArgument) << config.status();
  return std::string(config.status().message());
}

// One change to a configuration that is right, and what its refusal must say.
struct Change {
  const char* name;
  const char* from;
  const char* to;
  const char* message;
  std::string config = "";  // Of Changes().
};

inline void ExpectRefused(const Change& change) {
  const std::string message = Refusal(With(change.config, change.from, change.to));
  EXPECT_THAT(message, testing::StartsWith("config.json: "));
  EXPECT_THAT(message, testing::HasSubstr(change.message));
}

// A table of changes to one configuration:
//   TEST_P(Refused, ByName) { ExpectRefused(GetParam()); }
//   INSTANTIATE_TEST_SUITE_P(Rat, Refused, Changes(kRat, {{"Zero", "100", "0", "vocab_size: is 0"},
//                                                         ...}), NameOfChange);
class Refused : public testing::TestWithParam<Change> {};

inline auto Changes(const std::string& config, std::vector<Change> changes) {
  for (Change& change : changes) change.config = config;
  return testing::ValuesIn(changes);
}
inline std::string NameOfChange(const testing::TestParamInfo<Change>& info) {
  return info.param.name;
}

// The kinds of a model's layers.
inline std::vector<std::string> Kinds(const ModelConfig& config) {
  std::vector<std::string> kinds;
  for (const MixerSpec& layer : config.mixers) kinds.push_back(InfoOf(layer).type);
  return kinds;
}

}  // namespace packrat

#endif  // PACKRAT_TESTS_MODELS_CONFIG_TEXT_H_
