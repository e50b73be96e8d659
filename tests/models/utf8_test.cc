#include "models/text/utf8.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <string>

namespace packrat {
namespace {

TEST(Utf8, EveryCodePoint) {
  for (uint32_t c = 0; c < 0x110000; ++c) {
    std::string text;
    if (c < 0x80) {
      text = {static_cast<char>(c)};
    } else if (c < 0x800) {
      text = {static_cast<char>(0xc0 | c >> 6), static_cast<char>(0x80 | (c & 63))};
    } else if (c < 0x10000) {
      text = {static_cast<char>(0xe0 | c >> 12), static_cast<char>(0x80 | (c >> 6 & 63)),
              static_cast<char>(0x80 | (c & 63))};
    } else {
      text = {static_cast<char>(0xf0 | c >> 18), static_cast<char>(0x80 | (c >> 12 & 63)),
              static_cast<char>(0x80 | (c >> 6 & 63)), static_cast<char>(0x80 | (c & 63))};
    }
    const bool surrogate = c >= 0xd800 && c < 0xe000;
    ASSERT_EQ(Utf8Length(text.data(), text.size()), surrogate ? -1 : static_cast<int>(text.size()))
        << c;
    for (size_t part = 1; part < text.size() && !surrogate; ++part) {
      ASSERT_EQ(Utf8Length(text.data(), part), 0) << c;
    }
  }
}

}  // namespace
}  // namespace packrat
