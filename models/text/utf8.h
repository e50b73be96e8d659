// UTF-8, one character at a time.
#ifndef PACKRAT_MODELS_TEXT_UTF8_H_
#define PACKRAT_MODELS_TEXT_UTF8_H_

#include <cstddef>
#include <string>

namespace packrat {

// Length of the character that text[0, size) begins with: 1 to 4. 0 if the text ends inside a
// character that could still become valid, or if size is 0. -k if the first k bytes belong to no
// character. They are the "maximal subpart" of the Unicode Standard, which other software also
// replaces by one U+FFFD. Surrogates, overlong forms and anything above U+10FFFF are invalid.
inline int Utf8Length(const char* text, size_t size) {
  if (size == 0) return 0;
  const auto byte = [text](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(0);
  if (lead < 0x80) return 1;
  if (lead < 0xc2 || lead > 0xf4) return -1;
  const int length = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
  for (int i = 1; i < length; ++i) {
    if (static_cast<size_t>(i) == size) return 0;
    unsigned char low = 0x80, high = 0xbf;
    if (i == 1) {  // The second byte decides overlong forms, surrogates and the upper end.
      if (lead == 0xe0) low = 0xa0;
      if (lead == 0xed) high = 0x9f;
      if (lead == 0xf0) low = 0x90;
      if (lead == 0xf4) high = 0x8f;
    }
    if (byte(i) < low || byte(i) > high) return -i;
  }
  return length;
}

// Position of the first byte that is not valid UTF-8, or the text's size if all of it is valid.
inline size_t FirstInvalidUtf8(const std::string& text) {
  size_t at = 0;
  while (at < text.size()) {
    const int length = Utf8Length(text.data() + at, text.size() - at);
    if (length <= 0) break;
    at += length;
  }
  return at;
}

}  // namespace packrat

#endif  // PACKRAT_MODELS_TEXT_UTF8_H_
