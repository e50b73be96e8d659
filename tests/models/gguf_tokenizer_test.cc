// The tokenizer of a GGUF file.
#include "models/tools/gguf_tokenizer.h"

#include <string>
#include <vector>

#include "gtest/gtest.h"

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
  for (const char* pre : {"llama-bpe", "llama3", "qwen2"}) {
    const Json json = cut(pre);
    const Json& parts = json["pre_tokenizer"]["pretokenizers"];
    EXPECT_EQ(parts[0]["type"], "Split");
    EXPECT_EQ(parts[1]["use_regex"], false);
    const std::string pattern = parts[0]["pattern"]["Regex"];
    const bool three = std::string(pre) != "qwen2";  // Digits in groups of up to three.
    EXPECT_EQ(pattern.find("\\p{N}{1,3}|") != std::string::npos, three) << pre;
    EXPECT_EQ(json["model"]["ignore_merges"], three) << pre;
  }
  for (const char* pre : {"gpt-2", "smollm"}) EXPECT_EQ(cut(pre)["model"]["ignore_merges"], false);
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

TEST(TokenizerOfGguf, ListsThatDoNotFitAreRefused) {
  const auto refusal = [](const GgufHeader& header) {
    const absl::Status status = TokenizerOfGguf(header, "FILE").status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    return std::string(status.message());
  };
  EXPECT_EQ(refusal(Tokens({})), "FILE: tokenizer.ggml.tokens or merges are missing");
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

}  // namespace
}  // namespace packrat
