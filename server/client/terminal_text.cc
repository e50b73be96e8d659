#include "server/client/terminal_text.h"

#include <unistd.h>

#include <cstdlib>

#include "absl/strings/str_format.h"
#include "server/standard_output.h"

namespace packrat {

std::string WithoutControls(const std::string& text) {
  std::string shown;
  for (size_t i = 0; i < text.size(); ++i) {
    const unsigned char byte = text[i];
    const unsigned char next = i + 1 < text.size() ? text[i + 1] : 0;
    if (byte == 0xC2 && next >= 0x80 && next < 0xA0) {
      absl::StrAppendFormat(&shown, "\\x%02x", next);
      ++i;
    } else if ((byte < 0x20 && byte != '\n' && byte != '\t') || byte == 0x7F) {
      absl::StrAppendFormat(&shown, "\\x%02x", byte);
    } else {
      shown.push_back(text[i]);
    }
  }
  return shown;
}

bool TakesCommands() {
  const char* terminal = std::getenv("TERM");
  return terminal != nullptr && std::string(terminal) != "dumb";
}

bool WantsColors() {
  const char* refused = std::getenv("NO_COLOR");
  return (refused == nullptr || *refused == '\0') && TakesCommands();
}

void PrintText(const std::string& text) {
  static const bool terminal = isatty(STDOUT_FILENO) != 0;
  Print(terminal ? WithoutControls(text) : text);
}

}  // namespace packrat
