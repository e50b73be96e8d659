// What a tokenizer.json is refused for, with the field.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ostream>
#include <string>
#include <utility>

#include "tests/models/tokenizer_json.h"

namespace packrat {
namespace {

using testing::HasSubstr;

struct Wrong {
  std::string path;  // JSON pointer.
  Json value;
  std::string error;  // What the message contains.
};

void PrintTo(const Wrong& wrong, std::ostream* os) { *os << wrong.path; }

class RefusedTest : public testing::TestWithParam<Wrong> {};

TEST_P(RefusedTest, WithTheField) {
  const Wrong& wrong = GetParam();
  const Json patch = {{{"op", "add"}, {"path", wrong.path}, {"value", wrong.value}}};
  const auto tokenizer = LoadJson(ReadJson("llama3.json").patch(patch), "");
  ASSERT_FALSE(tokenizer.ok());
  EXPECT_EQ(tokenizer.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(tokenizer.status().message()),
              HasSubstr("/tokenizer.json: " + wrong.error));
}

Json SplitBy(const std::string& pattern) { return {{"Regex", pattern}}; }
// Each step makes eight of every byte "a".
Json Longer(size_t steps) {
  const Json step = {{"type", "Replace"}, {"pattern", {{"String", "a"}}}, {"content", "aaaaaaaa"}};
  return {{"type", "Sequence"}, {"normalizers", Json(steps, step)}};
}
// Tokens of four spaces, eight and so on.
Json Lengths(int count) {
  Json tokens = Json::array();
  for (int n = 1; n <= count; ++n) {
    tokens.push_back(
        {{"id", 4091 + n}, {"content", std::string(4 * n, ' ')}, {"normalized", false}});
  }
  return tokens;
}
constexpr char kPattern[] = "/pre_tokenizer/pretokenizers/0/pattern";

INSTANTIATE_TEST_SUITE_P(
    Files, RefusedTest,
    testing::Values(
        Wrong{"/normalizer", {{"type", "Lowercase"}}, R"(normalizer.type: "Lowercase" is not)"},
        Wrong{"/normalizer",
              {{"type", "NFKC"}, {"level", 1}},
              R"(normalizer: has the unknown field "level")"},
        Wrong{"/normalizer",
              {{"type", "Sequence"}, {"normalizers", {{{"type", "Prepend"}, {"prepend", ""}}}}},
              "normalizer.normalizers[0].prepend: must have 1 to 64 bytes"},
        Wrong{"/normalizer",
              {{"type", "Replace"}, {"pattern", {{"Regex", " "}}}, {"content", "_"}},
              "normalizer.pattern: must be an object with a String"},
        Wrong{"/normalizer", Longer(3), "normalizer.normalizers[2]: makes a text more than 256"},
        Wrong{"/normalizer",
              {{"type", "Sequence"}, {"normalizers", Json(65, Json{{"type", "NFC"}})}},
              "normalizer.normalizers[5]: makes a text more than 256 times as long"},
        Wrong{"/added_tokens", Lengths(100), "added_tokens[90]: too many lengths of tokens that"},
        Wrong{"/model/type", "WordPiece", R"(model.type: is "WordPiece"; only BPE)"},
        Wrong{"/model/dropout", 0.1, "model.dropout: is not supported"},
        Wrong{"/model/byte_fallback", true, "model.byte_fallback: is not supported with ByteLevel"},
        Wrong{"/model/end_of_word_suffix", "</w>", "model.end_of_word_suffix: is not supported"},
        Wrong{"/model/continuing_subword_prefix", "##", "model.continuing_subword_prefix: is not"},
        Wrong{"/model/lattice", 1, R"(model: has the unknown field "lattice")"},
        Wrong{"/model/vocab", Json::array(), "model.vocab: must be an object"},
        Wrong{"/model/vocab", {{"a", 0}}, "model.merges[0]: "},
        Wrong{"/model/vocab/a", -1, R"(model.vocab: "a" is -1; must be an integer)"},
        Wrong{"/model/vocab/a", 5000,
              R"(model.vocab: "a" has the id 5000; the model's vocab_size)"},
        Wrong{"/model/vocab/a", 7, R"(model.vocab: "a" has the id 7, which another token has)"},
        Wrong{"/model/merges", 1, "model.merges: must be a list"},
        Wrong{"/model/merges/1", "a b c", "model.merges[1]: must be"},
        Wrong{"/model/merges/1", {"a"}, "model.merges[1]: must be"},
        Wrong{"/model/merges/1", {"a", "qqq"}, R"(model.merges[1]: "qqq" is not in model.vocab)"},
        Wrong{"/added_tokens/0/lstrip", 1, "added_tokens[0].lstrip: is 1"},
        Wrong{"/added_tokens/0/content", "", "added_tokens[0].content: must have 1 to"},
        Wrong{"/added_tokens/0/id", 9999, "added_tokens[0]: \"<|begin_of_text|>\" has the id 9999"},
        Wrong{"/added_tokens/0/id", "x", "added_tokens[0].id: is \"x\""},
        Wrong{"/added_tokens/0/content", "a", "added_tokens[0]: \"a\" has the id 4092, in model"},
        Wrong{"/added_tokens/1/content", "<|begin_of_text|>", "added_tokens[1]: \"<|begin"},
        Wrong{"/added_tokens/0",
              {{"id", 64}, {"content", "a"}, {"special", true}},
              "added_tokens[0]: a special token cannot be a single byte's"},
        Wrong{"/pre_tokenizer", nullptr, R"(decoder.type: "ByteLevel" is not supported; without)"},
        Wrong{"/pre_tokenizer", {{"type", "Whitespace"}}, R"(pre_tokenizer.type: "Whitespace" is)"},
        Wrong{"/pre_tokenizer/pretokenizers/1",
              {{"type", "Metaspace"}, {"prepend_scheme", "last"}},
              R"(pre_tokenizer.pretokenizers[1].prepend_scheme: is "last"; must be always)"},
        Wrong{"/pre_tokenizer/pretokenizers/1",
              {{"type", "Metaspace"}, {"prepend_scheme", "never"}, {"add_prefix_space", true}},
              "pre_tokenizer.pretokenizers[1].prepend_scheme: and add_prefix_space contradict"},
        Wrong{"/pre_tokenizer/pretokenizers/0",
              {{"type", "ByteLevel"}},
              R"(pre_tokenizer.pretokenizers[2].type: "ByteLevel" is not supported after)"},
        Wrong{"/pre_tokenizer/pretokenizers/2",
              {{"type", "Metaspace"}},
              R"(pre_tokenizer.pretokenizers[2].type: "Metaspace" is not supported after)"},
        Wrong{"/pre_tokenizer/pretokenizers/0/behavior", "Merged",
              "pre_tokenizer.pretokenizers[0].behavior: is \"Merged\"; must be Isolated, Removed"},
        Wrong{kPattern, {{"Text", " "}}, "pre_tokenizer.pretokenizers[0].pattern: must be an"},
        Wrong{kPattern, {{"String", ""}}, "pre_tokenizer.pretokenizers[0].pattern: the pattern is"},
        Wrong{kPattern, SplitBy("(a+)+b"),
              "pre_tokenizer.pretokenizers[0].pattern: a repeated group"},
        Wrong{"/post_processor", {{"type", "BertProcessing"}}, R"(post_processor.type: "BertPro)"},
        Wrong{"/post_processor/processors/1/single", Json::array(),
              "post_processor.processors[1].single: must be the text"},
        Wrong{"/post_processor/processors/1/special_tokens", Json::object(),
              "post_processor.processors[1].special_tokens: must give"},
        Wrong{"/decoder", nullptr, "decoder.type: (none) is not supported"}));

TEST(Refused, BrokenFilesAndNames) {
  const TempDir dir;
  dir.Write("tokenizer.json", "{\"model\": ");
  EXPECT_THAT(std::string(Tokenizer::Load(dir.path(), kVocab).status().message()),
              HasSubstr("/tokenizer.json: not valid JSON"));
  EXPECT_THAT(std::string(LoadJson(ReadJson("gpt2.json"), "", 4095).status().message()),
              HasSubstr("\"<|endoftext|>\" has the id 4095; the model's vocab_size is 4095"));
  EXPECT_TRUE(LoadJson(ReadJson("gpt2.json"), "", 4096).ok());
  EXPECT_THAT(
      std::string(LoadJson(ReadJson("gpt2.json"), R"({"eos_token": "</s>"})").status().message()),
      HasSubstr("eos_token: \"</s>\" of tokenizer_config.json is not a token"));
}

TEST(Refused, ASecondTokenBeforeTheText) {
  Json json = ReadJson("llama3.json");
  Json& processors = json["post_processor"]["processors"];
  processors.push_back(Json(processors.back()));
  EXPECT_THAT(std::string(LoadJson(json, "").status().message()),
              HasSubstr("post_processor.processors[2]: a second token before the text"));
}

TEST(Refused, DecodersBesideByteLevel) {
  const auto refusal = [](const Json& decoders) {
    Json json = ReadJson("gpt2.json");
    json["decoder"] = {{"type", "Sequence"}, {"decoders", decoders}};
    return std::string(LoadJson(json, "").status().message());
  };
  const Json byte_level = {{"type", "ByteLevel"}}, fuse = {{"type", "Fuse"}};
  EXPECT_THAT(refusal(Json::array({byte_level, byte_level})),
              HasSubstr("decoder.type: \"Sequence\" is not supported; only ByteLevel, or a"));
  EXPECT_THAT(refusal(Json::array({fuse})),
              HasSubstr("decoder.decoders[0].type: \"Fuse\" is not supported"));
  EXPECT_THAT(refusal(Json::array()), HasSubstr("decoder.type: \"Sequence\" is not"));
}

TEST(Refused, DecodersInAnotherOrder) {
  Json json = ReadJson("llama.json");
  std::swap(json["decoder"]["decoders"][0], json["decoder"]["decoders"][1]);
  EXPECT_THAT(std::string(LoadJson(json, "").status().message()),
              HasSubstr("decoder.decoders[1].type: \"Replace\" is not supported here"));
}

}  // namespace
}  // namespace packrat
