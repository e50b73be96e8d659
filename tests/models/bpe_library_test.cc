// tokenizer.json against what the library that writes such files makes of the same texts;
// tests/data/tokenizer_json/expect.py tells what is compared.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <map>
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

// Those of expect.py, as what follows.
class Numbers {
 public:
  explicit Numbers(uint64_t state) : state_(state) { (*this)(2); }
  size_t operator()(size_t n) {
    state_ = state_ * 6364136223846793005 + 1442695040888963407;
    return (state_ >> 33) % n;
  }

 private:
  uint64_t state_;
};

std::string Generated(int line, const std::vector<std::string>& parts) {
  Numbers below(line);
  std::string text;
  for (uint64_t left = 1 + below(24); left > 0; --left) text += parts[below(parts.size())];
  return text;
}

// With so many tokens: each further one is two of those before. What was added comes after them.
void Enlarge(int size, Json* json) {
  Json &vocab = (*json)["model"]["vocab"], &merges = (*json)["model"]["merges"];
  std::map<int, std::string> by_id;
  int next = 0;
  for (const auto& [name, id] : vocab.items()) {
    next = std::max(next, id.get<int>() + 1);
    if (name[0] != '<') by_id[id] = name;
  }
  std::vector<Json*> added;
  for (Json& token : (*json)["added_tokens"]) {
    if (token["id"] >= next) added.push_back(&token);
  }
  std::vector<std::string> names;
  for (const auto& [id, name] : by_id) names.push_back(name);
  Numbers below(size);
  const auto pick = [&] {
    const size_t most = below(4) == 0 ? names.size() : std::min<size_t>(names.size(), 3000);
    return names[below(most)];
  };
  while (next < size - static_cast<int>(added.size())) {
    const std::string first = pick(), second = pick(), name = first + second;
    if (name.size() > 24 || vocab.contains(name)) continue;
    vocab[name] = next++;
    merges.push_back({first, second});
    names.push_back(name);
  }
  for (Json* token : added) (*token)["id"] = next++;
  (*json)["post_processor"] = nullptr;  // It names ids of before.
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

// As large as published ones, of four kinds.
TEST(LibraryCases, VocabulariesOfPublishedSizes) {
  const Json expected = ReadJson("expected.json");
  std::vector<std::string> texts = expected["texts"];
  const std::vector<std::string> parts = expected["parts"];
  for (int i = 0; i < 2000; ++i) texts.push_back(Generated(i, parts));
  ASSERT_EQ(expected["large"].size(), 4u);
  for (const Json& test : expected["large"]) {
    const int size = test["size"];
    Json json = ReadJson(test["tokenizer"].get<std::string>() + ".json").patch(test["patch"]);
    Enlarge(size, &json);
    const auto tokenizer = LoadJson(json, "", size);
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    std::vector<int32_t> hashes;
    int largest = 0;
    for (const std::string& text : texts) {
      const auto ids = Encode(**tokenizer, text);
      for (const int32_t id : ids) largest = std::max(largest, id);
      hashes.push_back(static_cast<int32_t>(Fnv(ids)));
    }
    EXPECT_GT(largest, size / 2);  // Texts have tokens of all that were added.
    EXPECT_EQ(Fnv(hashes), std::stoull(test["hash"].get<std::string>(), nullptr, 16)) << size;
  }
}

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
