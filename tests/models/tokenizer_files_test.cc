// Which of a folder's files has the vocabulary: tokenizer.json, tokenizer.model, or neither.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "tests/models/tokenizer_json.h"

namespace packrat {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

constexpr char kBeside[] =
    " (tokenizer.model is beside it, and would be read if this file were not there)";

// A folder with the model that llama.json was made of, and llama.json with a patch.
class TokenizerFiles : public testing::Test {
 protected:
  TokenizerFiles() {
    std::filesystem::copy_file(std::string(kFolder) + "llama.model", dir_.File("tokenizer.model"));
  }
  void WriteJson(const Json& patch) {
    dir_.Write("tokenizer.json", ReadJson("llama.json").patch(patch).dump());
  }
  std::unique_ptr<Tokenizer> LoadFolder() const {
    auto tokenizer = Tokenizer::Load(dir_.path(), kVocab);
    EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
    return *std::move(tokenizer);
  }
  std::string Refusal() const {
    const absl::Status status = Tokenizer::Load(dir_.path(), kVocab).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    return std::string(status.message());
  }

  TempDir dir_;
};

// As in transformers, whose fast tokenizers take it.
TEST_F(TokenizerFiles, TokenizerJsonCountsWhereBothAreThere) {
  const Json unspaced = {
      {{"op", "replace"}, {"path", "/pre_tokenizer/prepend_scheme"}, {"value", "never"}}};
  const auto model = LoadFolder();
  WriteJson(unspaced);
  const auto both = LoadFolder();
  const auto json = Load("llama", unspaced);
  EXPECT_EQ(both->kind(), "byte pairs over characters");
  EXPECT_EQ(both->num_pieces(), json->num_pieces());
  for (const char* text : {"the", " the", "the cat\nsat"}) {
    EXPECT_EQ(Encode(*both, text), Encode(*json, text));
    EXPECT_NE(Encode(*both, text), Encode(*model, text));
  }
  // The one that is not read may be anything.
  dir_.Write("tokenizer.model", "no model");
  EXPECT_EQ(Encode(*LoadFolder(), "the"), Encode(*json, "the"));
}

// Its flags are those of the file that lists it, and not what an older folder takes for granted.
TEST_F(TokenizerFiles, AddedTokensAreThoseOfTokenizerJson) {
  dir_.Write("tokenizer_config.json", R"({"additional_special_tokens": ["<tool>"]})");
  WriteJson({{{"op", "add"},
              {"path", "/added_tokens/-"},
              {"value", {{"id", 800}, {"content", "<tool>"}, {"special", false}}}}});
  const auto tokenizer = LoadFolder();
  EXPECT_FALSE(tokenizer->IsSpecial(800));
  EXPECT_THAT(Encode(*tokenizer, "a<tool>"), testing::Contains(800));
}

TEST_F(TokenizerFiles, AJsonThatCannotBeReadIsRefusedAndNotPassedOver) {
  WriteJson({{{"op", "replace"}, {"path", "/normalizer"}, {"value", {{"type", "Lowercase"}}}}});
  const std::string path = dir_.File("tokenizer.json");
  EXPECT_THAT(Refusal(), StartsWith(path + ": normalizer.type: \"Lowercase\" is not supported"));
  EXPECT_THAT(Refusal(), testing::EndsWith(kBeside));
  for (const char* broken :
       {"", "{", "{}", "[]", R"({"model": {"type": "WordPiece"}})", R"({"model": "Unigram"})"}) {
    dir_.Write("tokenizer.json", broken);
    EXPECT_THAT(Refusal(), StartsWith(path + ": ")) << broken;
    EXPECT_THAT(Refusal(), testing::EndsWith(kBeside)) << broken;
  }
  std::filesystem::remove(dir_.File("tokenizer.model"));
  EXPECT_THAT(Refusal(), testing::Not(HasSubstr("beside")));
}

TEST_F(TokenizerFiles, OfUnigramsTheModelCounts) {
  const auto model = LoadFolder();
  dir_.Write("tokenizer.json", R"({"model": {"type": "Unigram", "vocab": [["a", 0.0]]}})");
  const auto both = LoadFolder();
  EXPECT_EQ(both->kind(), "SentencePiece");
  EXPECT_EQ(Encode(*both, "the cat"), Encode(*model, "the cat"));
  dir_.Write("tokenizer.model", "no model");
  EXPECT_EQ(Refusal(), dir_.File("tokenizer.model") + ": not a SentencePiece model");
  std::filesystem::remove(dir_.File("tokenizer.model"));
  EXPECT_THAT(Refusal(), StartsWith(dir_.File("tokenizer.json") + ": "));
}

}  // namespace
}  // namespace packrat
