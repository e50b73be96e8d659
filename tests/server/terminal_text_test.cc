#include "server/client/terminal_text.h"

#include <gtest/gtest.h>

namespace packrat {
namespace {

TEST(TerminalTextTest, ControlsAreShownAsText) {
  EXPECT_EQ(WithoutControls("\x1b]52;c;YQ==\x07"), "\\x1b]52;c;YQ==\\x07");
  EXPECT_EQ(WithoutControls("a\rb\x7f" + std::string(1, '\0')), "a\\x0db\\x7f\\x00");
  EXPECT_EQ(WithoutControls("\u0080\u009b2J\u009f"), "\\x80\\x9b2J\\x9f");
}

TEST(TerminalTextTest, OtherCharactersStay) {
  for (const char* text : {"", "a\tb\nc ~", "\u00a0\u00e9\u4e16\U0001f400", "\xc2"}) {
    EXPECT_EQ(WithoutControls(text), text);
  }
}

}  // namespace
}  // namespace packrat
