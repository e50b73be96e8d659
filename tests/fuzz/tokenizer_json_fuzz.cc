// Any bytes as a tokenizer.json: refused with a message, or a tokenizer whose ids are in range and
// which makes no special token of plain text.
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "kernels/check.h"
#include "models/files/json.h"
#include "models/text/bpe.h"

namespace packrat {
namespace {

constexpr int kVocab = 4096;

// `may_be_unknown`: what is unknown has a token, which may be special.
void CheckTokenizer(const TokenizerVocabulary& vocabulary, bool may_be_unknown) {
  PACKRAT_CHECK(vocabulary.size() > 0 && vocabulary.size() <= kVocab);
  PACKRAT_CHECK(vocabulary.bos_id() >= -1 && vocabulary.bos_id() < vocabulary.size());
  for (const char* text :
       {"", "a", " It's  12345\r\n\n\t x", "<|endoftext|> <s></s>",
        "\xc3\xa9\xe4\xbd\xa0\xf0\x9f\x98\x80\xe2\x80\xa8 \xc2\xa0",
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        " <think> \t\n u\xcc\x88"
        "ber<|eot_id|>more  \xef\xac\x81.1234--",
        "\xef\xb7\xba\xe3\x80\x80\xe2\x96\x81\xe2\x96\x81 \xe2\x92\xb6<think>x"}) {
    // Every second byte is the template's.
    std::string marks(std::string(text).size(), MarkedText::kOwn);
    for (size_t i = 0; i < marks.size(); i += 2) marks[i] = MarkedText::kForeign;
    std::vector<int32_t> marked;
    if (vocabulary.Encode(text, TextPlace::kBegin, SpecialPlaces(&marks), &marked).ok()) {
      for (int32_t id : marked) {
        PACKRAT_CHECK(id >= 0 && id < vocabulary.size());
        vocabulary.Text(id);
      }
    }
    for (bool parse_special : {false, true}) {
      std::vector<int32_t> ids;
      const SpecialPlaces special =
          parse_special ? SpecialPlaces::Everywhere() : SpecialPlaces::Nowhere();
      if (!vocabulary.Encode(text, TextPlace::kBegin, special, &ids).ok())
        continue;  // The pattern took too long.
      for (int32_t id : ids) {
        PACKRAT_CHECK(id >= 0 && id < vocabulary.size());
        PACKRAT_CHECK(parse_special || may_be_unknown || !vocabulary.IsSpecial(id));
      }
    }
  }
}

}  // namespace
}  // namespace packrat

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string json(reinterpret_cast<const char*>(data), size);
  const auto parsed = packrat::ParseJson(json.data(), json.size(), "tokenizer.json");
  const auto vocabulary = parsed.ok()
                              ? packrat::Bpe::Load(*parsed, "tokenizer.json", {}, packrat::kVocab)
                              : parsed.status();
  if (vocabulary.ok()) {
    packrat::CheckTokenizer(**vocabulary, json.find("unk_token") != json.npos);
  } else {
    PACKRAT_CHECK(vocabulary.status().message().size() > std::string("tokenizer.json: ").size());
    PACKRAT_CHECK(vocabulary.status().message().size() < 4096);  // Not the input, repeated.
  }
  return 0;
}
