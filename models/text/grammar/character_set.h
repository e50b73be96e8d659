// Sets of characters, and their UTF-8 as ranges of bytes.
#ifndef PACKRAT_MODELS_TEXT_GRAMMAR_CHARACTER_SET_H_
#define PACKRAT_MODELS_TEXT_GRAMMAR_CHARACTER_SET_H_

#include <cstdint>
#include <string>
#include <vector>

namespace packrat {

// Both ends belong to it.
struct CharacterRange {
  uint32_t first, last;
};
bool operator==(const CharacterRange& a, const CharacterRange& b);

// Ascending, apart from each other, of Unicode scalar values: no surrogates, nothing above
// U+10FFFF. The functions below return such sets.
using CharacterSet = std::vector<CharacterRange>;

inline constexpr uint32_t kLastCharacter = 0x10ffff;

// Of ranges in any order, which may overlap and hold surrogates.
CharacterSet MakeCharacterSet(std::vector<CharacterRange> ranges);
CharacterSet AllCharacters();
CharacterSet Complement(const CharacterSet& set);
CharacterSet Intersection(const CharacterSet& a, const CharacterSet& b);
bool Contains(const CharacterSet& set, uint32_t character);

// One to four ranges of bytes, one after the other.
struct ByteRange {
  uint8_t first, last;
};
using ByteRanges = std::vector<ByteRange>;

// Appends what the UTF-8 of `range` is: each character is in exactly one of them.
void AppendUtf8(CharacterRange range, std::vector<ByteRanges>* out);
void AppendUtf8(uint32_t character, std::string* out);

}  // namespace packrat

#endif  // PACKRAT_MODELS_TEXT_GRAMMAR_CHARACTER_SET_H_
