#include "models/text/grammar/text_reader.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "models/text/grammar/grammar_rules.h"
#include "models/text/utf8.h"

namespace packrat {

absl::Status CheckGrammarText(absl::string_view text) {
  if (text.empty()) return absl::InvalidArgumentError("it is empty");
  if (text.size() > kMaxGrammarBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("it has ", text.size(), " bytes; at most ", kMaxGrammarBytes));
  }
  const size_t valid = FirstInvalidUtf8(std::string(text));
  if (valid == text.size()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("it is not UTF-8 at byte ", valid));
}

bool TextReader::Skip(absl::string_view expected) {
  if (!absl::StartsWith(text_.substr(at_), expected)) return false;
  at_ += expected.size();
  return true;
}

uint32_t TextReader::Character() {
  const auto lead = static_cast<unsigned char>(text_[at_++]);
  if (lead < 0x80) return lead;
  const int following = lead < 0xe0 ? 1 : lead < 0xf0 ? 2 : 3;
  uint32_t character = lead & (0x3f >> following);
  for (int i = 0; i < following; ++i) {
    character = character << 6 | (static_cast<unsigned char>(text_[at_++]) & 0x3f);
  }
  return character;
}

int64_t TextReader::Hex(int digits) {
  int64_t value = 0;
  for (int i = 0; i < digits; ++i) {
    const char c = absl::ascii_tolower(Peek(i));
    if (!absl::ascii_isxdigit(c)) return -1;
    value = value * 16 + (c <= '9' ? c - '0' : c - 'a' + 10);
  }
  at_ += digits;
  return value;
}

int64_t TextReader::Number() {
  if (!absl::ascii_isdigit(Peek())) return -1;
  int64_t value = 0;
  for (; absl::ascii_isdigit(Peek()); ++at_) {
    value = std::min<int64_t>(1000000000, value * 10 + (Peek() - '0'));
  }
  return value;
}

absl::Status TextReader::ErrorAt(size_t at, absl::string_view why) const {
  const absl::string_view before = text_.substr(0, at);
  const auto line = std::count(before.begin(), before.end(), '\n');
  if (line == 0) return absl::InvalidArgumentError(absl::StrCat("at byte ", at, ": ", why));
  return absl::InvalidArgumentError(
      absl::StrCat("in line ", line + 1, ", byte ", at - before.rfind('\n') - 1, ": ", why));
}

absl::StatusOr<RepeatCounts> ReadRepeat(TextReader* reader, bool spaces) {
  const size_t begin = reader->at();
  const auto skip = [&] {
    while (spaces && (reader->Skip(" ") || reader->Skip("\t"))) {
    }
  };
  RepeatCounts counts{};
  skip();
  counts.min = counts.max = reader->Number();
  skip();
  if (counts.min >= 0 && reader->Skip(",")) {
    skip();
    counts.max = reader->Number();
    skip();
  }
  if (counts.min < 0 || !reader->Skip("}")) {
    return reader->Error("a repeat is {m}, {m,} or {m,n}");
  }
  if (std::max(counts.min, counts.max) > kMaxRepeat) {
    return reader->ErrorAt(begin, absl::StrCat("a repeat counts to ", kMaxRepeat, " at most"));
  }
  if (counts.max >= 0 && counts.max < counts.min) {
    return reader->ErrorAt(begin, "a repeat's second number is less than its first");
  }
  return counts;
}

}  // namespace packrat
