#include "models/text/characters.h"

#include <utf8proc.h>

#include "kernels/check.h"

namespace packrat {
namespace {

utf8proc_int32_t CharacterAt(const std::string& text, size_t at, size_t* size) {
  utf8proc_int32_t character = 0;
  const utf8proc_ssize_t bytes =
      utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data()) + at,
                       static_cast<utf8proc_ssize_t>(text.size() - at), &character);
  PACKRAT_CHECK(bytes > 0) << "the text is not UTF-8";
  *size = static_cast<size_t>(bytes);
  return character;
}

// `at` > 0.
size_t PreviousCharacter(const std::string& text, size_t at) {
  do --at;
  while (at > 0 && (text[at] & 0xc0) == 0x80);
  return at;
}

// White_Space, which will not change.
bool IsSpace(utf8proc_int32_t c) {
  return (c >= 0x09 && c <= 0x0d) || c == 0x20 || c == 0x85 || c == 0xa0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f ||
         c == 0x3000;
}

bool IsOfWord(utf8proc_int32_t c) {
  switch (utf8proc_category(c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
      return true;
    case UTF8PROC_CATEGORY_CF:
      return c == 0x200c || c == 0x200d;  // What joins letters.
    case UTF8PROC_CATEGORY_SO:            // Letters in circles and squares are alphabetic.
      return (c >= 0x24b6 && c <= 0x24e9) || (c >= 0x1f130 && c <= 0x1f149) ||
             (c >= 0x1f150 && c <= 0x1f169) || (c >= 0x1f170 && c <= 0x1f189);
    default:
      return false;
  }
}

}  // namespace

size_t SpaceBegin(const std::string& text, size_t floor, size_t at) {
  while (at > floor) {
    size_t size = 0;
    const size_t previous = PreviousCharacter(text, at);
    if (!IsSpace(CharacterAt(text, previous, &size))) break;
    at = previous;
  }
  return at;
}

size_t SpaceEnd(const std::string& text, size_t at) {
  size_t size = 0;
  while (at < text.size() && IsSpace(CharacterAt(text, at, &size))) at += size;
  return at;
}

bool IsWholeWord(const std::string& text, size_t begin, size_t end) {
  size_t size = 0;
  return (begin == 0 || !IsOfWord(CharacterAt(text, PreviousCharacter(text, begin), &size))) &&
         (end == text.size() || !IsOfWord(CharacterAt(text, end, &size)));
}

}  // namespace packrat
