#include "models/text/jinja/python_text.h"

#include <utf8proc.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "models/text/utf8.h"

namespace packrat::jinja {

int32_t NextCharacter(absl::string_view text, size_t* at) {
  const int length = Utf8Length(text.data() + *at, text.size() - *at);
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[*at + i]); };
  int32_t character = byte(0);
  if (length > 1) {
    character &= 0xff >> (length + 1);
    for (int i = 1; i < length; ++i) character = character << 6 | (byte(i) & 0x3f);
  }
  *at += std::max(length, 1);
  return character;
}

void AppendCharacter(int32_t character, std::string* out) {
  const auto byte = [out](int32_t value) { out->push_back(static_cast<char>(value)); };
  if (character < 0x80) return byte(character);
  if (character < 0x800) {
    byte(0xc0 | character >> 6);
  } else {
    if (character < 0x10000) {
      byte(0xe0 | character >> 12);
    } else {
      byte(0xf0 | character >> 18);
      byte(0x80 | (character >> 12 & 0x3f));
    }
    byte(0x80 | (character >> 6 & 0x3f));
  }
  byte(0x80 | (character & 0x3f));
}

size_t CountCharacters(absl::string_view text) {
  size_t count = 0;
  for (size_t at = 0; at < text.size(); ++count) NextCharacter(text, &at);
  return count;
}

std::vector<size_t> CharacterStarts(absl::string_view text) {
  std::vector<size_t> starts;
  for (size_t at = 0; at < text.size(); NextCharacter(text, &at)) starts.push_back(at);
  starts.push_back(text.size());
  return starts;
}

bool IsSpace(int32_t c) {
  if (c < 0x80) return c == ' ' || (c >= 9 && c <= 13) || (c >= 0x1c && c <= 0x1f);
  return c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 ||
         c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

bool IsLetter(int32_t character) {
  const utf8proc_category_t category = utf8proc_category(character);
  return category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO;
}

bool IsPrintable(int32_t c) {
  if (c < 0x80) return c >= 0x20 && c < 0x7f;
  const utf8proc_category_t category = utf8proc_category(c);
  return category != UTF8PROC_CATEGORY_CN &&
         (category < UTF8PROC_CATEGORY_ZS || category > UTF8PROC_CATEGORY_CO);
}

namespace {

// A letter that has an upper and a lower form.
bool IsCased(int32_t character) {
  const utf8proc_category_t category = utf8proc_category(character);
  return category == UTF8PROC_CATEGORY_LU || category == UTF8PROC_CATEGORY_LL ||
         category == UTF8PROC_CATEGORY_LT;
}

}  // namespace

MarkedText ChangeCase(const MarkedText& text, Case to) {
  MarkedText out;
  bool inside = false;  // Of a word, or of the text for kCapitalize.
  std::string changed;
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    const int32_t c = NextCharacter(text.text(), &at);
    const bool lower = to == Case::kLower || inside;
    const int32_t now = lower                ? utf8proc_tolower(c)
                        : to == Case::kUpper ? utf8proc_toupper(c)
                                             : utf8proc_totitle(c);
    constexpr int32_t kSharpS = 0xdf;  // The one letter in use whose upper form is two.
    if (c == kSharpS && !lower) {
      out.AppendAs(to == Case::kUpper ? "SS" : "Ss", text, begin);
    } else if (now == c) {
      out.Append(text, begin, at - begin);
    } else {
      changed.clear();
      AppendCharacter(now, &changed);
      out.AppendAs(changed, text, begin);
    }
    if (to == Case::kTitle) inside = IsCased(c);
    if (to == Case::kCapitalize) inside = true;
  }
  return out;
}

MarkedText Strip(const MarkedText& text, const std::string* characters, bool left, bool right) {
  const auto goes = [&](absl::string_view character) {
    size_t at = 0;
    if (characters == nullptr) return IsSpace(NextCharacter(character, &at));
    return characters->find(std::string(character)) != characters->npos;
  };
  const absl::string_view all = text.text();
  size_t begin = 0, end = all.size();
  while (left && begin < end) {
    size_t next = begin;
    NextCharacter(all, &next);
    if (!goes(all.substr(begin, next - begin))) break;
    begin = next;
  }
  while (right && begin < end) {
    size_t last = end - 1;
    while (last > begin && (static_cast<unsigned char>(all[last]) & 0xc0) == 0x80) --last;
    if (!goes(all.substr(last, end - last))) break;
    end = last;
  }
  return text.Part(begin, end - begin);
}

MarkedText Replace(const MarkedText& text, const std::string& from, const MarkedText& to,
                   int64_t count) {
  MarkedText out;
  size_t done = 0;
  if (from.empty()) {  // Before every character, and at the end.
    for (size_t start : CharacterStarts(text.text())) {
      if (count-- == 0) break;
      out.Append(text, done, start - done);
      out.Append(to);
      done = start;
    }
  } else {
    for (size_t at; count-- != 0 && (at = text.text().find(from, done)) != std::string::npos;) {
      out.Append(text, done, at - done);
      out.Append(to);
      done = at + from.size();
    }
  }
  out.Append(text, done, text.size() - done);
  return out;
}

std::vector<MarkedText> Split(const MarkedText& text, const std::string* separator, int64_t most) {
  std::vector<MarkedText> parts;
  const std::string& all = text.text();
  size_t begin = 0;
  if (separator != nullptr) {
    for (size_t at; most-- != 0 && (at = all.find(*separator, begin)) != all.npos;) {
      parts.push_back(text.Part(begin, at - begin));
      begin = at + separator->size();
    }
    parts.push_back(text.Part(begin, all.size() - begin));
    return parts;
  }
  while (true) {
    size_t next = begin;
    while (next < all.size()) {  // Skips white space.
      const size_t at = next;
      if (!IsSpace(NextCharacter(all, &next))) {
        next = at;
        break;
      }
    }
    begin = next;
    if (begin == all.size()) return parts;
    if (most-- == 0) {
      parts.push_back(text.Part(begin, all.size() - begin));
      return parts;
    }
    size_t end = begin;
    while (next < all.size()) {
      end = next;
      if (IsSpace(NextCharacter(all, &next))) break;
      end = next;
    }
    parts.push_back(text.Part(begin, end - begin));
    begin = end;
  }
}

std::vector<MarkedText> SplitFromRight(const MarkedText& text, const std::string& separator,
                                       int64_t most) {
  std::vector<MarkedText> parts;
  size_t end = text.size();
  while (most-- != 0 && end >= separator.size()) {
    const size_t at = text.text().rfind(separator, end - separator.size());
    if (at == std::string::npos) break;
    parts.push_back(text.Part(at + separator.size(), end - at - separator.size()));
    end = at;
  }
  parts.push_back(text.Part(0, end));
  std::reverse(parts.begin(), parts.end());
  return parts;
}

std::vector<MarkedText> SplitLines(const MarkedText& text, bool keep_ends) {
  std::vector<MarkedText> lines;
  const std::string& all = text.text();
  for (size_t begin = 0; begin < all.size();) {
    size_t end = begin, next = begin;
    while (next < all.size()) {
      end = next;
      const int32_t c = NextCharacter(all, &next);
      if ((c >= 10 && c <= 13) || (c >= 0x1c && c <= 0x1e) || c == 0x85 || c == 0x2028 ||
          c == 0x2029) {
        if (c == '\r' && next < all.size() && all[next] == '\n') ++next;
        break;
      }
      end = next;
    }
    lines.push_back(text.Part(begin, (keep_ends ? next : end) - begin));
    begin = next;
  }
  return lines;
}

std::string FloatText(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  char buffer[64];
  // Python writes an exponent below 1e-4 and from 1e16 on.
  const double size = std::abs(value);
  const bool exponent = size != 0 && (size < 1e-4 || size >= 1e16);
  const auto format = exponent ? std::chars_format::scientific : std::chars_format::fixed;
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, value, format).ptr;
  std::string text(buffer, end);
  if (!exponent && text.find('.') == text.npos) text += ".0";
  return text;
}

}  // namespace packrat::jinja
