// The tokenizer.json files of tests/data, and what becomes of them with a change.
#ifndef PACKRAT_TESTS_MODELS_TOKENIZER_JSON_H_
#define PACKRAT_TESTS_MODELS_TOKENIZER_JSON_H_

#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "models/files/json.h"
#include "models/text/tokenizer.h"
#include "tests/models/test_files.h"

namespace packrat {

inline constexpr char kFolder[] = "tests/data/tokenizer_json/";
inline constexpr int kVocab = 4200;  // With padding.

inline Json ReadJson(const std::string& name) {
  std::ifstream file(kFolder + name, std::ios::binary);
  EXPECT_TRUE(file) << name;
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  auto json = ParseJson(text.data(), text.size(), name);
  EXPECT_TRUE(json.ok()) << json.status();
  return *json;
}

inline absl::StatusOr<std::unique_ptr<Tokenizer>> LoadJson(const Json& json,
                                                           const std::string& config,
                                                           int vocab_size = kVocab) {
  const TempDir dir;
  dir.Write("tokenizer.json", json.dump());
  if (!config.empty()) dir.Write("tokenizer_config.json", config);
  return Tokenizer::Load(dir.path(), vocab_size);
}

// Of a file of that name, with a JSON patch.
inline std::unique_ptr<Tokenizer> Load(const std::string& name, const Json& patch = Json::array(),
                                       const std::string& config = "") {
  auto tokenizer = LoadJson(ReadJson(name + ".json").patch(patch), config);
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return *std::move(tokenizer);
}

inline std::vector<int32_t> Encode(const Tokenizer& tokenizer, const std::string& text,
                                   bool special = false, bool bos = false) {
  auto ids = tokenizer.Encode(text, {bos, special});
  EXPECT_TRUE(ids.ok()) << ids.status();
  return ids.value_or(std::vector<int32_t>());
}

}  // namespace packrat

#endif  // PACKRAT_TESTS_MODELS_TOKENIZER_JSON_H_
