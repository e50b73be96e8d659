#include "models/text/text_normalizer.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>

#include "kernels/check.h"

namespace packrat {
namespace {

int CombiningClass(utf8proc_int32_t character) {
  return utf8proc_get_property(character)->combining_class;
}

constexpr bool IsComposed(UnicodeForm form) {
  return form == UnicodeForm::kNfc || form == UnicodeForm::kNfkc;
}

constexpr bool IsCompatible(UnicodeForm form) {
  return form == UnicodeForm::kNfkc || form == UnicodeForm::kNfkd;
}

// Characters since Unicode 10 that would change or move here. The tables of the `tokenizers`
// library (0.23) are older, and so is what models were trained on: they stay, and nothing passes
// them.
constexpr utf8proc_int32_t kNewer[][2] = {
    {0x7fd, 0x7fd},     {0x898, 0x89f},     {0x8ca, 0x8d3},     {0x9fe, 0x9fe},
    {0xc3c, 0xc3c},     {0xd3b, 0xd3c},     {0xeba, 0xeba},     {0x1715, 0x1715},
    {0x1abf, 0x1ace},   {0x1df6, 0x1dfa},   {0x32ff, 0x32ff},   {0xa7f2, 0xa7f4},
    {0xa82c, 0xa82c},   {0xab69, 0xab69},   {0x10781, 0x10785}, {0x10787, 0x107b0},
    {0x107b2, 0x107ba}, {0x10d24, 0x10d27}, {0x10eab, 0x10eac}, {0x10f46, 0x10f50},
    {0x10f82, 0x10f85}, {0x11070, 0x11070}, {0x1133b, 0x1133b}, {0x1145e, 0x1145e},
    {0x11839, 0x1183a}, {0x11930, 0x11930}, {0x11938, 0x11938}, {0x1193d, 0x1193e},
    {0x11943, 0x11943}, {0x119e0, 0x119e0}, {0x11a34, 0x11a34}, {0x11a47, 0x11a47},
    {0x11a99, 0x11a99}, {0x11d42, 0x11d42}, {0x11d44, 0x11d45}, {0x11d97, 0x11d97},
    {0x16ff0, 0x16ff1}, {0x1e130, 0x1e136}, {0x1e2ae, 0x1e2ae}, {0x1e2ec, 0x1e2ef},
    {0x1f16c, 0x1f16c}, {0x1fbf0, 0x1fbf9}};

bool IsNewer(utf8proc_int32_t character) {
  const auto* range =
      std::upper_bound(std::begin(kNewer), std::end(kNewer), character,
                       [](utf8proc_int32_t c, const auto& row) { return c < row[0]; });
  return range != std::begin(kNewer) && character <= range[-1][1];
}

// Decomposes every character. utf8proc_map() would sort marks in quadratic time.
std::vector<utf8proc_int32_t> Decomposed(const std::string& text, bool compatible) {
  const auto options = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE |
                                                      (compatible ? UTF8PROC_COMPAT : 0));
  std::vector<utf8proc_int32_t> all;
  all.reserve(text.size());
  const auto* next = reinterpret_cast<const utf8proc_uint8_t*>(text.data());
  auto left = static_cast<utf8proc_ssize_t>(text.size());
  while (left > 0) {
    utf8proc_int32_t character = 0;
    const utf8proc_ssize_t bytes = utf8proc_iterate(next, left, &character);
    PACKRAT_CHECK(bytes > 0) << "the text is not UTF-8";
    utf8proc_int32_t parts[32];  // No character has more than 18 (U+FDFA).
    const utf8proc_ssize_t count = utf8proc_decompose_char(character, parts, 32, options, nullptr);
    PACKRAT_CHECK(count >= 0 && count <= 32);
    all.insert(all.end(), parts, parts + count);
    next += bytes;
    left -= bytes;
  }
  return all;
}

void SortMarks(std::vector<utf8proc_int32_t>* characters) {
  const auto by_class = [](utf8proc_int32_t a, utf8proc_int32_t b) {
    return CombiningClass(a) < CombiningClass(b);
  };
  const auto is_mark = [](utf8proc_int32_t c) { return CombiningClass(c) != 0; };
  for (auto at = characters->begin(); at != characters->end();) {
    const auto begin = std::find_if(at, characters->end(), is_mark);
    at = std::find_if_not(begin, characters->end(), is_mark);
    std::stable_sort(begin, at, by_class);
  }
}

}  // namespace

namespace {

std::string NormalizedPart(const std::string& text, UnicodeForm form) {
  // In NFC nothing changes up to U+02FF (CB BF in UTF-8), in the other forms up to U+007F.
  const int first = form == UnicodeForm::kNfc ? 0xcc : 0x80;
  const auto may_change = [first](char c) { return static_cast<unsigned char>(c) >= first; };
  if (std::none_of(text.begin(), text.end(), may_change)) return text;
  std::vector<utf8proc_int32_t> characters = Decomposed(text, IsCompatible(form));
  SortMarks(&characters);
  auto count = static_cast<utf8proc_ssize_t>(characters.size());
  if (IsComposed(form)) {
    count = utf8proc_normalize_utf32(
        characters.data(), count,
        static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  }
  PACKRAT_CHECK(count >= 0);
  std::string composed;
  composed.reserve(text.size());
  for (utf8proc_ssize_t i = 0; i < count; ++i) {
    utf8proc_uint8_t bytes[4];
    const utf8proc_ssize_t size = utf8proc_encode_char(characters[i], bytes);
    composed.append(reinterpret_cast<const char*>(bytes), size);
  }
  return composed;
}

}  // namespace

std::string Normalized(const std::string& text, UnicodeForm form) {
  std::string result;
  size_t done = 0;
  for (size_t at = 0; at < text.size();) {
    if ((text[at] & 0x80) == 0) {
      ++at;
      continue;
    }
    utf8proc_int32_t character = 0;
    const auto* here = reinterpret_cast<const utf8proc_uint8_t*>(text.data()) + at;
    const utf8proc_ssize_t size =
        utf8proc_iterate(here, static_cast<utf8proc_ssize_t>(text.size() - at), &character);
    PACKRAT_CHECK(size > 0) << "the text is not UTF-8";
    if (IsNewer(character)) {
      result += NormalizedPart(text.substr(done, at - done), form);
      result.append(text, at, size);
      done = at + size;
    }
    at += size;
  }
  return result + NormalizedPart(text.substr(done), form);
}

std::string ReplaceAll(const std::string& text, const std::string& from, const std::string& to) {
  std::string replaced;
  size_t done = 0;
  for (size_t at = text.find(from); at != std::string::npos; at = text.find(from, done)) {
    replaced.append(text, done, at - done);
    replaced += to;
    done = at + from.size();
  }
  return replaced.append(text, done, std::string::npos);
}

namespace {

char LowestMark(const std::string& marks, size_t begin, size_t size) {
  return *std::min_element(marks.begin() + static_cast<std::ptrdiff_t>(begin),
                           marks.begin() + static_cast<std::ptrdiff_t>(begin + size));
}

// In pieces that begin at ASCII characters, which compose with nothing before them. So a mark
// reaches no further than the marks and letters behind its own character.
std::string MarkedForm(const std::string& text, UnicodeForm form, std::string* marks) {
  std::string composed, composed_marks;
  for (size_t begin = 0, end = 0; begin < text.size(); begin = end) {
    end = begin + 1;
    while (end < text.size() && (text[end] & 0x80) != 0) ++end;
    const std::string part = text.substr(begin, end - begin);
    const std::string made = Normalized(part, form);
    composed += made;
    if (made == part) {
      composed_marks.append(*marks, begin, end - begin);
    } else {
      composed_marks.append(made.size(), LowestMark(*marks, begin, end - begin));
    }
  }
  *marks = composed_marks;
  return composed;
}

std::string MarkedReplaceAll(const std::string& text, const std::string& from,
                             const std::string& to, std::string* marks) {
  std::string replaced, replaced_marks;
  size_t done = 0;
  for (size_t at = text.find(from); at != std::string::npos; at = text.find(from, done)) {
    replaced.append(text, done, at - done).append(to);
    replaced_marks.append(*marks, done, at - done)
        .append(to.size(), LowestMark(*marks, at, from.size()));
    done = at + from.size();
  }
  replaced_marks.append(*marks, done, std::string::npos);
  *marks = replaced_marks;
  return replaced.append(text, done, std::string::npos);
}

}  // namespace

std::string TextNormalizer::Apply(std::string text, bool prepend, std::string* marks) const {
  if (text.empty()) return text;
  for (const Step& step : steps_) {
    switch (step.kind) {
      case Kind::kForm:
        text = marks == nullptr ? Normalized(text, step.form) : MarkedForm(text, step.form, marks);
        break;
      case Kind::kPrepend:
        if (prepend && marks != nullptr) marks->insert(0, step.to.size(), 0);
        if (prepend) text.insert(0, step.to);
        break;
      case Kind::kReplace:
        text = marks == nullptr ? ReplaceAll(text, step.from, step.to)
                                : MarkedReplaceAll(text, step.from, step.to, marks);
        break;
    }
  }
  return text;
}

}  // namespace packrat
