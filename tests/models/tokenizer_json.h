// The tokenizer.json files of tests/data, and what becomes of them with a change.
#ifndef PACKRAT_TESTS_MODELS_TOKENIZER_JSON_H_
#define PACKRAT_TESTS_MODELS_TOKENIZER_JSON_H_

#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <memory>
#include <string>

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

}  // namespace packrat

#endif  // PACKRAT_TESTS_MODELS_TOKENIZER_JSON_H_
