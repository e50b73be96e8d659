#include "models/generation_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include "models/config.h"
#include "tests/models/test_files.h"

namespace packrat {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::StartsWith;

constexpr int kVocab = 100;

absl::StatusOr<GenerationConfig> Load(const std::string& json) {
  const TempDir dir;
  dir.Write("generation_config.json", json);
  return LoadGenerationConfig(dir.path(), kVocab);
}

GenerationConfig Good(const std::string& json) {
  const auto config = Load(json);
  EXPECT_TRUE(config.ok()) << config.status();
  return config.value_or(GenerationConfig());
}

std::string Refusal(const std::string& json) { return std::string(Load(json).status().message()); }

TEST(GenerationConfig, WithoutAFileNothingIsRecommended) {
  const TempDir dir;
  const auto config = LoadGenerationConfig(dir.path(), kVocab);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->sampling.temperature, 1);
  EXPECT_EQ(config->stop.max_tokens, 0);
  EXPECT_THAT(config->eos_ids, IsEmpty());
}

TEST(GenerationConfig, WhatARequestCanSayIsADefault) {
  const GenerationConfig config = Good(R"({"do_sample": true, "temperature": 0.5, "top_k": 40,
      "top_p": 0.75, "min_p": 0.125, "repetition_penalty": 1.25, "suppress_tokens": [7, 9],
      "stop_strings": ["END", "\n\n"], "min_new_tokens": 3, "max_new_tokens": 4000})");
  EXPECT_EQ(config.sampling.temperature, 0.5f);
  EXPECT_EQ(config.sampling.top_k, 40);
  EXPECT_EQ(config.sampling.top_p, 0.75f);
  EXPECT_EQ(config.sampling.min_p, 0.125f);
  EXPECT_EQ(config.sampling.repetition_penalty, 1.25f);
  EXPECT_THAT(config.sampling.banned_ids, ElementsAre(7, 9));
  EXPECT_THAT(config.stop.strings, ElementsAre("END", "\n\n"));
  EXPECT_EQ(config.stop.min_tokens, 3);
  EXPECT_EQ(config.stop.max_tokens, 4000);
  EXPECT_THAT(config.warnings, IsEmpty());
  EXPECT_THAT(Good(R"({"stop_strings": "END"})").stop.strings, ElementsAre("END"));
  EXPECT_EQ(Good(R"({"top_k": 5000})").sampling.top_k, kVocab);
}

TEST(GenerationConfig, WithoutSamplingTheLikeliestTokenIsTaken) {
  EXPECT_EQ(Good(R"({"do_sample": false, "temperature": 0.7})").sampling.temperature, 0);
  EXPECT_EQ(Good(R"({"do_sample": false})").sampling.temperature, 0);
  EXPECT_EQ(Good(R"({"temperature": 0.5})").sampling.temperature, 0.5f);
}

TEST(GenerationConfig, WhatNoRequestCanSayIsTold) {
  EXPECT_THAT(Good(R"({"num_beams": 4, "no_repeat_ngram_size": 3, "bad_words_ids": [[5]],
                       "max_length": 4096, "misspelt": "x"})")
                  .warnings,
              testing::UnorderedElementsAre(
                  "generation_config.json: num_beams is 4, which is not honoured",
                  "generation_config.json: no_repeat_ngram_size is 3, which is not honoured",
                  "generation_config.json: bad_words_ids is a list, which is not honoured",
                  "generation_config.json: max_length is 4096, which is not honoured",
                  "generation_config.json: misspelt is \"x\", which is not honoured"));
  // As transformers writes it.
  EXPECT_THAT(Good(R"({"_from_model_config": true, "bos_token_id": 1, "eos_token_id": 2,
                       "output_attentions": false, "output_hidden_states": true, "use_cache": true,
                       "transformers_version": "5.19.0", "num_beams": 1, "typical_p": 1.0,
                       "no_repeat_ngram_size": 0, "guidance_scale": null, "max_length": 20,
                       "early_stopping": true, "renormalize_logits": false})")
                  .warnings,
              IsEmpty());
}

TEST(GenerationConfig, ValuesOutOfRangeAreRefusedByName) {
  EXPECT_THAT(Refusal(R"({"top_p": 1.5})"), HasSubstr("generation_config.json: top_p: is 1.5"));
  EXPECT_THAT(Refusal(R"({"top_k": -1})"), HasSubstr("top_k: is -1"));
  EXPECT_THAT(Refusal(R"({"min_p": 1})"), HasSubstr("min_p: is 1"));
  EXPECT_THAT(Refusal(R"({"repetition_penalty": 0})"), HasSubstr("repetition_penalty: is 0"));
  EXPECT_THAT(Refusal(R"({"temperature": Infinity})"), HasSubstr("temperature: is \"Infinity\""));
  EXPECT_THAT(Refusal(R"({"do_sample": "no"})"), HasSubstr("do_sample: is \"no\""));
  EXPECT_THAT(Refusal(R"({"suppress_tokens": [100]})"), HasSubstr("suppress_tokens: holds 100"));
  EXPECT_THAT(Refusal(R"({"max_new_tokens": 0})"), HasSubstr("max_new_tokens: is 0"));
  EXPECT_THAT(Refusal(R"({"stop_strings": [1]})"), HasSubstr("stop_strings: must be at most 16"));
  EXPECT_THAT(Refusal(R"({"stop_strings": [""]})"), HasSubstr("stop_strings: must be at most 16"));
  EXPECT_THAT(Refusal("[]"), HasSubstr("must be an object"));
  EXPECT_THAT(Refusal(std::string("{}\0x", 4)), HasSubstr("a NUL at byte 3"));
  const TempDir dir;
  std::filesystem::create_symlink("nowhere", dir.File("generation_config.json"));
  EXPECT_EQ(std::string(LoadGenerationConfig(dir.path(), kVocab).status().message()),
            dir.File("generation_config.json") + ": a link to nowhere");
}

TEST(GenerationConfig, ItsEndIdsJoinTheConfigurations) {
  const TempDir dir;
  std::ifstream file("tests/golden/rat/config.json");
  std::string text{std::istreambuf_iterator<char>(file), {}};
  text.replace(text.find('{'), 1, R"({"eos_token_id": 2,)");
  dir.Write("config.json", text);
  dir.Write("generation_config.json", R"({"eos_token_id": [5, 2, 7], "num_beams": 2})");
  const auto config = LoadModelConfig(dir.path());
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_THAT(config->eos_ids, ElementsAre(2, 5, 7));
  EXPECT_THAT(config->warnings, testing::Contains(HasSubstr("num_beams is 2")));
  dir.Write("generation_config.json", R"({"eos_token_id": 100000})");
  EXPECT_THAT(std::string(LoadModelConfig(dir.path()).status().message()),
              StartsWith(dir.File("generation_config.json") + ": eos_token_id: holds 100000"));
}

}  // namespace
}  // namespace packrat
