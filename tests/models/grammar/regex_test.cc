#include "models/text/grammar/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/models/grammar/grammar_texts.h"

namespace packrat {
namespace {

using ::testing::HasSubstr;

// What another library makes of a pattern that must match the whole text, or (`search`) a part.
class Reference {
 public:
  Reference(const std::string& pattern, bool search) {
    const std::string whole = search ? pattern : absl::StrCat("\\A(?:", pattern, ")\\z");
    int error = 0;
    PCRE2_SIZE at = 0;
    code_ = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(whole.data()), whole.size(),
                          PCRE2_UTF | PCRE2_DOLLAR_ENDONLY, &error, &at, nullptr);
  }
  ~Reference() { pcre2_code_free(code_); }
  Reference(const Reference&) = delete;
  Reference& operator=(const Reference&) = delete;
  bool good() const { return code_ != nullptr; }
  bool Matches(const std::string& text) const {
    const std::unique_ptr<pcre2_match_data, void (*)(pcre2_match_data*)> data(
        pcre2_match_data_create(1, nullptr), pcre2_match_data_free);
    return pcre2_match(code_, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), 0, 0,
                       data.get(), nullptr) >= 0;
  }

 private:
  pcre2_code* code_;
};

std::string RandomPattern(std::mt19937_64* random, int depth) {
  const auto draw = [random](int n) { return static_cast<int>((*random)() % n); };
  const int kind = depth == 0 ? draw(3) : draw(9);
  if (kind == 0) return std::string(1, "abc-"[draw(4)]);
  if (kind == 1) {
    const char* const parts[] = {"[ab]",
                                 "[^b]",
                                 ".",
                                 "\\d",
                                 "\\W",
                                 "\\s",
                                 "\\w",
                                 "[a-c\\d]",
                                 "[^\\s]",
                                 "\\x{e9}",
                                 "\xc3\xa9",
                                 "\\.",
                                 "[\xc3\xa0-\xc3\xbf-]",
                                 "[\\]\\-a^]",
                                 "\\n",
                                 "\\D"};
    const std::string part = parts[draw(std::size(parts))];
    return part == "\\x{e9}" ? "\xc3\xa9" : part;
  }
  if (kind == 2) return depth == 0 ? "c" : "";
  const std::string a = RandomPattern(random, depth - 1), b = RandomPattern(random, depth - 1);
  if (kind <= 5) return a + b;
  if (kind == 6) return absl::StrCat("(", a, "|", b, ")");
  const char* const repeats[] = {"*", "+", "?", "*?", "{2}", "{1,3}", "{2,}", "{0,2}?"};
  return absl::StrCat("(?:", a, ")", repeats[draw(std::size(repeats))]);
}

std::string RandomText(std::mt19937_64* random) {
  const char* const parts[] = {"a", "b", "c", "-", "1", " ", "\n", "\xc3\xa9", ".", "^", "]"};
  std::string text;
  for (int n = static_cast<int>((*random)() % 7); n > 0; --n) {
    text += parts[(*random)() % ((*random)() % 2 == 0 ? 3 : std::size(parts))];
  }
  return text;
}

void CheckAgainstReference(bool search) {
  std::mt19937_64 random(2);
  int matched = 0, unmatched = 0;
  for (int round = 0; round < 500; ++round) {
    std::string pattern = RandomPattern(&random, 4);
    if (search && random() % 3 == 0) pattern = "^" + pattern;
    if (search && random() % 3 == 0) pattern += "$";
    if (pattern.empty()) continue;
    const Reference reference(pattern, search);
    ASSERT_TRUE(reference.good()) << pattern;
    GrammarRules rules;
    const int root = rules.AddRule("root");
    const auto body = AddRegex(pattern, {search, nullptr}, &rules);
    ASSERT_TRUE(body.ok()) << pattern << ": " << body.status();
    rules.SetBody(root, *body);
    auto grammar = Grammar::Compile(rules);
    if (!grammar.ok()) {
      EXPECT_THAT(grammar.status().message(), HasSubstr("empty text alone")) << pattern;
      EXPECT_TRUE(reference.Matches("")) << pattern;
      continue;
    }
    GrammarTexts texts(*std::move(grammar));
    const auto check = [&](const std::string& text) {
      const bool expected = reference.Matches(text);
      ASSERT_EQ(texts.Matches(text), expected) << pattern << " '" << text << "'";
      ++(expected ? matched : unmatched);
    };
    for (int i = 0; i < 40; ++i) check(RandomText(&random));
    for (int i = 0; i < 10; ++i) {
      const auto text = texts.Sample(&random, 12);
      if (text.has_value()) check(*text);
    }
  }
  EXPECT_GT(matched, 2000);
  EXPECT_GT(unmatched, 2000);
}

TEST(RegexTest, MatchesWhatAnotherLibraryMatches) { CheckAgainstReference(/*search=*/false); }

TEST(RegexTest, FindsWhatAnotherLibraryFinds) { CheckAgainstReference(/*search=*/true); }

TEST(RegexTest, Constructs) {
  const std::pair<const char*, std::pair<const char*, const char*>> cases[] = {
      {"^a|b$", {"a", "ab"}},
      {"(?P<year>\\d{4})-(?<month>\\d\\d)", {"2026-11", "2026-1"}},
      {"\\u00e9\\U0001F600\\x41",
       {"\xc3\xa9\xf0\x9f\x98\x80"
        "A",
        "\xc3\xa9"}},
      {"\\t\\f\\v\\r\\/\\{\\}", {"\t\f\v\r/{}", "\t"}},
      {"(|a)b", {"b", "a"}},
  };
  for (const auto& [pattern, texts] : cases) {
    auto grammar = Compile(ParseRegex(pattern));
    ASSERT_TRUE(grammar.ok()) << pattern << grammar.status();
    GrammarTexts tester(*std::move(grammar));
    EXPECT_TRUE(tester.Matches(texts.first)) << pattern;
    EXPECT_FALSE(tester.Matches(texts.second)) << pattern;
  }
}

TEST(RegexTest, Refusals) {
  const std::pair<std::string, const char*> cases[] = {
      {"", "empty"},
      {"a(?=b)", "at byte 1: look-around"},
      {"(?<!b)a", "look-around"},
      {"(a)\\1", "at byte 3: backreferences (\\1)"},
      {"\\bword", "\\b is not supported"},
      {"\\p{L}", "\\p is not supported"},
      {"(?i)a", "of groups that begin with (?"},
      {"(?>a)", "of groups that begin with (?"},
      {"a*+", "possessive"},
      {"a**", "needs a group"},
      {"a{3}{4}", "needs a group"},
      {"*a", "nothing to repeat"},
      {"{a}", "nothing to repeat"},
      {"a{,3}", "{m,n}"},
      {"a{1,1000000}", "10000 at most"},
      {"a{4,2}", "second number"},
      {"a^b", "at byte 1: ^ is supported"},
      {"a$b", "$ is supported"},
      {"(a", "at byte 0: a group is not closed"},
      {"a)", "closed that was not opened"},
      {"[a", "a class is not closed"},
      {"[]a]", "a class is empty"},
      {"[[:alpha:]]", "[:...:]"},
      {"[z-a]", "ends before it begins"},
      {"[a-\\d]", "a set ends no range"},
      {"a]", "write \\]"},
      {"a\\", "ends with a backslash"},
      {"\\ud800", "no character"},
      {std::string(100, '(') + std::string(100, ')'), "nest deeper than 64"},
      {"[^\\d\\D]", "no text matches"},
      {"(a|b)?{0}", "needs a group"},
      {"()", "the empty text alone"},
  };
  for (const auto& [pattern, message] : cases) {
    const auto compiled = Compile(ParseRegex(pattern));
    EXPECT_EQ(compiled.status().code(), absl::StatusCode::kInvalidArgument) << pattern;
    EXPECT_THAT(compiled.status().message(), HasSubstr(message)) << pattern;
  }
}

// What makes backtracking and plain determinising explode.
TEST(RegexTest, HostileOnesAreBounded) {
  for (const char* pattern : {"(a|a)*b", "(a*)*b", "((a?){100}){100}", "(a|b)*a(a|b){200}",
                              "(a{0,1000}){0,1000}", "(.*){50}x"}) {
    auto grammar = Compile(ParseRegex(pattern));
    ASSERT_TRUE(grammar.ok()) << pattern << grammar.status();
    GrammarTexts texts(*std::move(grammar));
    if (texts.automaton().too_ambiguous()) continue;
    for (int i = 1; i < 300; ++i) {
      const auto state = texts.After(std::string(i, 'a'));
      ASSERT_NE(state, GrammarAutomaton::kDead) << pattern;
      if (state == GrammarAutomaton::kTooAmbiguous) break;
      EXPECT_LE(texts.automaton().places(state), GrammarAutomaton::kMaxPlaces) << pattern;
    }
  }
}

}  // namespace
}  // namespace packrat
