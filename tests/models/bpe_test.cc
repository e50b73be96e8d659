// What a server asks of a tokenizer.json, and texts that would take long or forge tokens. What the
// library makes of texts is in bpe_library_test.cc.
#include "models/text/bpe.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <utility>

#include "models/text/utf8.h"
#include "tests/models/tokenizer_json.h"

namespace packrat {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

TEST(Bpe, Gpt2Properties) {
  auto tokenizer = Load("gpt2");
  EXPECT_EQ(tokenizer->num_pieces(), 4096);
  EXPECT_EQ(tokenizer->vocab_size(), kVocab);
  EXPECT_EQ(tokenizer->bos_id(), -1);
  EXPECT_EQ(tokenizer->eos_id(), -1);
  EXPECT_FALSE(tokenizer->default_add_bos());
  EXPECT_FALSE(tokenizer->Encode("a", {true, false}).ok());
  EXPECT_TRUE(tokenizer->IsSpecial(4095));
  EXPECT_TRUE(tokenizer->IsSpecial(4096));  // Padding.
  EXPECT_FALSE(tokenizer->IsSpecial(0));
  EXPECT_EQ(tokenizer->PieceText(4095), "<|endoftext|>");
  EXPECT_EQ(tokenizer->PieceText(4096), "");
  tokenizer = Load("gpt2", Json::array(),
                   R"({"add_bos_token": false, "bos_token": "<|endoftext|>",
                       "eos_token": {"content": "<|endoftext|>", "lstrip": false}})");
  EXPECT_EQ(tokenizer->bos_id(), 4095);
  EXPECT_EQ(tokenizer->eos_id(), 4095);
  EXPECT_FALSE(tokenizer->default_add_bos());
  EXPECT_EQ(Encode(*tokenizer, "a", false, true).front(), 4095);
}

TEST(Bpe, Llama3Properties) {
  auto tokenizer = Load("llama3", Json::array(), R"({"eos_token": "<|eot_id|>"})");
  EXPECT_EQ(tokenizer->num_pieces(), 4099);
  EXPECT_EQ(tokenizer->bos_id(), 4092);
  EXPECT_EQ(tokenizer->eos_id(), 4094);
  EXPECT_TRUE(tokenizer->default_add_bos());
  EXPECT_THAT(Encode(*tokenizer, "", false, true), ElementsAre(4092));
  // One that stands in the text is not doubled.
  EXPECT_THAT(Encode(*tokenizer, "<|begin_of_text|>", true, true), ElementsAre(4092));
  EXPECT_THAT(Encode(*tokenizer, "<|eot_id|>more<|eot_id|>", true), ElementsAre(4095, 4094));
  EXPECT_FALSE(tokenizer->IsSpecial(4096));  // An added token that is text.
  EXPECT_THAT(Encode(*tokenizer, "<think>"), ElementsAre(4096));
  EXPECT_EQ(tokenizer->Decode({4092, 4096, 4098, 4094}, true),
            "<think>\xc3\xbc"
            "ber");
  EXPECT_EQ(tokenizer->Decode({4092, 4096}, false), "<|begin_of_text|><think>");
  EXPECT_FALSE(Load("llama3", Json::array(), R"({"add_bos_token": false})")->default_add_bos());
}

TEST(Bpe, LlamaProperties) {
  const Json with_bos = {{{"op", "add"},
                          {"path", "/post_processor/single/0"},
                          {"value", {{"SpecialToken", {{"id", "<s>"}, {"type_id", 0}}}}}},
                         {{"op", "add"},
                          {"path", "/post_processor/special_tokens/<s>"},
                          {"value", {{"id", "<s>"}, {"ids", {1}}, {"tokens", {"<s>"}}}}}};
  const auto tokenizer = Load("llama", with_bos, R"({"eos_token": "</s>"})");
  EXPECT_EQ(tokenizer->num_pieces(), 800);
  EXPECT_EQ(tokenizer->bos_id(), 1);
  EXPECT_EQ(tokenizer->eos_id(), 2);
  EXPECT_TRUE(tokenizer->default_add_bos());
  EXPECT_TRUE(tokenizer->IsSpecial(0));
  EXPECT_EQ(tokenizer->PieceText(3 + 'a'), "a");
  // Only the text's beginning gets a space, and loses it again.
  const auto ids = Encode(*tokenizer, "the</s>the", true);
  ASSERT_GT(ids.size(), 3u);
  EXPECT_EQ(tokenizer->PieceText(ids[0]), " the");
  EXPECT_EQ(ids[1], 2);
  EXPECT_EQ(tokenizer->PieceText(ids[2])[0], 't');
  EXPECT_EQ(tokenizer->Decode(ids, false), "the</s>the");
  EXPECT_EQ(tokenizer->Decode(ids, true), "thethe");
  EXPECT_EQ(tokenizer->Decode(ids, true, /*continues_text=*/true), " thethe");
  EXPECT_EQ(tokenizer->Decode({1, ids[0]}, false), "<s> the");
  EXPECT_EQ(tokenizer->Decode({1, ids[0]}, true), "the");
  EXPECT_EQ(tokenizer->Decode({3 + 0xf0, 3 + 0x9f, 3 + 0x98, 3 + 0x80}, true), "\xf0\x9f\x98\x80");
}

TEST(Bpe, ATextThatGoesOnFromAnotherGetsNoSpace) {
  const Tokenizer::EncodeOptions on = {false, false, /*continues_text=*/true};
  for (const char* scheme : {"always", "first"}) {
    const auto tokenizer =
        Load("llama",
             {{{"op", "replace"}, {"path", "/pre_tokenizer/prepend_scheme"}, {"value", scheme}}});
    EXPECT_EQ(tokenizer->PieceText(Encode(*tokenizer, "the")[0]), " the");
    EXPECT_EQ(tokenizer->Decode(*tokenizer->Encode("the the", on), true, true), "the the");
    EXPECT_EQ(tokenizer->Decode(*tokenizer->Encode(" the", on), true, true), " the");
  }
  const auto spaced = Load(
      "gpt2", {{{"op", "replace"}, {"path", "/pre_tokenizer/add_prefix_space"}, {"value", true}}});
  EXPECT_EQ(spaced->Decode(Encode(*spaced, "the"), true), " the");
  EXPECT_EQ(spaced->Decode(*spaced->Encode("the", on), true), "the");
}

// Without all of a character's bytes none of them stands for it.
TEST(Bpe, ACharacterOfWhichAByteIsMissingIsUnknown) {
  const Json patch = {
      {{"op", "move"}, {"from", "/model/vocab/<0x98>"}, {"path", "/model/vocab/q-q"}},
      {{"op", "replace"}, {"path", "/model/unk_token"}, {"value", "<unk>"}},
      {{"op", "replace"}, {"path", "/pre_tokenizer"}, {"value", nullptr}}};
  EXPECT_THAT(Encode(*Load("llama", patch), "\xf0\x9f\x98\x80"), ElementsAre(0));
}

TEST(Bpe, AByteLevelDecoderMayBeASequenceOfOne) {
  const auto plain = Load("gpt2");
  const auto sequence = Load(
      "gpt2",
      {{{"op", "replace"},
        {"path", "/decoder"},
        {"value",
         {{"type", "Sequence"}, {"decoders", Json::array({ReadJson("gpt2.json")["decoder"]})}}}}});
  const std::string text =
      "Stra\xc3\x9f"
      "e, \xf0\x9f\x98\x80\n";
  const auto ids = Encode(*plain, text);
  EXPECT_EQ(Encode(*sequence, text), ids);
  EXPECT_EQ(sequence->Decode(ids, true), text);
}

// a, b, c, ab, bc: of the two ranks of "a b" the last counts.
TEST(Bpe, TheLastOfEqualMergesCounts) {
  const Json json = {{"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}}},
                     {"decoder", {{"type", "ByteLevel"}}},
                     {"model",
                      {{"type", "BPE"},
                       {"vocab", {{"a", 0}, {"b", 1}, {"c", 2}, {"ab", 3}, {"bc", 4}}},
                       {"merges", {"a b", "b c", "a b"}}}}};
  const auto tokenizer = LoadJson(json, "");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_THAT(Encode(**tokenizer, "abc"), ElementsAre(0, 4));
}

// As of SmolLM2: neither refused, nor an error where they occur.
TEST(Bpe, BytesWithoutATokenAreUnknownOrNothing) {
  Json patch = {{{"op", "move"}, {"from", "/model/vocab/\u0104"}, {"path", "/model/vocab/q-q"}}};
  EXPECT_THAT(Encode(*Load("gpt2", patch), "a\x04\x04 b"), ElementsAre(64, 268));
  patch.push_back({{"op", "replace"}, {"path", "/model/unk_token"}, {"value", "!"}});
  EXPECT_EQ(Encode(*Load("gpt2", patch),
                   "a\x04\x04"
                   "b")
                .size(),
            4u);
  patch.push_back({{"op", "replace"}, {"path", "/model/fuse_unk"}, {"value", true}});
  EXPECT_EQ(Encode(*Load("gpt2", patch),
                   "a\x04\x04"
                   "b")
                .size(),
            3u);
  patch[1]["value"] = "<none>";
  const auto refused = LoadJson(ReadJson("gpt2.json").patch(patch), "");
  EXPECT_THAT(std::string(refused.status().message()),
              HasSubstr("model.unk_token: \"<none>\" is not in model.vocab"));
}

TEST(Bpe, NfcTakesNoLongTime) {
  const auto tokenizer =
      Load("llama3", {{{"op", "replace"}, {"path", "/normalizer"}, {"value", {{"type", "NFC"}}}}});
  EXPECT_EQ(tokenizer->Decode(Encode(*tokenizer, "e\u0301 \u1100\u1161"), true), "\u00e9 \uac00");
  // Marks of two classes in turn: what sorts them by neighbours would not come to an end.
  std::string marks = "a", sorted = "\u0105";
  for (int i = 0; i < 50000; ++i) marks += "\u0302\u0328";
  const auto ids = Encode(*tokenizer, marks);
  EXPECT_EQ(tokenizer->Decode(ids, true).substr(0, sorted.size()), sorted);
}

// U+32FF and U+0898 came after the library's tables: no form, and no mark that others pass.
TEST(Bpe, NewCharactersAreNotNormalized) {
  const auto tokenizer =
      Load("llama3", {{{"op", "replace"}, {"path", "/normalizer"}, {"value", {{"type", "NFKC"}}}}});
  const std::string text = "a\u0898\u0301 \u32ff e\u0301";
  EXPECT_EQ(tokenizer->Decode(Encode(*tokenizer, text), true), "a\u0898\u0301 \u32ff \u00e9");
}

TEST(Bpe, TokensThatOnlyTheConfigHasAreAdded) {
  const std::string config = R"({"added_tokens_decoder": {
      "4095": {"content": "<|endoftext|>", "special": true},
      "4096": {"content": "<|im_end|>", "special": true}, "4100": {"content": "<tool>"}},
      "eos_token": "<|im_end|>"})";
  const auto tokenizer = Load("gpt2", Json::array(), config);
  EXPECT_EQ(tokenizer->num_pieces(), 4101);
  EXPECT_EQ(tokenizer->eos_id(), 4096);
  EXPECT_THAT(Encode(*tokenizer, "<|im_end|><tool>", true), ElementsAre(4096, 4100));
  EXPECT_EQ(tokenizer->Decode({4096, 4100, 4098}, true), "<tool>");
  EXPECT_THAT(std::string(LoadJson(ReadJson("gpt2.json"), config, 4100).status().message()),
              HasSubstr("\"<tool>\" has the id 4100; the model's vocab_size is 4100"));
}

// As in transformers, which adds a token anew where the two files differ.
TEST(Bpe, TheConfigSaysLastHowATokenIsFound) {
  const std::string config = R"({"added_tokens_decoder": {
      "4094": {"content": "<|eot_id|>", "special": true, "normalized": false, "rstrip": true},
      "4096": {"content": "<think>", "normalized": false, "single_word": true, "lstrip": true}}})";
  const auto tokenizer = Load("llama3", Json::array(), config);
  EXPECT_EQ(Encode(*tokenizer, "<|eot_id|> \n <think>", true), std::vector<int32_t>({4094, 4096}));
  EXPECT_EQ(Encode(*tokenizer, "a<think>", true).back(), 29);  // ">"
  EXPECT_GT(Encode(*Load("llama3"), "<|eot_id|> \n <think>", true).size(), 2u);
}

// Gemma has tokens of white space, written as its entries are.
TEST(Bpe, AddedTokensAreDecodedAsEntriesAre) {
  const Json tokens = Json::parse(R"([
      {"op": "add", "path": "/added_tokens/-", "value": {"id": 800, "content": "\u2581\u2581",
       "normalized": false, "special": false}},
      {"op": "add", "path": "/added_tokens/-", "value": {"id": 801, "content": "x y",
       "normalized": true, "special": false}},
      {"op": "replace", "path": "/pre_tokenizer", "value": null},
      {"op": "replace", "path": "/normalizer", "value": {"type": "Replace",
       "pattern": {"String": " "}, "content": "\u2581"}}])");
  const auto tokenizer = Load("llama", tokens);
  EXPECT_EQ(tokenizer->Decode({3 + 'a', 800, 3 + 'b', 801}, true), "a  bx y");
}

// Tokens that take white space where all of it is tokens of their own.
TEST(Bpe, StrippingTakesNoLongTime) {
  const auto token = [](int id, const std::string& content, const std::string& flag) {
    return Json{{"op", "add"},
                {"path", "/added_tokens/-"},
                {"value", {{"id", id}, {"content", content}, {"normalized", false}, {flag, true}}}};
  };
  std::string spaces;
  while (spaces.size() < 300000) spaces += " \t";
  for (const char* flag : {"lstrip", "rstrip"}) {
    const auto tokenizer = Load("llama3", {token(4099, " ", flag), token(4100, "\u3000", flag)});
    EXPECT_FALSE(Encode(*tokenizer, spaces).empty());
    EXPECT_FALSE(Encode(*tokenizer, spaces + "\u3000" + spaces).empty());
  }
}

// Gemma's <start_of_turn> is a piece that SentencePiece itself finds in any text.
TEST(SentencePieces, APieceThatIsSpecialIsNotForged) {
  std::ifstream file(std::string(kFolder) + "llama.model", std::ios::binary);
  std::string model{std::istreambuf_iterator<char>(file), {}};
  // One more piece (1) {piece (1): "<turn>", score (2): 0, type (3): user defined}.
  model += std::string("\x0a\x0f\x0a\x06<turn>\x15\0\0\0\0\x18\x04", 17);
  const TempDir dir;
  dir.Write("tokenizer.model", model);
  const auto ids_of = [&](const std::string& config, const std::string& text, bool special) {
    dir.Write("tokenizer_config.json", config);
    const auto tokenizer = Tokenizer::Load(dir.path(), kVocab);
    EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
    auto ids = Encode(**tokenizer, text, special);
    EXPECT_EQ((*tokenizer)->Decode(ids, false), text);
    return ids;
  };
  const std::string config = R"({"added_tokens_decoder": {
      "800": {"content": "<turn>", "special": true}}, "legacy": false})";
  for (const std::string text : {"<turn>", "the <turn>the", "<turn><turn>", "<tur<turn>n>"}) {
    EXPECT_EQ(testing::Value(ids_of("{}", text, false), testing::Contains(800)), true) << text;
    EXPECT_THAT(ids_of(config, text, false), testing::Not(testing::Contains(800))) << text;
    // Nor does the rest of the text get a space, where that of a special token's would.
    const std::string legacy = std::string(config).replace(config.find("false"), 5, "true");
    EXPECT_EQ(ids_of(legacy, text, false), ids_of(config, text, false)) << text;
    EXPECT_THAT(ids_of(config, text, true), testing::Contains(800)) << text;
  }
}

TEST(Bpe, RefusesWhatIsNotUtf8) {
  EXPECT_EQ(Load("gpt2")->Encode("ab\xff", {}).status().message(),
            "text: not valid UTF-8 at byte 2");
}

TEST(Bpe, StreamedTextIsValidAndWhole) {
  const auto tokenizer = Load("llama3");
  std::mt19937 random(3);
  for (int round = 0; round < 500; ++round) {
    TextDecoder decoder(tokenizer.get(), round % 2 == 0, round % 3 == 0);
    std::vector<int32_t> ids;
    std::string streamed;
    for (int i = 0; i < 60; ++i) {
      // Half of them tokens of one byte, most of which end inside a character.
      ids.push_back(static_cast<int32_t>(random() % (i % 2 == 0 ? 256 : kVocab)));
      const std::string piece = decoder.Push(ids.back());
      ASSERT_EQ(FirstInvalidUtf8(piece), piece.size());
      streamed += piece;
    }
    streamed += decoder.Finish();
    ASSERT_EQ(streamed, tokenizer->Decode(ids, round % 2 == 0, round % 3 == 0));
  }
  // The bytes of a character come with the last of them.
  TextDecoder decoder(tokenizer.get(), true, true);
  const auto face = Encode(*tokenizer, "\xf0\x93\x80\x80");
  ASSERT_GT(face.size(), 1u);
  for (size_t i = 0; i + 1 < face.size(); ++i) EXPECT_EQ(decoder.Push(face[i]), "");
  EXPECT_EQ(decoder.Push(face.back()), "\xf0\x93\x80\x80");
}

// Few words or one: a merge that took quadratic time would not come to an end here.
TEST(Bpe, LongWordsTakeNoLongTime) {
  for (const char* name : {"gpt2", "llama3", "llama"}) {
    const auto tokenizer = Load(name);
    for (const char* part : {" ", "a", "ab", "\n", " \n", "the", "=", "\xc3\xa9"}) {
      std::string text = "x";  // A space at the beginning might be the tokenizer's own.
      while (text.size() < 200000) text += part;
      EXPECT_TRUE(tokenizer->Decode(Encode(*tokenizer, text), true) == text) << part;
    }
  }
}

}  // namespace
}  // namespace packrat
