// A public SentencePiece model as a tokenizer, and texts to try it on.
#ifndef PACKRAT_TESTS_MODELS_SENTENCE_PIECES_FIXTURE_H_
#define PACKRAT_TESTS_MODELS_SENTENCE_PIECES_FIXTURE_H_

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "models/text/tokenizer.h"
#include "tests/models/test_files.h"

namespace packrat {

inline constexpr char kModel[] = "tests/data/mistral-7b-v0.1.model";
inline constexpr int kPieces = 32000;
inline constexpr int kVocab = 32064;  // With padding.
inline constexpr int kUnk = 0, kBos = 1, kEos = 2;

inline int32_t Byte(unsigned char byte) { return 3 + byte; }  // <0x00> is piece 3.

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
inline const std::vector<std::string>& Texts() {
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

}  // namespace packrat

#endif  // PACKRAT_TESTS_MODELS_SENTENCE_PIECES_FIXTURE_H_
