#include "models/text/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <thread>

#include "models/text/utf8.h"
#include "tests/models/test_files.h"

namespace packrat {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::StartsWith;

constexpr char kModel[] = "tests/data/mistral-7b-v0.1.model";
constexpr int kPieces = 32000;
constexpr int kVocab = 32064;  // With padding.
constexpr int kUnk = 0, kBos = 1, kEos = 2;

int32_t Byte(unsigned char byte) { return 3 + byte; }  // <0x00> is piece 3.

class TokenizerTest : public testing::Test {
 protected:
  void SetUp() override {
    std::filesystem::copy_file(kModel, dir_.File("tokenizer.model"));
    Load();
  }
  void Load() {
    auto tokenizer = Tokenizer::Load(dir_.path(), kVocab);
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    tokenizer_ = *std::move(tokenizer);
  }
  std::vector<int32_t> Encode(const std::string& text, bool add_bos = false,
                              bool parse_special = false) const {
    auto ids = tokenizer_->Encode(text, {add_bos, parse_special});
    EXPECT_TRUE(ids.ok()) << ids.status();
    return ids.value_or(std::vector<int32_t>());
  }

  TempDir dir_;
  std::unique_ptr<Tokenizer> tokenizer_;
};

// Lines that people write, and corners of Unicode.
const std::vector<std::string>& Texts() {
  static const std::vector<std::string> texts = {
      "",
      " ",
      "   ",
      "a",
      " a",
      "  a",
      "a ",
      "Once upon a time, there was a little girl named Lily.",
      "The price is $3.50 (that's 20% off!) -- see https://example.com/a?b=c&d=e#f",
      "  two spaces,  twice  ",
      "tabs\tand\nnewlines\r\nand\n\n\nmore\n",
      "\n",
      "\n leading newline",
      "def f(x):\n    return {'a': [1, 2, 3]}\n",
      "Stra\xc3\x9f"
      "e, na\xc3\xafve, \xc5\x81\xc3\xb3"
      "d\xc5\xba",
      "\xd0\x9f\xd1\x80\xd0\xb8\xd0\xb2\xd0\xb5\xd1\x82, \xd0\xbc\xd0\xb8\xd1\x80",
      "\xe4\xbd\xa0\xe5\xa5\xbd\xe4\xb8\x96\xe7\x95\x8c \xe3\x81\x93\xe3\x82\x93",
      "\xd9\x85\xd8\xb1\xd8\xad\xd8\xa8\xd8\xa7 \xd7\xa9\xd7\x9c\xd7\x95\xd7\x9d",
      "\xe0\xa4\xa8\xe0\xa4\xae\xe0\xa4\xb8\xe0\xa5\x8d\xe0\xa4\xa4\xe0\xa5\x87",
      "\xf0\x9f\x98\x80\xf0\x9f\x91\xa9\xe2\x80\x8d\xf0\x9f\x91\xa9\xe2\x80\x8d\xf0\x9f\x91\xa7",
      "\xf0\x9f\x87\xa9\xf0\x9f\x87\xaa \xf0\x9f\x91\x8d\xf0\x9f\x8f\xbd",
      "e\xcc\x81 is not \xc3\xa9",  // Combining accent: kept as it is.
      "\xef\xbb\xbf"
      "byte order mark",
      "\xef\xbf\xbd replacement \xef\xbf\xbf",         // U+FFFD in the text itself, U+FFFF.
      "\xf4\x8f\xbf\xbf\xee\x80\x80\xf3\xb0\x80\x80",  // U+10FFFF and private use.
      "\xc2\xa0no-break\xe2\x80\xafspaces\xe3\x80\x80",
      std::string("nul\0nul", 7),
      "\x01\x02\x7f control",
      "</s> <s> <unk> <0x41> [INST] are plain text",
      "\xf0\x90\x8d\x88\xf0\x9d\x94\x98\xf0\x93\x80\x80",  // Gothic, Fraktur, hieroglyph.
  };
  return texts;
}

// --- Loading. ---

TEST_F(TokenizerTest, Properties) {
  EXPECT_EQ(tokenizer_->num_pieces(), kPieces);
  EXPECT_EQ(tokenizer_->vocab_size(), kVocab);
  EXPECT_EQ(tokenizer_->bos_id(), kBos);
  EXPECT_EQ(tokenizer_->eos_id(), kEos);
  EXPECT_TRUE(tokenizer_->default_add_bos());
}

TEST_F(TokenizerTest, AddBosComesFromTokenizerConfig) {
  dir_.Write("tokenizer_config.json", R"({"add_bos_token": false, "bos_token": "<s>"})");
  Load();
  EXPECT_FALSE(tokenizer_->default_add_bos());
  dir_.Write("tokenizer_config.json", R"({"bos_token": "<s>"})");
  Load();
  EXPECT_TRUE(tokenizer_->default_add_bos());
  dir_.Write("tokenizer_config.json", R"({"add_bos_token": "yes"})");
  EXPECT_THAT(std::string(Tokenizer::Load(dir_.path(), kVocab).status().message()),
              StartsWith(dir_.File("tokenizer_config.json") + ": add_bos_token: is \"yes\""));
}

TEST_F(TokenizerTest, MissingDamagedOrTooLarge) {
  const std::string path = dir_.File("tokenizer.model");
  EXPECT_TRUE(Tokenizer::Load(dir_.path(), kPieces).ok());
  const absl::Status too_large = Tokenizer::Load(dir_.path(), kPieces - 1).status();
  EXPECT_EQ(too_large.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(std::string(too_large.message()),
            path + ": has 32000 pieces; the model's vocab_size is 31999");

  std::ifstream file(kModel, std::ios::binary);
  const std::string whole{std::istreambuf_iterator<char>(file), {}};
  for (const std::string& damaged :
       {std::string(), std::string("{}"), whole.substr(0, 100), whole.substr(0, whole.size() / 2),
        whole.substr(0, whole.size() - 1), std::string(1000, '\xff')}) {
    dir_.Write("tokenizer.model", damaged);
    const absl::Status status = Tokenizer::Load(dir_.path(), kVocab).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << damaged.size();
    EXPECT_EQ(std::string(status.message()), path + ": not a SentencePiece model");
  }
  std::filesystem::remove(path);
  EXPECT_EQ(Tokenizer::Load(dir_.path(), kVocab).status().code(), absl::StatusCode::kNotFound);
}

// --- What tokenizer_config.json says, as transformers 5.24 reads it. ---

TEST_F(TokenizerTest, WithoutLegacyOnlyTheTextsBeginningGetsASpace) {
  dir_.Write("tokenizer_config.json", R"({"legacy": false})");
  Load();
  EXPECT_THAT(Encode("a</s>b", false, true), ElementsAre(264, kEos, 28726));
  EXPECT_THAT(Encode("</s> b", false, true), ElementsAre(kEos, 287));
  EXPECT_THAT(Encode("<s>a", false, true), ElementsAre(kBos, 28708));
  EXPECT_THAT(Encode("a</s>b"), ElementsAre(264, 700, 28713, 28767, 28726));
  EXPECT_EQ(tokenizer_->Decode({264, kEos, 28726}, false), "a</s>b");
  EXPECT_EQ(tokenizer_->Decode({264, kEos, 287}, false), "a</s> b");
  EXPECT_EQ(tokenizer_->Decode({kEos, 287}, false), "</s> b");
  EXPECT_EQ(tokenizer_->Decode({kEos, 287}, true), "b");
  for (const std::string& text : Texts()) EXPECT_EQ(tokenizer_->Decode(Encode(text), true), text);
  for (const char* legacy : {R"({"legacy": true})", R"({"legacy": null})", "{}"}) {
    dir_.Write("tokenizer_config.json", legacy);
    Load();
    EXPECT_THAT(Encode("a</s>b", false, true), ElementsAre(264, kEos, 287));
    EXPECT_EQ(tokenizer_->Decode({264, kEos, 287}, false), "a</s> b");
  }
}

TEST_F(TokenizerTest, WithoutAPrefixSpaceNoTextGetsOne) {
  for (const char* config :
       {R"({"add_prefix_space": false})", R"({"add_prefix_space": false, "legacy": false})"}) {
    dir_.Write("tokenizer_config.json", config);
    Load();
    EXPECT_THAT(Encode("a</s>b", false, true), ElementsAre(28708, kEos, 28726));
    EXPECT_THAT(Encode(" a"), ElementsAre(264));
    EXPECT_THAT(Encode("  a b"), ElementsAre(28705, 264, 287));  // SentencePiece's.
    EXPECT_EQ(tokenizer_->Decode({264}, true), " a");
    for (const std::string& text : Texts()) EXPECT_EQ(tokenizer_->Decode(Encode(text), true), text);
  }
}

std::string Refusal(const TempDir& dir, int vocab = kVocab) {
  const absl::Status status = Tokenizer::Load(dir.path(), vocab).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  return std::string(status.message());
}

TEST_F(TokenizerTest, AnEosBehindEveryTextIsRefused) {
  dir_.Write("tokenizer_config.json", R"({"add_eos_token": true})");
  EXPECT_THAT(Refusal(dir_),
              StartsWith(dir_.File("tokenizer_config.json") + ": add_eos_token: true"));
}

TEST_F(TokenizerTest, AddedTokensComeBehindThePieces) {
  dir_.Write("tokenizer_config.json", R"({"eos_token": "<|im_end|>", "added_tokens_decoder": {
      "0": {"content": "<unk>", "special": true}, "1": {"content": "<s>", "special": true},
      "32000": {"content": "<|im_end|>", "special": true, "lstrip": false},
      "32001": {"content": "<|im_start|>", "special": true}, "32003": {"content": "<tool>"}}})");
  Load();
  EXPECT_EQ(tokenizer_->num_pieces(), 32004);
  EXPECT_EQ(tokenizer_->bos_id(), kBos);
  EXPECT_EQ(tokenizer_->eos_id(), 32000);
  EXPECT_THAT(Encode("<|im_start|>a<|im_end|>", false, true), ElementsAre(32001, 264, 32000));
  // Special ones only where they are asked for, others always.
  EXPECT_THAT(Encode("<|im_start|>"), testing::SizeIs(7));
  EXPECT_THAT(Encode("a<tool>a"), ElementsAre(264, 32003, 264));
  EXPECT_TRUE(tokenizer_->IsSpecial(32001));
  EXPECT_TRUE(tokenizer_->IsSpecial(32002));  // No token.
  EXPECT_FALSE(tokenizer_->IsSpecial(32003));
  EXPECT_EQ(tokenizer_->PieceText(32001), "<|im_start|>");
  EXPECT_EQ(tokenizer_->PieceText(32002), "");
  EXPECT_EQ(tokenizer_->Decode({32001, 264, 32003, 32000, 32002}, true), "a<tool>");
  EXPECT_EQ(Refusal(dir_, 32003), dir_.File("tokenizer.model") +
                                      ": the added token \"<tool>\" has the id 32003; the model's "
                                      "vocab_size is 32003");
}

TEST_F(TokenizerTest, OlderFoldersHaveFilesOfAddedTokens) {
  dir_.Write("added_tokens.json",
             R"({"<|im_start|>": 32001, "<|im_end|>": 32000, "<tool>": 32002})");
  dir_.Write("special_tokens_map.json", R"({"eos_token": {"content": "<|im_end|>"},
                                            "additional_special_tokens": ["<|im_start|>"]})");
  Load();
  EXPECT_EQ(tokenizer_->num_pieces(), 32003);
  EXPECT_TRUE(tokenizer_->IsSpecial(32000));
  EXPECT_TRUE(tokenizer_->IsSpecial(32001));
  EXPECT_FALSE(tokenizer_->IsSpecial(32002));
  EXPECT_THAT(Encode("<|im_end|><tool>", false, true), ElementsAre(32000, 32002));
}

TEST_F(TokenizerTest, AddedTokensThatCannotBeMeantAreRefused) {
  const auto config = [&](const std::string& tokens) {
    dir_.Write("tokenizer_config.json", R"({"added_tokens_decoder": )" + tokens + "}");
    return Refusal(dir_);
  };
  using testing::HasSubstr;
  EXPECT_THAT(config("[]"), HasSubstr("added_tokens_decoder: must be an object"));
  EXPECT_THAT(config(R"({"x": {"content": "a"}})"),
              HasSubstr("the id of \"a\" must be an integer"));
  EXPECT_THAT(config(R"({"-1": {"content": "a"}})"),
              HasSubstr("added_tokens_decoder.-1: the id of"));
  EXPECT_THAT(config(R"({"32000": {}})"),
              HasSubstr("added_tokens_decoder.32000: a token must have"));
  EXPECT_THAT(config(R"({"32000": {"content": "a", "rstrip": true}})"),
              HasSubstr("added_tokens_decoder.32000.rstrip: true is not supported"));
  EXPECT_THAT(config(R"({"32000": {"content": "a"}, "32001": {"content": "a"}})"),
              HasSubstr("\"a\" and its id 32001 are there twice"));
  EXPECT_THAT(config(R"({"2": {"content": "<eot>"}})"),
              HasSubstr("\"<eot>\" has the id 2, which is the piece \"</s>\""));
  dir_.Write("tokenizer_config.json", R"({"eos_token": "<|im_end|>"})");
  EXPECT_THAT(Refusal(dir_),
              HasSubstr("eos_token: \"<|im_end|>\" of tokenizer_config.json is no token"));
}

// --- Encoding. ---

TEST_F(TokenizerTest, EncodesAsTheLibraryDoes) {
  EXPECT_THAT(Encode("  hi  there\n x"), ElementsAre(259, 12014, 28705, 736, 13, 1318));
  EXPECT_THAT(Encode(""), IsEmpty());
  EXPECT_THAT(Encode("", true), ElementsAre(kBos));
  EXPECT_THAT(Encode("a", true), ElementsAre(kBos, 264));
}

TEST_F(TokenizerTest, ControlTokensInTextArePlainUnlessAsked) {
  EXPECT_THAT(Encode("</s> a"), ElementsAre(1867, 28713, 28767, 264));
  EXPECT_THAT(Encode("</s>a", false, true), ElementsAre(kEos, 264));
  EXPECT_THAT(Encode("a</s>a<s></s>", false, true), ElementsAre(264, kEos, 264, kBos, kEos));
  EXPECT_EQ(Encode("a < s> </S> <unk> <0x41>", false, true), Encode("a < s> </S> <unk> <0x41>"));
  for (const std::string& text : Texts()) {
    for (int32_t id : Encode(text)) EXPECT_FALSE(tokenizer_->IsSpecial(id)) << text;
  }
}

TEST_F(TokenizerTest, ABosInTheTextIsNotDoubled) {
  EXPECT_THAT(Encode("<s>a", true, true), ElementsAre(kBos, 264));
  EXPECT_THAT(Encode("<s><s>a", false, true), ElementsAre(kBos, kBos, 264));
  EXPECT_EQ(Encode("<s>a", true, false).front(), kBos);
  EXPECT_NE(Encode("<s>a", true, false)[1], kBos);
}

TEST_F(TokenizerTest, RefusesWhatIsNotUtf8) {
  for (const char* bad : {"ab\xff", "ab\xc3", "ab\xe2\x96", "ab\xc0\x80", "ab\xed\xa0\x80",
                          "ab\xf4\x90\x80\x80", "ab\x80"}) {
    const absl::Status status = tokenizer_->Encode(bad, {}).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(std::string(status.message()), "text: not valid UTF-8 at byte 2");
  }
}

TEST_F(TokenizerTest, EncodesFromManyThreads) {
  const std::string text = "Once upon a time there was a little \xf0\x9f\x98\x80 girl.";
  const std::vector<int32_t> expected = Encode(text);
  std::vector<std::thread> threads;
  std::vector<int> wrong(4, 0);
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 200; ++i) {
        const auto ids = tokenizer_->Encode(text, {});
        if (!ids.ok() || *ids != expected || tokenizer_->Decode(*ids, true) != text) ++wrong[t];
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(wrong, ElementsAre(0, 0, 0, 0));
}

// --- Decoding. ---

TEST_F(TokenizerTest, DecodingGivesTheTextBack) {
  for (const std::string& text : Texts()) {
    EXPECT_EQ(tokenizer_->Decode(Encode(text), true), text);
    EXPECT_EQ(tokenizer_->Decode(Encode(text, true), true), text);
    EXPECT_EQ(tokenizer_->Decode(Encode(text, true), false), "<s>" + text);
  }
}

TEST_F(TokenizerTest, AContinuationKeepsItsLeadingSpace) {
  const std::vector<int32_t> ids = Encode("upon a time");
  EXPECT_EQ(tokenizer_->Decode(ids, true), "upon a time");
  EXPECT_EQ(tokenizer_->Decode(ids, true, /*continues_text=*/true), " upon a time");
  // A text cut anywhere between tokens is the sum of its parts.
  for (const std::string& text : Texts()) {
    const std::vector<int32_t> all = Encode(text);
    for (size_t cut = 1; cut < all.size(); ++cut) {
      const std::vector<int32_t> head(all.begin(), all.begin() + cut);
      const std::vector<int32_t> tail(all.begin() + cut, all.end());
      const std::string first = tokenizer_->Decode(head, true);
      if (first.find("\xef\xbf\xbd") != std::string::npos) continue;  // Cut inside a character.
      ASSERT_EQ(first + tokenizer_->Decode(tail, true, true), text);
    }
  }
}

TEST_F(TokenizerTest, ATextThatGoesOnFromAnotherGetsNoSpace) {
  const auto encode_on = [&](const std::string& text, bool parse_special = false) {
    return *tokenizer_->Encode(text, {false, parse_special, /*continues_text=*/true});
  };
  EXPECT_THAT(encode_on("a"), ElementsAre(28708));
  EXPECT_THAT(encode_on(" a"), ElementsAre(264));
  EXPECT_THAT(encode_on(""), IsEmpty());
  // What this tokenizer puts behind special tokens stays.
  EXPECT_THAT(encode_on("</s>a", true), ElementsAre(kEos, 264));
  for (const std::string& text : Texts()) {
    for (const std::string& more : Texts()) {
      std::vector<int32_t> ids = Encode(text, /*add_bos=*/true);
      const std::vector<int32_t> added = encode_on(more);
      ids.insert(ids.end(), added.begin(), added.end());
      // Where there was no text, the first space of what follows is taken for one that was added.
      if (text.empty() && more[0] == ' ') continue;
      ASSERT_EQ(tokenizer_->Decode(ids, true), text + more);
    }
  }
}

TEST_F(TokenizerTest, SpecialTokensShowTheirNameOnlyWhenAsked) {
  const std::vector<int32_t> ids = {kBos, 264, kEos, kUnk, 264, kPieces, kVocab - 1};
  // The unknown piece is text, which SentencePiece writes so.
  EXPECT_EQ(tokenizer_->Decode(ids, true), "a \xe2\x81\x87  a");
  EXPECT_EQ(tokenizer_->Decode(ids, false), "<s>a</s> \xe2\x81\x87  a");
  EXPECT_EQ(tokenizer_->Decode({kUnk}, true), " \xe2\x81\x87 ");
  EXPECT_FALSE(tokenizer_->IsSpecial(kUnk));
  EXPECT_TRUE(tokenizer_->IsSpecial(kEos));
  EXPECT_TRUE(tokenizer_->IsSpecial(kPieces));
  EXPECT_FALSE(tokenizer_->IsSpecial(Byte('a')));
  EXPECT_FALSE(tokenizer_->IsSpecial(264));
}

TEST_F(TokenizerTest, PieceText) {
  EXPECT_EQ(tokenizer_->PieceText(264), " a");
  EXPECT_EQ(tokenizer_->PieceText(kEos), "</s>");
  EXPECT_EQ(tokenizer_->PieceText(kPieces), "");
  for (int byte = 0; byte < 256; ++byte) {
    EXPECT_EQ(tokenizer_->PieceText(Byte(byte)), std::string(1, static_cast<char>(byte)));
  }
}

TEST_F(TokenizerTest, BytePiecesMakeCharacters) {
  const auto bytes = [&](const std::string& text) {
    std::vector<int32_t> ids;
    for (char c : text) ids.push_back(Byte(c));
    return tokenizer_->Decode(ids, true);
  };
  EXPECT_EQ(bytes("\xf0\x9f\x98\x80"), "\xf0\x9f\x98\x80");
  EXPECT_EQ(bytes(" a"), " a");  // Not the space that encoding adds.
  EXPECT_EQ(bytes("\xe2\x96\x81"), "\xe2\x96\x81");
  // One U+FFFD for each maximal invalid part, as in table 3-11 of the Unicode Standard.
  const std::string bad = "\xef\xbf\xbd";
  EXPECT_EQ(bytes("\xc0\xaf\xe0\x80\xbf\xf0\x81\x82"
                  "A"),
            bad + bad + bad + bad + bad + bad + bad + bad + "A");
  EXPECT_EQ(bytes("\xed\xa0\x80\xed\xbf\xbf\xed\xaf"
                  "A"),
            bad + bad + bad + bad + bad + bad + bad + bad + "A");
  EXPECT_EQ(bytes("\xf4\x91\x92\x93\xff"
                  "A\x80\xbf"
                  "B"),
            bad + bad + bad + bad + bad + "A" + bad + bad + "B");
  EXPECT_EQ(bytes("\xe1\x80\xe2\xf0\x91\x92\xf1\xbf"
                  "A"),
            bad + bad + bad + bad + "A");
  EXPECT_EQ(bytes("\xf0\x9f\x98"), bad);
  EXPECT_EQ(bytes("a\xe2\x96"), "a" + bad);
}

TEST_F(TokenizerTest, CharactersAppearWithTheirLastByte) {
  TextDecoder decoder(tokenizer_.get(), true, true);
  EXPECT_EQ(decoder.Push(Byte(0xf0)), "");
  EXPECT_EQ(decoder.Push(Byte(0x9f)), "");
  EXPECT_EQ(decoder.Push(Byte(0x98)), "");
  EXPECT_EQ(decoder.Push(Byte(0x80)), "\xf0\x9f\x98\x80");
  EXPECT_EQ(decoder.Push(Byte(0xe2)), "");
  EXPECT_EQ(decoder.Push(264), "\xef\xbf\xbd a");
  EXPECT_EQ(decoder.Push(Byte(0xe2)), "");
  EXPECT_EQ(decoder.Finish(), "\xef\xbf\xbd");
  EXPECT_EQ(decoder.Finish(), "");
}

TEST_F(TokenizerTest, ACharacterThatAPromptBeganIsWhole) {
  const auto decode = [&](const std::string& prompt_bytes, const std::string& bytes,
                          std::vector<int32_t> prompt = {264}) {
    for (char c : prompt_bytes) prompt.push_back(Byte(c));
    TextDecoder decoder(tokenizer_.get(), true, true);
    decoder.Continue(prompt);
    std::string text;
    for (char c : bytes) text += decoder.Push(Byte(c));
    return text + decoder.Finish();
  };
  const std::string face = "\xf0\x9f\x98\x80", bad = "\xef\xbf\xbd";
  for (size_t cut = 1; cut < face.size(); ++cut) {
    EXPECT_EQ(decode(face.substr(0, cut), face.substr(cut) + "a"), face + "a");
    EXPECT_EQ(decode(face.substr(0, cut), face.substr(cut), {}), face);
    EXPECT_EQ(decode("a" + face.substr(0, cut), "b"), bad + "b");
  }
  EXPECT_EQ(decode(face, "a"), "a");
  EXPECT_EQ(decode("\xff", "a"), "a");
  EXPECT_EQ(decode("\x9f\x98", "\x80"), bad);  // No beginning of any.
  EXPECT_EQ(decode("", "\x80"), bad);
  EXPECT_EQ(decode("", "\x80", {Byte(0xe2), Byte(0x82), kEos}), bad);
  EXPECT_EQ(decode("", "a", {}), "a");
}

// What Decode() must give, worked out in another way: all bytes first, then repaired as a whole.
std::string DecodeAtOnce(const Tokenizer& tokenizer, const std::vector<int32_t>& ids,
                         bool skip_special, bool continues_text) {
  std::string bytes;
  bool start = !continues_text;
  for (int32_t id : ids) {
    const bool special = tokenizer.IsSpecial(id);
    if (special && skip_special) continue;
    std::string piece = tokenizer.PieceText(id);
    if (!special && start) {
      const bool as_it_is = id == kUnk || (id >= Byte(0) && id <= Byte(255));
      if (!as_it_is && piece[0] == ' ') piece.erase(0, 1);
      start = false;
    }
    bytes += piece;
  }
  // Longest prefix of some character: a generator-side view of well-formed UTF-8 (table 3-7).
  std::string text;
  for (size_t at = 0; at < bytes.size();) {
    const auto b = [&](size_t i) {
      return at + i < bytes.size() ? static_cast<unsigned char>(bytes[at + i]) : 0;
    };
    const auto in = [&](size_t i, int low, int high) { return b(i) >= low && b(i) <= high; };
    size_t want = 1, have = 1;
    bool ok = b(0) < 0x80;
    const auto match = [&](size_t length, int low, int high) {
      want = length;
      have = 1;
      if (in(1, low, high)) have = 2;
      while (have >= 2 && have < want && in(have, 0x80, 0xbf)) ++have;
      ok = have == want;
    };
    if (in(0, 0xc2, 0xdf)) match(2, 0x80, 0xbf);
    if (in(0, 0xe0, 0xe0)) match(3, 0xa0, 0xbf);
    if (in(0, 0xe1, 0xec) || in(0, 0xee, 0xef)) match(3, 0x80, 0xbf);
    if (in(0, 0xed, 0xed)) match(3, 0x80, 0x9f);
    if (in(0, 0xf0, 0xf0)) match(4, 0x90, 0xbf);
    if (in(0, 0xf1, 0xf3)) match(4, 0x80, 0xbf);
    if (in(0, 0xf4, 0xf4)) match(4, 0x80, 0x8f);
    text += ok ? bytes.substr(at, have) : "\xef\xbf\xbd";
    at += have;
  }
  return text;
}

TEST_F(TokenizerTest, StreamedPiecesAreValidAndMakeTheWholeText) {
  std::mt19937 random(7);
  const auto below = [&](int n) { return static_cast<int>(random() % n); };
  for (int round = 0; round < 3000; ++round) {
    std::vector<int32_t> ids;
    const int length = below(40);
    while (static_cast<int>(ids.size()) < length) {
      switch (below(5)) {
        case 0:
          ids.push_back(below(kVocab));
          break;
        case 1:
          ids.push_back(Byte(below(256)));
          break;
        case 2:  // Bytes that begin or continue long characters.
          ids.push_back(Byte(0xe0 + below(24)));
          ids.push_back(Byte(0x80 + below(64)));
          break;
        case 3:
          ids.push_back(below(3));
          break;
        case 4: {
          const std::vector<int32_t> real = Encode(Texts()[below(Texts().size())]);
          ids.insert(ids.end(), real.begin(), real.end());
        }
      }
    }
    const bool skip_special = below(2) == 0, continues_text = below(2) == 0;
    TextDecoder decoder(tokenizer_.get(), skip_special, continues_text);
    std::string streamed;
    for (int32_t id : ids) {
      const std::string piece = decoder.Push(id);
      ASSERT_EQ(FirstInvalidUtf8(piece), piece.size());
      streamed += piece;
    }
    streamed += decoder.Finish();
    ASSERT_EQ(streamed, tokenizer_->Decode(ids, skip_special, continues_text));
    ASSERT_EQ(streamed, DecodeAtOnce(*tokenizer_, ids, skip_special, continues_text));
  }
}

TEST_F(TokenizerTest, StreamingRealTextHoldsBackAtMostACharacter) {
  for (const std::string& text : Texts()) {
    TextDecoder decoder(tokenizer_.get(), true, false);
    std::string streamed;
    std::vector<int32_t> so_far;
    for (int32_t id : Encode(text)) {
      streamed += decoder.Push(id);
      so_far.push_back(id);
      size_t bytes = 0;
      for (int32_t past : so_far) bytes += tokenizer_->PieceText(past).size();
      ASSERT_LE(bytes, streamed.size() + 1 + 3);  // The dropped space, and an unfinished character.
      ASSERT_EQ(text.compare(0, streamed.size(), streamed), 0);
    }
    EXPECT_EQ(streamed + decoder.Finish(), text);
  }
}

// The bundled model's tokenizer: it was trained without normalisation, so that no text is changed.
TEST(DemoTokenizer, GivesEveryTextBack) {
  const auto tokenizer = Tokenizer::Load("models/demo", 4096);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->num_pieces(), 4096);
  EXPECT_TRUE((*tokenizer)->default_add_bos());
  for (const std::string& text : Texts()) {
    const auto ids = (*tokenizer)->Encode(text, {});
    ASSERT_TRUE(ids.ok()) << ids.status();
    EXPECT_EQ((*tokenizer)->Decode(*ids, true), text);
    EXPECT_EQ(DecodeAtOnce(**tokenizer, *ids, true, false), text);
    TextDecoder decoder(tokenizer->get(), true, false);
    std::string streamed;
    for (int32_t id : *ids) {
      EXPECT_FALSE((*tokenizer)->IsSpecial(id)) << text;
      streamed += decoder.Push(id);
    }
    EXPECT_EQ(streamed + decoder.Finish(), text);
  }
}

}  // namespace
}  // namespace packrat
