// What a terminal is sent. A model's text is not to be trusted: whoever writes into its prompt may
// have put it there.
#ifndef PACKRAT_SERVER_CLIENT_TERMINAL_TEXT_H_
#define PACKRAT_SERVER_CLIENT_TERMINAL_TEXT_H_

#include <string>

namespace packrat {

// `text` (UTF-8) with \x1b and the like in the place of every character that commands a terminal,
// which may set its title or write its clipboard: U+0000 to U+001F but for tabs and line breaks,
// and U+007F to U+009F.
std::string WithoutControls(const std::string& text);

// Whether the terminal, by its TERM, is commanded by escape sequences.
bool TakesCommands();

// Whether a terminal may be sent colours; see https://no-color.org.
bool WantsColors();

// Writes a text to standard output; where that is a terminal, without controls.
void PrintText(const std::string& text);

}  // namespace packrat

#endif  // PACKRAT_SERVER_CLIENT_TERMINAL_TEXT_H_
