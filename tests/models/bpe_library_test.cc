// tokenizer.json against what the library that writes such files makes of the same texts;
// tests/data/tokenizer_json/expect.py tells what is compared.
#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "tests/models/tokenizer_json.h"

namespace packrat {
namespace {

constexpr int kLines = 10000;

uint64_t Fnv(const std::vector<int32_t>& values) {
  uint64_t hash = 0xcbf29ce484222325;
  for (int32_t value : values) {
    for (int shift = 0; shift < 32; shift += 8) {
      hash = (hash ^ ((static_cast<uint32_t>(value) >> shift) & 255)) * 0x100000001b3;
    }
  }
  return hash;
}

std::string Generated(int line, const std::vector<std::string>& parts) {
  uint64_t state = line;
  const auto below = [&](uint64_t n) {
    state = state * 6364136223846793005 + 1442695040888963407;
    return (state >> 33) % n;
  };
  below(2);
  std::string text;
  for (uint64_t left = 1 + below(24); left > 0; --left) text += parts[below(parts.size())];
  return text;
}

class LibraryTest : public testing::TestWithParam<int> {};

TEST_P(LibraryTest, IdsAreThoseOfTheLibrary) {
  const Json expected = ReadJson("expected.json");
  const Json& test = expected["cases"][GetParam()];
  const bool special = test["special"];
  const auto tokenizer = Load(test["tokenizer"], test["patch"]);
  const bool lossless = test["lossless"] || (test["patch"].empty() && test["tokenizer"] != "llama");
  const auto check_text = [&](const std::string& text, const std::vector<int32_t>& ids) {
    if (lossless) {
      ASSERT_EQ(tokenizer->Decode(ids, /*skip_special=*/false), text);
    }
    // What is unknown may be a special token.
    const Json unknown = test["patch"].dump().find("<unk>") == std::string::npos ? -1 : 0;
    for (int32_t id : ids) {
      ASSERT_TRUE(special || !tokenizer->IsSpecial(id) || id == unknown) << text;
    }
  };
  std::vector<int32_t> hashes;  // The lower halves of all.
  const auto& texts = expected["texts"].get_ref<const Json::array_t&>();
  ASSERT_GT(texts.size(), 500u);
  for (size_t i = 0; i < texts.size(); ++i) {
    const auto ids = Encode(*tokenizer, texts[i], special);
    if (test.contains("ids")) {
      ASSERT_EQ(ids, test["ids"][i].get<std::vector<int32_t>>()) << texts[i];
    }
    check_text(texts[i], ids);
    hashes.push_back(static_cast<int32_t>(Fnv(ids)));
  }
  const std::vector<std::string> parts = expected["parts"];
  for (int i = 0; i < kLines; ++i) {
    const std::string text = Generated(i, parts);
    const auto ids = Encode(*tokenizer, text, special);
    check_text(text, ids);
    hashes.push_back(static_cast<int32_t>(Fnv(ids)));
    if (test.contains("lines")) {
      const int hash = std::stoi(test["lines"].get<std::string>().substr(4 * i, 4), nullptr, 16);
      ASSERT_EQ(hashes.back() & 0xffff, hash) << text;
    }
  }
  EXPECT_EQ(Fnv(hashes), std::stoull(test["hash"].get<std::string>(), nullptr, 16));
}

INSTANTIATE_TEST_SUITE_P(Cases, LibraryTest, testing::Range(0, 42));

TEST(LibraryCases, AreAllTested) { EXPECT_EQ(ReadJson("expected.json")["cases"].size(), 42u); }

// A tokenizer.json of a SentencePiece model says what the model says.
TEST(LibraryCases, LlamaIsTheModelItWasMadeOf) {
  const Json prepend = {
      {{"op", "replace"}, {"path", "/pre_tokenizer"}, {"value", nullptr}},
      {{"op", "replace"},
       {"path", "/normalizer"},
       {"value",
        {{"type", "Sequence"},
         {"normalizers",
          {{{"type", "Prepend"}, {"prepend", "\u2581"}},
           {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", "\u2581"}}}}}}}};
  const auto json = Load("llama", prepend);
  const TempDir dir;
  std::filesystem::copy_file(std::string(kFolder) + "llama.model", dir.File("tokenizer.model"));
  const auto model = Tokenizer::Load(dir.path(), kVocab);
  ASSERT_TRUE(model.ok()) << model.status();
  const std::vector<std::string> parts = ReadJson("expected.json")["parts"];
  for (int i = 0; i < kLines; ++i) {
    const std::string text = Generated(i, parts);
    const auto ids = Encode(*json, text);
    ASSERT_EQ(ids, Encode(**model, text)) << text;
    ASSERT_EQ(json->Decode(ids, true), (*model)->Decode(ids, true)) << text;
    const Tokenizer::EncodeOptions on = {false, false, /*continues_text=*/true};
    ASSERT_EQ(*json->Encode(text, on), *(*model)->Encode(text, on)) << text;
  }
}

}  // namespace
}  // namespace packrat
