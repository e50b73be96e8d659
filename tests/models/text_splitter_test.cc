// The patterns by which a tokenizer.json cuts text into words.
#include "models/text/text_splitter.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace packrat {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
constexpr auto kIsolated = TextSplitter::Behavior::kIsolated;

TEST(Pattern, WhatIsAccepted) {
  for (const char* pattern :
       {"a", "[^a-z]+", R"(\p{L}|\P{Nd}{2}|\s{2,}|\S{1,3})", "(a|b)?c", "(?:ab)", "(?=a)b",
        "(?<!a)b++", "a+?", R"(\u4e00)", R"([\\\]\[-]x)"}) {
    EXPECT_TRUE(TextSplitter::Create(pattern, kIsolated, false).ok()) << pattern;
  }
  EXPECT_EQ(*TranslatePattern(R"([^\s\p{L}\u4e00] ?\S)"),
            R"([^\p{White_Space}\p{L}\x{4e00}] ?\P{White_Space})");
}

TEST(Pattern, WhatIsRefused) {
  for (const char* pattern :
       {"",        "a*",         "a?",      "(a)*",    "(?:a)+", "(a){2}",      "a**",
        "a{2}{3}", "a{2}?",      "a{,2}",   "a{",      "a{x}",   "(",           ")",
        "(a",      "[",          "[]",      "[a",      "[a[b]]", "[[:alpha:]]", "[a&&b]",
        "^a",      "a$",         ".",       "]",       "}",      "(?>a)",       "(?P<n>a)",
        "(?#c)",   "(*ACCEPT)a", "(?-i:a)", R"(\w)",   R"(\b)",  R"(\1)",       R"(\Qa)",
        R"(\R)",   R"(\X)",      R"(\C)",   R"(\K)",   R"(\pL)", R"(\p{Han})",  R"(\p{^L})",
        R"(\p{})", R"(\p{L)",    R"(\u12)", R"(\x41)", "\\",     "(?<=a+)b",    "[z-a]"}) {
    EXPECT_FALSE(TextSplitter::Create(pattern, kIsolated, false).ok()) << pattern;
  }
  EXPECT_FALSE(TextSplitter::Create(std::string(5000, 'a'), kIsolated, false).ok());
}

std::vector<std::string> Split(const std::string& pattern, TextSplitter::Behavior behavior,
                               bool invert, const std::string& text) {
  std::vector<std::string> pieces;
  const auto splitter = TextSplitter::Create(pattern, behavior, invert);
  EXPECT_TRUE(splitter.ok()) << splitter.status();
  EXPECT_TRUE((*splitter)
                  ->Split(text.data(), text.size(),
                          [&](size_t begin, size_t end) {
                            pieces.push_back(text.substr(begin, end - begin));
                            return absl::OkStatus();
                          })
                  .ok());
  return pieces;
}

// The library's own documentation has the first five; the rest follow from its rule.
TEST(Split, WhatBecomesOfAMatch) {
  using B = TextSplitter::Behavior;
  const std::string text = "the-final--countdown";
  EXPECT_THAT(Split("-", B::kRemoved, false, text), ElementsAre("the", "final", "countdown"));
  EXPECT_THAT(Split("-", B::kIsolated, false, text),
              ElementsAre("the", "-", "final", "-", "-", "countdown"));
  EXPECT_THAT(Split("-", B::kMergedWithPrevious, false, text),
              ElementsAre("the-", "final-", "-", "countdown"));
  EXPECT_THAT(Split("-", B::kMergedWithNext, false, text),
              ElementsAre("the", "-final", "-", "-countdown"));
  EXPECT_THAT(Split("-", B::kContiguous, false, text),
              ElementsAre("the", "-", "final", "--", "countdown"));
  EXPECT_THAT(Split("-", B::kRemoved, true, text), ElementsAre("-", "-", "-"));
  EXPECT_THAT(Split("-", B::kMergedWithPrevious, true, text),
              ElementsAre("the", "-final", "-", "-countdown"));
  EXPECT_THAT(Split("-", B::kMergedWithNext, true, text),
              ElementsAre("the-", "final-", "-", "countdown"));
  for (auto behavior : {B::kIsolated, B::kContiguous, B::kMergedWithNext, B::kMergedWithPrevious}) {
    EXPECT_THAT(Split("-", behavior, false, "-"), ElementsAre("-"));
    EXPECT_THAT(Split("-", behavior, true, "a"), ElementsAre("a"));
    EXPECT_THAT(Split("-", behavior, false, ""), ElementsAre());
  }
}

TEST(Split, ATextAsAPattern) {
  EXPECT_EQ(PatternOfText("a.b [\u00e9"), "a\\.b \\[\u00e9");
  EXPECT_THAT(Split(PatternOfText("(.)"), kIsolated, false, "a(b)(.)"), ElementsAre("a(b)", "(.)"));
}

// What no rule about groups forbids, but takes the fourth power of the text's length.
TEST(Pattern, ASearchGivesUp) {
  auto splitter = TextSplitter::Create("a+a+a+a+a+[bc]", kIsolated, false);
  ASSERT_TRUE(splitter.ok()) << splitter.status();
  const std::string text(3000, 'a');
  const absl::Status status =
      (*splitter)->Split(text.data(), text.size(), [](size_t, size_t) { return absl::OkStatus(); });
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("cannot be cut into words"));
}

}  // namespace
}  // namespace packrat
