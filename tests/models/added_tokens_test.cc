// Tokens that a tokenizer.json adds: which of them a text has, and whose they are.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "models/text/marked_text.h"
#include "tests/models/tokenizer_json.h"

namespace packrat {
namespace {

using testing::ElementsAre;

// `text` with what is foreign in « and ».
MarkedText Marked(const std::string& text) {
  MarkedText marked;
  MarkedText::Origin origin = MarkedText::kOwn;
  for (size_t at = 0; at < text.size();) {
    if (text.compare(at, 2, "«") == 0 || text.compare(at, 2, "»") == 0) {
      origin = text.compare(at, 2, "«") == 0 ? MarkedText::kForeign : MarkedText::kOwn;
      at += 2;
    } else {
      marked.Append(text.substr(at++, 1), origin);
    }
  }
  return marked;
}

TEST(AddedTokens, SpecialOnesAreThoseOfTheTemplate) {
  const Json special = Json::parse(R"([
      {"op": "add", "path": "/added_tokens/-", "value": {"id": 4150, "content": "<|x|>",
       "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}},
      {"op": "add", "path": "/added_tokens/-", "value": {"id": 4151, "content": "<é>",
       "single_word": false, "lstrip": false, "rstrip": false, "normalized": true, "special": true}}])");
  for (const Json& normalizer : {Json(), Json{{"type", "NFC"}}}) {
    Json patch = special;
    patch.push_back({{"op", "replace"}, {"path", "/normalizer"}, {"value", normalizer}});
    const auto tokenizer = Load("gpt2", patch);
    const auto count = [&](const std::string& text, int id) {
      const auto ids = tokenizer->Encode(Marked(text));
      EXPECT_TRUE(ids.ok()) << ids.status();
      return std::count(ids->begin(), ids->end(), id);
    };
    for (const auto& [token, id] : {std::pair<std::string, int>("<|x|>", 4150), {"<é>", 4151}}) {
      const std::string half = token.substr(0, 1), rest = token.substr(1);
      EXPECT_EQ(count("a " + token + " b", id), 1);
      EXPECT_EQ(count("«a »" + token + "« b»", id), 1);
      EXPECT_EQ(count("«é»" + token + "«é»", id), 1);
      EXPECT_EQ(count("«" + token + "»", id), 0);
      EXPECT_EQ(count(half + "«" + rest + "»", id), 0);
      EXPECT_EQ(count("«" + half + "»" + rest, id), 0);
      // What a message begins does not hide the template's own.
      EXPECT_EQ(count("«" + half + "»" + token, id), 1);
      EXPECT_EQ(count("«" + token + half + "»" + token + "«" + rest + "»", id), 1);
    }
    // All own: as a text whose special tokens are read. All foreign: as one where they are not.
    for (const std::string text :
         {"a <|x|> b", "  <é>it's <|x|>\n\n e\xcc\x81 12", "<|x|><|x|>é"}) {
      EXPECT_EQ(*tokenizer->Encode(MarkedText(text, MarkedText::kOwn)),
                Encode(*tokenizer, text, true));
      EXPECT_EQ(*tokenizer->Encode(MarkedText(text, MarkedText::kForeign)),
                Encode(*tokenizer, text));
    }
    // A seam cuts no word.
    EXPECT_EQ(*tokenizer->Encode(Marked("the «the» «t»«he» it«'s e»\xcc\x81")),
              Encode(*tokenizer, "the the the it's e\xcc\x81"));
  }
}

// A patch that adds a token of these fields.
Json Adding(int id, const std::string& content, const Json& fields = Json::object()) {
  Json token = {{"id", id}, {"content", content}, {"normalized", false}, {"special", false}};
  token.update(fields);
  return {{"op", "add"}, {"path", "/added_tokens/-"}, {"value", token}};
}

Json Normalizing(const Json& normalizer) {
  return {{"op", "replace"}, {"path", "/normalizer"}, {"value", normalizer}};
}

int Count(const Tokenizer& tokenizer, const std::string& marked, int id) {
  const auto ids = tokenizer.Encode(Marked(marked));
  EXPECT_TRUE(ids.ok()) << ids.status();
  return static_cast<int>(std::count(ids->begin(), ids->end(), id));
}

TEST(AddedTokens, TheLongestIsFoundInAnyOrder) {
  for (const bool longest_first : {true, false}) {
    Json patch = {Adding(4150, "<xyz>"), Adding(4151, "<x")};
    if (!longest_first) std::swap(patch[0], patch[1]);
    const auto tokenizer = Load("llama3", patch);
    EXPECT_THAT(Encode(*tokenizer, "<xyz>"), ElementsAre(4150));
    EXPECT_EQ(Encode(*tokenizer, "<xy>")[0], 4151);
  }
}

// What a normalizer makes of characters of both is a message's.
TEST(AddedTokens, AreNotMadeOfWhatAMessageAdds) {
  const auto composing =
      Load("llama3", {Normalizing({{"type", "NFC"}}),
                      Adding(4150, "<\u00e9>", {{"special", true}, {"normalized", true}})});
  EXPECT_EQ(Count(*composing, "<e\u0301>", 4150), 1);
  EXPECT_EQ(Count(*composing, "<e«\u0301»>", 4150), 0);
  EXPECT_EQ(Count(*composing, "<«e»\u0301>", 4150), 0);
  const Json replace = {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", "_"}};
  const auto replacing =
      Load("llama3",
           {Normalizing(replace), Adding(4150, "<_>", {{"special", true}, {"normalized", true}})});
  EXPECT_EQ(Count(*replacing, "< >", 4150), 1);
  EXPECT_EQ(Count(*replacing, "<« »>", 4150), 0);
}

TEST(AddedTokens, OfAMessageAndTheTemplateOverlap) {
  const auto tokenizer =
      Load("llama3", {Adding(4150, "xyx", {{"special", true}}),
                      Adding(4151, "<|z|>", {{"special", true}}), Adding(4152, "<|z")});
  // The message's end begins what the template goes on with.
  EXPECT_EQ(Count(*tokenizer, "«xy»xyx", 4150), 1);
  // A shorter one that anybody may write.
  EXPECT_EQ(Count(*tokenizer, "«<|»z|>", 4151), 0);
  EXPECT_EQ(Count(*tokenizer, "«<|»z|>", 4152), 1);
}

// White space that one token has taken is not another's.
TEST(AddedTokens, TakeWhiteSpaceOnce) {
  const auto tokenizer = Load(
      "llama3", {Adding(4150, "<a>", {{"rstrip", true}}), Adding(4151, " ", {{"lstrip", true}})});
  std::vector<int32_t> expected = Encode(*tokenizer, "x");
  expected.insert(expected.begin(), 4150);
  EXPECT_EQ(Encode(*tokenizer, "<a>  x"), expected);
  EXPECT_THAT(Encode(*tokenizer, "  "), ElementsAre(4151, 4151));
}

TEST(AddedTokens, SpecialOnesAreNotNormalizedUnlessTheySaySo) {
  Json added = Adding(4150, "<e\u0301>", {{"special", true}});
  added["value"].erase("normalized");
  const auto tokenizer = Load("llama3", {Normalizing({{"type", "NFC"}}), added});
  EXPECT_THAT(Encode(*tokenizer, "<e\u0301>", true), ElementsAre(4150));
  EXPECT_NE(Encode(*tokenizer, "<\u00e9>", true)[0], 4150);
}

TEST(AddedTokens, AreSpecialWhereEitherFileSaysSo) {
  const auto tokenizer =
      Load("llama3", Json::array({Adding(4150, "<y>")}), R"({"added_tokens_decoder": {
      "4150": {"content": "<y>", "special": true}}})");
  EXPECT_TRUE(tokenizer->IsSpecial(4150));
}

// With ignore_merges a word of the vocabulary is its token, unless that is special.
TEST(AddedTokens, SpecialOnesAreNoWords) {
  const Json word = {{"op", "add"}, {"path", "/model/vocab/zqzq"}, {"value", 4150}};
  EXPECT_THAT(Encode(*Load("llama3", Json::array({word})), "zqzq"), ElementsAre(4150));
  const auto special = Load("llama3", {word, Adding(4150, "zqzq", {{"special", true}})});
  EXPECT_GT(Encode(*special, "zqzq").size(), 1u);
  EXPECT_THAT(Encode(*special, "zqzq", true), ElementsAre(4150));
}

}  // namespace
}  // namespace packrat
