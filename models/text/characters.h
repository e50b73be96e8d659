// Kinds of characters, as Unicode names them.
#ifndef PACKRAT_MODELS_TEXT_CHARACTERS_H_
#define PACKRAT_MODELS_TEXT_CHARACTERS_H_

#include <cstddef>
#include <string>

namespace packrat {

// Of text, which is valid UTF-8. All positions are between characters.

// Where the white space that ends at `at` begins; not before `floor`.
size_t SpaceBegin(const std::string& text, size_t floor, size_t at);
// Where the white space that begins at `at` ends.
size_t SpaceEnd(const std::string& text, size_t at);

// Whether neither what stands before `begin` nor what stands at `end` belongs to a word, as \w of
// Unicode's regular expressions has it: letters, marks, digits, and what joins them.
bool IsWholeWord(const std::string& text, size_t begin, size_t end);

}  // namespace packrat

#endif  // PACKRAT_MODELS_TEXT_CHARACTERS_H_
