// The tokenizer of a GGUF file.
#include "models/tools/gguf_tokenizer.h"

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <tuple>
#include <vector>

#include "gtest/gtest.h"
#include "models/text/tokenizer.h"
#include "tests/models/test_files.h"

namespace packrat {
namespace {

// A small tokenizer, with `texts` as its tokens.
GgufHeader Tokens(const std::vector<std::string>& texts, const std::string& pre = "") {
  const auto text = [](const std::string& value) {
    GgufValue v{GgufValue::Kind::kString};
    v.text = value;
    return v;
  };
  GgufHeader header;
  header.metadata["tokenizer.ggml.model"] = text("gpt2");
  if (!pre.empty()) header.metadata["tokenizer.ggml.pre"] = text(pre);
  header.metadata["tokenizer.ggml.tokens"] = GgufValue{GgufValue::Kind::kStrings};
  header.metadata["tokenizer.ggml.tokens"].texts = texts;
  header.metadata["tokenizer.ggml.merges"] = GgufValue{GgufValue::Kind::kStrings};
  return header;
}

TEST(TokenizerOfGguf, WordsAreCutAsTheNameSays) {
  const auto cut = [](const std::string& pre) {
    return TokenizerOfGguf(Tokens({"a", "b"}, pre), "FILE")->json;
  };
  EXPECT_EQ(cut("")["pre_tokenizer"], cut("gpt-2")["pre_tokenizer"]);
  EXPECT_EQ(cut("gpt-2")["pre_tokenizer"]["type"], "ByteLevel");
  EXPECT_EQ(cut("gpt-2")["pre_tokenizer"]["use_regex"], true);
  for (const std::string pre :
       {"dbrx", "falcon-h1", "lfm2", "llama-bpe", "llama3", "qwen2", "qwen35"}) {
    const Json json = cut(pre);
    const Json& parts = json["pre_tokenizer"]["pretokenizers"];
    EXPECT_EQ(parts[0]["type"], "Split");
    EXPECT_EQ(parts[1]["use_regex"], false);
    const std::string pattern = parts[0]["pattern"]["Regex"];
    const bool three = pre.substr(0, 4) != "qwen";  // Digits in groups of up to three.
    EXPECT_EQ(pattern.find("\\p{N}{1,3}|") != std::string::npos, three) << pre;
    EXPECT_EQ(pattern.find("\\p{M}") != std::string::npos, pre == "qwen35") << pre;
    EXPECT_EQ(json["model"]["ignore_merges"], three && pre != "dbrx") << pre;
    EXPECT_EQ(json["normalizer"], three ? Json() : Json({{"type", "NFC"}})) << pre;
  }
  for (const char* pre : {"gpt-2", "refact", "smollm"}) {
    EXPECT_EQ(cut(pre)["model"]["ignore_merges"], false);
  }
  EXPECT_EQ(cut("refact")["pre_tokenizer"]["pretokenizers"][0]["type"], "Digits");
  EXPECT_EQ(TokenizerOfGguf(Tokens({"a"}, "unheard-of"), "FILE").status().message(),
            "FILE: tokenizer.ggml.pre is \"unheard-of\"; one of: dbrx, falcon-h1, gpt-2, lfm2, "
            "llama-bpe, llama3, qwen2, qwen35, refact, smollm");
}

TEST(TokenizerOfGguf, KindsOfTokensAndEnds) {
  GgufHeader header = Tokens({"<s>", "a", "<tool>", "b"});
  header.metadata["tokenizer.ggml.token_type"] = GgufValue{GgufValue::Kind::kNumbers};
  header.metadata["tokenizer.ggml.token_type"].numbers = {3, 1, 4, 1};
  header.metadata["tokenizer.ggml.bos_token_id"] = GgufValue{GgufValue::Kind::kInteger, 0};
  header.metadata["tokenizer.ggml.add_bos_token"] = GgufValue{GgufValue::Kind::kBool, 1};
  const auto tokenizer = TokenizerOfGguf(header, "FILE");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const Json& added = tokenizer->json["added_tokens"];
  ASSERT_EQ(added.size(), 2u);
  EXPECT_EQ(added[0]["id"], 0);
  EXPECT_EQ(added[0]["special"], true);
  EXPECT_EQ(added[1]["id"], 2);
  EXPECT_EQ(added[1]["content"], "<tool>");
  EXPECT_EQ(added[1]["special"], false);
  EXPECT_EQ(tokenizer->config["bos_token"], "<s>");
  EXPECT_EQ(tokenizer->config["add_bos_token"], true);
  EXPECT_FALSE(tokenizer->config.contains("eos_token"));
}

TEST(TokenizerOfGguf, ValuesOfAnotherKindAreRefused) {
  for (const auto& [key, kind, must_be] : {std::tuple("model", "an integer", "a string"),
                                           {"pre", "an integer", "a string"},
                                           {"tokens", "an integer", "a list of strings"},
                                           {"token_type", "an integer", "a list of numbers"},
                                           {"merges", "an integer", "a list of strings"},
                                           {"add_bos_token", "an integer", "a boolean"}}) {
    GgufHeader header = Tokens({"a", "b"});
    header.metadata.insert_or_assign(std::string("tokenizer.ggml.") + key,
                                     GgufValue{GgufValue::Kind::kInteger, 1});
    EXPECT_EQ(TokenizerOfGguf(header, "FILE").status().message(),
              std::string("FILE: tokenizer.ggml.") + key + " is " + kind + "; must be " + must_be);
  }
}

TEST(TokenizerOfGguf, ListsThatDoNotFitAreRefused) {
  const auto refusal = [](const GgufHeader& header) {
    const absl::Status status = TokenizerOfGguf(header, "FILE").status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    return std::string(status.message());
  };
  EXPECT_EQ(refusal(Tokens({})), "FILE: tokenizer.ggml.tokens are missing");
  EXPECT_EQ(refusal(Tokens({"a", "b", "a"})), "FILE: tokenizer.ggml.tokens has \"a\" twice");
  GgufHeader types = Tokens({"a", "b"});
  types.metadata["tokenizer.ggml.token_type"] = GgufValue{GgufValue::Kind::kNumbers};
  types.metadata["tokenizer.ggml.token_type"].numbers = {1};
  EXPECT_EQ(refusal(types), "FILE: tokenizer.ggml.token_type has 1 entries, tokens 2");
  for (const int64_t id : {-1, 2}) {
    GgufHeader end = Tokens({"a", "b"});
    end.metadata["tokenizer.ggml.eos_token_id"] = GgufValue{GgufValue::Kind::kInteger, id};
    EXPECT_EQ(refusal(end), "FILE: tokenizer.ggml.eos_token_id is " + std::to_string(id) +
                                ", which no token has");
  }
}

// The value of a field of a serialized message, from `at` on; moves `at` behind it.
struct WireField {
  int number = 0;
  uint64_t integer = 0;
  std::string bytes;
};
WireField NextField(const std::string& message, size_t* at) {
  const auto varint = [&] {
    uint64_t value = 0;
    for (int shift = 0;; shift += 7) {
      const auto byte = static_cast<uint8_t>(message.at((*at)++));
      value |= static_cast<uint64_t>(byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
  };
  const uint64_t key = varint();
  WireField field{static_cast<int>(key >> 3)};
  if (key % 8 == 0) {
    field.integer = varint();
  } else {
    const size_t size = key % 8 == 5 ? 4 : varint();
    field.bytes = message.substr(*at, size);
    *at += size;
  }
  return field;
}

// The metadata that llama.cpp's converter makes of a tokenizer.model.
GgufHeader OfSentencePieces(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string model((std::istreambuf_iterator<char>(file)), {});
  GgufHeader header;
  auto& metadata = header.metadata;
  metadata["tokenizer.ggml.model"] = GgufValue{GgufValue::Kind::kString};
  metadata["tokenizer.ggml.model"].text = "llama";
  auto& tokens = metadata["tokenizer.ggml.tokens"] = GgufValue{GgufValue::Kind::kStrings};
  auto& scores = metadata["tokenizer.ggml.scores"] = GgufValue{GgufValue::Kind::kNumbers};
  auto& types = metadata["tokenizer.ggml.token_type"] = GgufValue{GgufValue::Kind::kNumbers};
  for (size_t at = 0; at < model.size();) {
    const WireField piece = NextField(model, &at);
    if (piece.number != 1) continue;
    float score = 0;
    double type = 1;
    for (size_t in = 0; in < piece.bytes.size();) {
      const WireField field = NextField(piece.bytes, &in);
      if (field.number == 1) tokens.texts.push_back(field.bytes);
      if (field.number == 2) std::memcpy(&score, field.bytes.data(), sizeof(score));
      if (field.number == 3) type = static_cast<double>(field.integer);
    }
    scores.numbers.push_back(score);
    types.numbers.push_back(type);
  }
  metadata["tokenizer.ggml.bos_token_id"] = GgufValue{GgufValue::Kind::kInteger, 1};
  metadata["tokenizer.ggml.eos_token_id"] = GgufValue{GgufValue::Kind::kInteger, 2};
  return header;
}

TEST(TokenizerOfGguf, SentencePiecesGiveTheSameIds) {
  const std::string path = "tests/data/mistral-7b-v0.1.model";
  GgufHeader header = OfSentencePieces(path);
  const int size = static_cast<int>(header.metadata["tokenizer.ggml.tokens"].texts.size());
  ASSERT_EQ(size, 32000);
  const auto read = TokenizerOfGguf(header, "FILE");
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_TRUE(read->json.is_null());
  EXPECT_EQ(read->config["bos_token"], "<s>");
  EXPECT_EQ(read->config["add_bos_token"], true);
  TempDir ours, theirs;
  ours.Write("tokenizer.model", read->sentence_pieces);
  ours.Write("tokenizer_config.json", read->config.dump());
  std::filesystem::copy(path, theirs.File("tokenizer.model"));
  const auto a = Tokenizer::Load(ours.path(), size), b = Tokenizer::Load(theirs.path(), size);
  ASSERT_TRUE(a.ok()) << a.status();
  ASSERT_TRUE(b.ok()) << b.status();
  EXPECT_EQ((*a)->bos_id(), 1);
  EXPECT_EQ((*a)->eos_id(), 2);
  for (const std::string text :
       {"Hello, world", "  two  spaces ", "\xe4\xbd\xa0\xe5\xa5\xbd \xf0\x9f\x98\x80",
        "\x01\ttabs\n", "naive cafe\xcc\x81", "<s>[INST] no </s>", "1234567890 3.14"}) {
    for (const bool special : {false, true}) {
      const Tokenizer::EncodeOptions options{true, special, false};
      const auto ids = (*a)->Encode(text, options);
      ASSERT_TRUE(ids.ok()) << ids.status();
      EXPECT_EQ(*ids, *(*b)->Encode(text, options)) << text;
      EXPECT_EQ((*a)->Decode(*ids, true), (*b)->Decode(*ids, true)) << text;
    }
  }
  // Without the space before a text.
  header.metadata["tokenizer.ggml.add_space_prefix"] = GgufValue{GgufValue::Kind::kBool, 0};
  TempDir bare;
  bare.Write("tokenizer.model", TokenizerOfGguf(header, "FILE")->sentence_pieces);
  const auto c = Tokenizer::Load(bare.path(), size);
  ASSERT_TRUE(c.ok()) << c.status();
  EXPECT_EQ((*c)->Decode(*(*c)->Encode("a", {}), true), "a");
  EXPECT_NE(*(*c)->Encode("Hello", {}), *(*b)->Encode("Hello", {}));
}

TEST(TokenizerOfGguf, SentencePiecesThatDoNotFitAreRefused) {
  const auto refusal = [](const GgufHeader& header) {
    return std::string(TokenizerOfGguf(header, "FILE").status().message());
  };
  GgufHeader header = Tokens({"<unk>", "a"});
  header.metadata["tokenizer.ggml.model"].text = "llama";
  EXPECT_EQ(refusal(header), "FILE: tokenizer.ggml.scores or token_type are missing");
  auto& types = header.metadata["tokenizer.ggml.token_type"] = GgufValue{GgufValue::Kind::kNumbers};
  types.numbers = {2, 7};
  auto& scores = header.metadata["tokenizer.ggml.scores"] = GgufValue{GgufValue::Kind::kNumbers};
  scores.numbers = {0};
  EXPECT_EQ(refusal(header), "FILE: tokenizer.ggml.scores has 1 entries, tokens 2");
  scores.numbers = {0, -1};
  EXPECT_EQ(refusal(header), "FILE: tokenizer.ggml.token_type of token 1 is 7; must be 1 to 6");
  types.numbers = {1, 1};
  EXPECT_EQ(refusal(header), "FILE: tokenizer.ggml.token_type has no unknown token (2)");
}

}  // namespace
}  // namespace packrat
