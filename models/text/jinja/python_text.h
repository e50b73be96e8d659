// What Python does with strings: by characters, with Unicode's white space and letters.
#ifndef PACKRAT_MODELS_TEXT_JINJA_PYTHON_TEXT_H_
#define PACKRAT_MODELS_TEXT_JINJA_PYTHON_TEXT_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "models/text/marked_text.h"

namespace packrat::jinja {

// The character at text[*at], which is moved behind it. Bytes that are no UTF-8 count one by one.
int32_t NextCharacter(absl::string_view text, size_t* at);
void AppendCharacter(int32_t character, std::string* out);
size_t CountCharacters(absl::string_view text);
// Where each character begins, and the text's size at the end.
std::vector<size_t> CharacterStarts(absl::string_view text);

bool IsSpace(int32_t character);  // str.isspace()
bool IsLetter(int32_t character);
bool IsPrintable(int32_t character);  // As repr() shows it.

enum class Case { kLower, kUpper, kTitle, kCapitalize };
MarkedText ChangeCase(const MarkedText& text, Case to);

// str.strip() and its sisters. `characters` null: white space.
MarkedText Strip(const MarkedText& text, const std::string* characters, bool left, bool right);
// At most `count` times; -1: all.
MarkedText Replace(const MarkedText& text, const std::string& from, const MarkedText& to,
                   int64_t count);
// str.split(). `separator` null: at white space.
std::vector<MarkedText> Split(const MarkedText& text, const std::string* separator, int64_t most);
std::vector<MarkedText> SplitFromRight(const MarkedText& text, const std::string& separator,
                                       int64_t most);
std::vector<MarkedText> SplitLines(const MarkedText& text, bool keep_ends);

std::string FloatText(double value);  // repr(value): the shortest that reads as the same.

}  // namespace packrat::jinja

#endif  // PACKRAT_MODELS_TEXT_JINJA_PYTHON_TEXT_H_
