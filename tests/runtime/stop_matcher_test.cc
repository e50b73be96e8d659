#include "runtime/stop_matcher.h"

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace packrat {
namespace {

struct Outcome {
  bool stopped;
  std::string shown;  // All that was safe, at the end.
};

Outcome Feed(const std::vector<std::string>& stops, const std::vector<std::string>& pieces) {
  StopMatcher matcher(stops);
  std::string text;
  size_t last = 0;
  for (const std::string& piece : pieces) {
    text += piece;
    const bool stopped = matcher.Push(piece.data(), piece.size(), false);
    EXPECT_GE(matcher.safe_bytes(), last);
    last = matcher.safe_bytes();
    if (stopped) return {true, text.substr(0, last)};
  }
  return {false, text.substr(0, last)};
}

TEST(StopMatcher, FindsAStringAcrossPieces) {
  const Outcome outcome = Feed({"STOP"}, {"some text S", "T", "OP", " more"});
  EXPECT_TRUE(outcome.stopped);
  EXPECT_EQ(outcome.shown, "some text ");
}

TEST(StopMatcher, HoldsBackWhatMayBecomeAStopString) {
  StopMatcher matcher({"\n\nUser:", "END"});
  EXPECT_FALSE(matcher.Push("a\n", 2, false));
  EXPECT_EQ(matcher.safe_bytes(), 1u);
  EXPECT_FALSE(matcher.Push("\nUse", 4, false));
  EXPECT_EQ(matcher.safe_bytes(), 1u);
  EXPECT_FALSE(matcher.Push("fulE", 4, false));  // Not User: the E may begin END.
  EXPECT_EQ(matcher.safe_bytes(), 9u);
}

TEST(StopMatcher, OverlappingPrefixes) {
  // After "aab" "aab" the pattern still matches: a naive restart at the next byte would miss it.
  EXPECT_EQ(Feed({"aabaac"}, {"aabaabaac!"}).shown, "aab");
  EXPECT_TRUE(Feed({"abab"}, {"aba", "abab"}).stopped);
  EXPECT_EQ(Feed({"aaa"}, {"a", "a"}).shown, "");
  EXPECT_EQ(Feed({"aaa"}, {"a", "a", "b"}).shown, "aab");
}

TEST(StopMatcher, TheFirstToEndWinsAndOfThoseTheLongest) {
  EXPECT_EQ(Feed({"xabc", "ab"}, {"..xabc"}).shown, "..x");
  EXPECT_EQ(Feed({"b", "ab", "cab"}, {"..cab"}).shown, "..");
}

TEST(StopMatcher, Utf8) {
  const std::string stop = "\xE2\x82\xAC!";  // Euro sign and an exclamation mark.
  EXPECT_EQ(Feed({stop}, {"5 \xE2", "\x82", "\xAC", "!"}).shown, "5 ");
  EXPECT_EQ(Feed({stop}, {"5 \xE2", "\x82", "\xAC", "?"}).shown, "5 \xE2\x82\xAC?");
}

TEST(StopMatcher, IgnoredStopsAreText) {
  StopMatcher matcher({"ab"});
  EXPECT_FALSE(matcher.Push("xabxa", 5, true));
  EXPECT_EQ(matcher.safe_bytes(), 4u);
  EXPECT_TRUE(matcher.Push("b", 1, false));  // Begun before, complete now.
  EXPECT_EQ(matcher.safe_bytes(), 4u);
}

// Against a search of the whole text after every byte.
TEST(StopMatcher, AgreesWithPlainSearch) {
  std::mt19937_64 random(5);
  const auto word = [&](int most) {
    std::string s(1 + random() % most, 'a');
    for (char& c : s) c = "ab"[random() % 2];
    return s;
  };
  int stops_seen = 0;
  for (int round = 0; round < 5000; ++round) {
    std::vector<std::string> stops;
    for (int i = 1 + random() % 4; i > 0; --i) stops.push_back(word(7) + (random() % 2 ? "c" : ""));
    std::string text;
    for (int i = 0; i < 30; ++i) text += "abc"[random() % 5 == 0 ? 2 : random() % 2];
    std::vector<std::string> pieces;
    for (size_t at = 0; at < text.size();) {
      pieces.push_back(text.substr(at, 1 + random() % 6));
      at += pieces.back().size();
    }
    // Reference.
    size_t end = text.size() + 1, begin = 0;
    for (const std::string& stop : stops) {
      const size_t at = text.find(stop);
      if (at == std::string::npos) continue;
      const size_t stop_end = at + stop.size();
      if (stop_end < end || (stop_end == end && at < begin)) {
        end = stop_end;
        begin = at;
      }
    }
    const Outcome outcome = Feed(stops, pieces);
    ASSERT_EQ(outcome.stopped, end <= text.size());
    if (outcome.stopped) {
      ++stops_seen;
      ASSERT_EQ(outcome.shown, text.substr(0, begin));
      continue;
    }
    // The longest suffix of the text that a stop string begins with is held back, nothing else.
    size_t held = 0;
    for (const std::string& stop : stops) {
      for (size_t n = 1; n < stop.size(); ++n) {
        if (text.substr(text.size() - n) == stop.substr(0, n)) held = std::max(held, n);
      }
    }
    ASSERT_EQ(outcome.shown.size(), text.size() - held);
  }
  EXPECT_GT(stops_seen, 1000);
}

}  // namespace
}  // namespace packrat
