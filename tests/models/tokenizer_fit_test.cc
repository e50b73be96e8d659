#include "models/tokenizer_fit.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "tests/models/test_files.h"

namespace packrat {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

class TokenizerFit : public testing::Test {
 protected:
  // With BOS 1, EOS 2 and 32,000 pieces.
  absl::StatusOr<std::vector<std::string>> Compare(int bos, const std::vector<int>& eos) {
    const auto tokenizer = Tokenizer::Load(dir_.path(), 32064);
    EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
    ModelConfig config;
    config.bos_id = bos;
    config.eos_ids = eos;
    return CompareTokenizer(**tokenizer, config);
  }
  void SetUp() override {
    std::filesystem::copy_file("tests/data/mistral-7b-v0.1.model", dir_.File("tokenizer.model"));
  }
  TempDir dir_;
};

TEST_F(TokenizerFit, NothingToSay) {
  EXPECT_THAT(*Compare(1, {2}), IsEmpty());
  EXPECT_THAT(*Compare(-1, {}), IsEmpty());
  EXPECT_THAT(*Compare(1, {5, 2, 7}), IsEmpty());
}

TEST_F(TokenizerFit, OtherIdsAreTold) {
  EXPECT_THAT(
      *Compare(0, {2}),
      ElementsAre("bos_token_id is 0, but the tokenizer's BOS is \"<s>\" with the id 1, which "
                  "add_bos puts before a text"));
  EXPECT_THAT(
      *Compare(1, {5, 7}),
      ElementsAre("the tokenizer's EOS, \"</s>\" with the id 2, ends no text: eos_token_id is "
                  "5, 7"));
}

TEST_F(TokenizerFit, AnEndThatCannotBeDrawnIsRefused) {
  EXPECT_THAT(
      std::string(Compare(1, {2, 32000}).status().message()),
      HasSubstr("eos_token_id of config.json or generation_config.json: 32000 has no token"));
  dir_.Write("tokenizer_config.json",
             R"({"added_tokens_decoder": {"32001": {"content": "<|im_end|>", "special": true}}})");
  EXPECT_TRUE(Compare(1, {2, 32001}).ok());
  EXPECT_FALSE(Compare(1, {2, 32000}).ok());
}

}  // namespace
}  // namespace packrat
