// tokenizer.model with the files beside it: what is loaded, what is refused, and how text is
// encoded.
#include <fstream>
#include <iterator>
#include <string>
#include <thread>
#include <vector>

#include "tests/models/sentence_pieces_fixture.h"

namespace packrat {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::StartsWith;

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

// transformers 5 writes them into tokenizer.json alone, here one that is SentencePiece's own kind.
TEST_F(TokenizerTest, NewerFoldersListThemInTokenizerJson) {
  dir_.Write("tokenizer_config.json", R"({"eos_token": "<|im_end|>"})");
  dir_.Write("tokenizer.json", R"({"added_tokens": [
      {"id": 2, "content": "</s>", "special": true, "normalized": false},
      {"id": 32000, "content": "<|im_end|>", "special": true, "normalized": false},
      {"id": 32001, "content": "<tool>", "special": false}], "model": {"type": "Unigram"}})");
  Load();
  EXPECT_EQ(tokenizer_->kind(), "SentencePiece");
  EXPECT_EQ(tokenizer_->num_pieces(), 32002);
  EXPECT_EQ(tokenizer_->eos_id(), 32000);
  EXPECT_TRUE(tokenizer_->IsSpecial(32000));
  EXPECT_FALSE(tokenizer_->IsSpecial(32001));
  EXPECT_THAT(Encode("a<|im_end|><tool>", false, true), ElementsAre(264, 32000, 32001));
  dir_.Write("tokenizer.json", R"({"added_tokens": [{"id": -1, "content": "x"}],
                                   "model": {"type": "Unigram"}})");
  EXPECT_THAT(Refusal(dir_), HasSubstr("tokenizer.json: added_tokens[0].id: is -1"));
  // Where the older list is, it is the whole of it.
  dir_.Write("tokenizer_config.json", R"({"added_tokens_decoder": {}})");
  Load();
  EXPECT_EQ(tokenizer_->num_pieces(), 32000);
}

TEST_F(TokenizerTest, AddedTokensThatCannotBeMeantAreRefused) {
  const auto config = [&](const std::string& tokens) {
    dir_.Write("tokenizer_config.json", R"({"added_tokens_decoder": )" + tokens + "}");
    return Refusal(dir_);
  };
  EXPECT_THAT(config("[]"), HasSubstr("added_tokens_decoder: must be an object"));
  EXPECT_THAT(config(R"({"x": {"content": "a"}})"),
              HasSubstr("the id of \"a\" must be an integer"));
  EXPECT_THAT(config(R"({"-1": {"content": "a"}})"),
              HasSubstr("added_tokens_decoder.-1: the id of"));
  EXPECT_THAT(config(R"({"32000": {}})"),
              HasSubstr("added_tokens_decoder.32000: a token must have"));
  EXPECT_THAT(
      config(R"({"32000": {"content": "a", "rstrip": true}})"),
      HasSubstr("the added token \"a\" of tokenizer_config.json has rstrip, which is supported"));
  EXPECT_THAT(config(R"({"32000": {"content": "a"}, "32001": {"content": "a"}})"),
              HasSubstr("\"a\" and its id 32001 are there twice"));
  EXPECT_THAT(config(R"({"2": {"content": "<eot>"}})"),
              HasSubstr("\"<eot>\" has the id 2, which is the piece \"</s>\""));
  dir_.Write("tokenizer_config.json", R"({"eos_token": "<|im_end|>"})");
  EXPECT_THAT(Refusal(dir_),
              HasSubstr("eos_token: \"<|im_end|>\" of tokenizer_config.json is not a token"));
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

}  // namespace
}  // namespace packrat
