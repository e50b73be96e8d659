// Tokens back to text, at once and as they come.
#include <random>
#include <string>
#include <vector>

#include "models/text/utf8.h"
#include "tests/models/sentence_pieces_fixture.h"

namespace packrat {
namespace {

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
