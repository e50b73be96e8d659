#include "models/text/grammar/gbnf.h"

#include <functional>
#include <map>
#include <random>
#include <set>
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

struct Case {
  const char* grammar;
  std::vector<std::string> match, refuse;
};

TEST(GbnfTest, Constructs) {
  const Case cases[] = {
      {"root ::= \"yes\" | \"no\"", {"yes", "no"}, {"", "y", "yesno", "maybe"}},
      {"root ::= [a-c]+ # a comment\n", {"a", "abccba"}, {"", "d", "ad"}},
      {"root ::= [^a-c]", {"d", "\xc3\xa9", "\n"}, {"a", "", "\xc3", "\xa9"}},
      {"root ::= .", {"x", "\n", "\xf0\x9f\x98\x80"}, {"", "xx", "\xff", "\xed\xa0\x80"}},
      {"root ::= \"a\"* \"b\"? \"c\"+", {"c", "aabcc", "ac"}, {"", "ab", "abbc"}},
      {"root ::= \"a\"{2} | \"b\"{1,3} | \"c\"{2,} | \"d\"{ 0 , 2 } \".\"",
       {"aa", "b", "bbb", "cc", "ccccc", ".", "dd."},
       {"a", "aaa", "", "bbbb", "c", "ddd."}},
      {"root ::= (\"a\" | \"b\"\n  | \"c\") (\n \"d\" )", {"ad", "cd"}, {"a", "d", "abd"}},
      {"root ::= x-1 y_2\nx-1 ::= \"x\"\r\ny_2 ::=\n \"y\" |\n \"z\"", {"xy", "xz"}, {"x", "y"}},
      {"root ::= \"\\x41\\u00e9\\U0001F600\\t\\\"\\\\\" [\\]\\-\\^x] [-a] [a-]",
       {"A\xc3\xa9\xf0\x9f\x98\x80\t\"\\]--", "A\xc3\xa9\xf0\x9f\x98\x80\t\"\\-aa"},
       {"A\xc3\xa9\xf0\x9f\x98\x80\t\"\\a--"}},
      {"root ::= \"(\" root \")\" | \"x\"", {"x", "((x))"}, {"(x", "x)", "()", ""}},
      {"root ::= \"\" | \"a\" root", {"", "a", "aaaaaaaa"}, {"b"}},
      // Far more than the depth: a call at the end of a rule takes no level.
      {"root ::= \"a\" root | \"a\"", {std::string(5000, 'a')}, {std::string(5000, 'a') + "b"}},
      {"root ::= ((\"a\"?)*)+ \"b\"", {"b", "aab"}, {"a", ""}},
      {"root ::= [] | \"a\"", {"a"}, {""}},
      // A schema, whose rules are its own: a reference is one into it.
      {"root ::= \"a=\" %json {\"type\": \"string\", \"enum\": [\"}\", \"\\\"\"]} \";\"? x\nx ::= "
       "\"!\"",
       {"a=\"}\"!", "a=\"\\\"\";!"},
       {"a=}!", "a=\"}\"", "a=\"\\\"!"}},
      {"root ::= (%json {\"$ref\": \"#/$defs/x\", \"$defs\": {\"x\": {\"const\": 1}}} | "
       "%json{\"const\": 2} y)+\ny "
       "::= \"y\"",
       {"1", "2y", "12y1"},
       {"2", "1y", "{}"}},
      // The same in one line.
      {"root ::= %json-line {\"properties\": {\"a\": {\"items\": {\"type\": \"integer\"}}, \"b\": "
       "{\"const\": {\"x\": [1, []], \"y\": {}}}}}",
       {"{}", "{\"a\": []}", "{\"a\": [1, 2], \"b\": {\"x\": [1, []], \"y\": {}}}"},
       {"{ }", "{\"a\":[]}", "{\"a\": [1,2]}", "{\"a\": [ 1]}", "{\"b\": {\"x\":[1,[]],\"y\":{}}}",
        "{\"a\": []\n}", "{\"a\": [],  \"b\": {\"x\": [1, []], \"y\": {}}}"}},
      {"root ::= %json-line {\"const\": {\"a\\\"\": \"\\n\"}}",
       {"{\"a\\\"\": \"\\n\"}"},
       {"{\"a\"\": \"\\n\"}", "{\"a\\\"\": \"\n\"}"}},
      // A special token: nothing that can be written.
      {"root ::= \"a\" <[12]>? | <[3]> .",
       {"a",
        "a\xff"
        "12\xff",
        "\xff"
        "3\xffx"},
       {"a<[12]>", "a12",
        "\xff"
        "3\xff",
        "a\xff"
        "1\xff",
        "a\xff"
        "123\xff"}},
      {"root ::= [\xc3\xa0-\xc3\xbf]{2}", {"\xc3\xa9\xc3\xbf"}, {"\xc3\xa9", "\xc3\xa9\xc3"}},
  };
  for (const Case& c : cases) {
    auto grammar = Compile(ParseGbnf(c.grammar));
    ASSERT_TRUE(grammar.ok()) << c.grammar << ": " << grammar.status();
    GrammarTexts texts(*std::move(grammar));
    for (const std::string& text : c.match) EXPECT_TRUE(texts.Matches(text)) << c.grammar << text;
    for (const std::string& text : c.refuse) EXPECT_FALSE(texts.Matches(text)) << c.grammar << text;
  }
}

TEST(GbnfTest, Refusals) {
  const std::string deep = "root ::= " + std::string(80, '(') + "\"a\"" + std::string(80, ')');
  const std::pair<std::string, const char*> cases[] = {
      {"", "empty"},
      {std::string(70000, ' '), "70000 bytes; at most 65536"},
      {"root ::= \"\xff\"", "not UTF-8 at byte 10"},
      {"a ::= \"b\"", "there is no rule root"},
      {"root ::= b", "at byte 9: there is no rule b"},
      {"root ::= \"a\"\nroot ::= \"b\"", "in line 2, byte 0: rule root is there twice"},
      {"root = \"a\"", "::="},
      {"root ::= \"a", "not closed"},
      {"root ::= [a", "not closed"},
      {"root ::= (\"a\"", "at byte 13: a group is not closed"},
      {"root ::= \"a\")", "at byte 12: this belongs to no rule"},
      {"root ::= *", "nothing to repeat"},
      {"root ::= \"a\"{2", "{m,n}"},
      {"root ::= \"a\"{3,2}", "second number is less"},
      {"root ::= \"a\"{1,1000000}", "counts to 10000 at most"},
      {"root ::= [z-a]", "ends before it begins"},
      {"root ::= \"\\q\"", "unknown escape"},
      {"root ::= \"\\ud800\"", "no character of Unicode"},
      {"root ::= \"\\U00110000\"", "no character of Unicode"},
      {"root ::= <think>", "of tokens only <[ID]> is supported"},
      {"root ::= !<[12]>", "of tokens only <[ID]> is supported"},
      {"root ::= <[]>", "at byte 11: \"<[\" is followed by a token's id"},
      {"root ::= <[12>", "at byte 11: \"<[\" is followed by a token's id"},
      {"root ::= %json", "at byte 14: %json is followed by a schema in braces"},
      {"root ::= %json x", "at byte 15: %json is followed by a schema in braces"},
      {"root ::= %json {\"a\": {}", "at byte 15: %json is followed by a schema in braces"},
      {"root ::= %json {\"a}\\", "at byte 15: %json is followed by a schema in braces"},
      {"root ::= \"x\"\n  %json {}", "in line 2, byte 2: a rule begins with its name"},
      {"root ::= \"x\" |\n  %json {\"not\": {}}",
       "in line 2, byte 8: %json: at #: keyword \"not\" is not supported"},
      {"root ::= %json {,}", "at byte 15: %json: it: "},
      {"root ::= %json {} x", "there is no rule x"},
      {deep, "nest deeper than 64"},
      {"root ::= \"a\"" + std::string(100, '*'), "too many repeats"},
      {"root ::= root \"a\" | \"b\"", "rule root can begin with itself"},
      {"root ::= \"x\" a\na ::= b | \"c\"\nb ::= \"d\"? a \"e\"", "can begin with itself"},
      {"root ::= [] \"a\"", "no text matches"},
      {"root ::= \"a\" root", "no text matches"},
      {"root ::= \"\"", "the empty text alone"},
  };
  for (const auto& [grammar, message] : cases) {
    const auto compiled = Compile(ParseGbnf(grammar));
    EXPECT_EQ(compiled.status().code(), absl::StatusCode::kInvalidArgument) << grammar;
    EXPECT_THAT(compiled.status().message(), HasSubstr(message)) << grammar;
    EXPECT_LT(compiled.status().message().size(), 300u);
  }
}

// Texts of a few kilobytes that describe something immense: compiled to little, or refused.
TEST(GbnfTest, LargeOnesAreSmallOrRefused) {
  auto nested = Compile(ParseGbnf("root ::= (((\"a\"{1000}){1000}){1000}){1000}"));
  ASSERT_TRUE(nested.ok()) << nested.status();
  EXPECT_LT(nested->nodes().size(), 5000u);
  GrammarTexts texts(*std::move(nested));
  EXPECT_TRUE(texts.Begins(std::string(100000, 'a')));
  EXPECT_FALSE(texts.Matches(std::string(100000, 'a')));

  std::string many = "root ::= ";
  for (int i = 0; i < 10; ++i) absl::StrAppend(&many, "\"ab\"{10000} [", i, "] ");
  EXPECT_THAT(Compile(ParseGbnf(many)).status().message(), HasSubstr("more than 65536 nodes"));

  // Rules of which each names the next one twice: 2^200 texts, 200 calls in each other.
  std::string doubling = "root ::= r0\n";
  for (int i = 0; i < 200; ++i)
    absl::StrAppend(&doubling, "r", i, " ::= r", i + 1, " r", i + 1, "\n");
  absl::StrAppend(&doubling, "r200 ::= \"x\"\n");
  auto doubled = Compile(ParseGbnf(doubling));
  ASSERT_TRUE(doubled.ok()) << doubled.status();
  EXPECT_TRUE(GrammarTexts(*std::move(doubled)).Begins(std::string(1000, 'x')));
  std::string chain = "root ::= r0\n";
  for (int i = 0; i < 1500; ++i) absl::StrAppend(&chain, "r", i, " ::= r", i + 1, " \"y\"\n");
  absl::StrAppend(&chain, "r1500 ::= \"x\"\n");
  EXPECT_THAT(Compile(ParseGbnf(chain)).status().message(), HasSubstr("1024 levels"));
}

// As deep as is allowed there is still a way back.
TEST(GbnfTest, DepthEndsWhereATextCanStillEnd) {
  auto grammar = Compile(ParseGbnf("root ::= \"(\" root \")\" | \"x\""));
  ASSERT_TRUE(grammar.ok());
  GrammarTexts texts(*std::move(grammar));
  const std::string deepest(kMaxGrammarDepth, '(');
  EXPECT_TRUE(texts.Matches(deepest + "x" + std::string(kMaxGrammarDepth, ')')));
  EXPECT_FALSE(texts.Begins(deepest + "("));
  EXPECT_TRUE(texts.Begins(deepest + "x"));
}

TEST(GbnfTest, AmbiguousOnesStayBounded) {
  // As many derivations as the text has ways to be cut.
  auto grammar = Compile(ParseGbnf("root ::= \"a\" (root root)? | \"a\" root \"a\"?"));
  ASSERT_TRUE(grammar.ok()) << grammar.status();
  GrammarTexts texts(*std::move(grammar));
  // It says so where it gives up, and does not lose texts before.
  int followed = 0;
  for (int i = 1; i < 200; ++i) {
    const auto state = texts.After(std::string(i, 'a'));
    ASSERT_NE(state, GrammarAutomaton::kDead);
    if (state == GrammarAutomaton::kTooAmbiguous) continue;
    EXPECT_EQ(++followed, i);
    EXPECT_TRUE(i == 2 || texts.automaton().accepts(state)) << i;
    EXPECT_LE(texts.automaton().places(state), GrammarAutomaton::kMaxPlaces);
  }
  EXPECT_GT(followed, 5);
  EXPECT_LT(followed, 199);
}

// A grammar that the test makes, writes down, and matches by trying everything.
class RandomGrammar {
 public:
  explicit RandomGrammar(std::mt19937_64* random) : random_(random) {
    const int rules = 1 + Draw(3);
    for (int i = 0; i < rules; ++i) rules_.push_back(Make(i, rules, 3));
  }

  std::string Write() const {
    std::string text;
    for (size_t i = 0; i < rules_.size(); ++i) {
      absl::StrAppend(&text, i == 0 ? "root" : absl::StrCat("r", i), " ::= ", rules_[i].text, "\n");
    }
    return text;
  }
  bool Matches(const std::string& text) {
    known_.clear();
    return EndsOfRule(0, text, 0).count(text.size()) > 0;
  }

 private:
  using Ends = std::set<size_t>;
  struct Part {
    std::string text;
    std::function<Ends(const std::string&, size_t)> ends;
  };
  int Draw(int n) { return static_cast<int>((*random_)() % n); }

  Part Make(int rule, int rules, int depth) {
    const int kind = depth == 0 ? Draw(2) : Draw(7);
    if (kind == 0) {
      const std::string letter(1, static_cast<char>('a' + Draw(3)));
      return {absl::StrCat("\"", letter, "\""), [letter](const std::string& s, size_t at) {
                return s.compare(at, 1, letter) == 0 && at < s.size() ? Ends{at + 1} : Ends{};
              }};
    }
    if (kind == 1) {
      return {"[ab]", [](const std::string& s, size_t at) {
                return at < s.size() && s[at] < 'c' ? Ends{at + 1} : Ends{};
              }};
    }
    if (kind == 2) {  // A rule that comes later, or any behind a letter.
      const bool later = rule + 1 < rules && Draw(2) == 0;
      const int called = later ? rule + 1 + Draw(rules - rule - 1) : Draw(rules);
      const std::string name = called == 0 ? "root" : absl::StrCat("r", called);
      return {later ? name : absl::StrCat("(\"c\" ", name, ")"),
              [this, called, later](const std::string& s, size_t at) {
                if (!later && (at >= s.size() || s[at] != 'c')) return Ends{};
                return EndsOfRule(called, s, at + (later ? 0 : 1));
              }};
    }
    const Part a = Make(rule, rules, depth - 1), b = Make(rule, rules, depth - 1);
    if (kind <= 4) {
      const auto both = [a, b](const std::string& s, size_t at) {
        Ends ends;
        for (size_t middle : a.ends(s, at)) ends.merge(b.ends(s, middle));
        return ends;
      };
      return {absl::StrCat("(", a.text, " ", b.text, ")"), both};
    }
    if (kind == 5) {
      return {absl::StrCat("(", a.text, " | ", b.text, ")"),
              [a, b](const std::string& s, size_t at) {
                Ends ends = a.ends(s, at);
                ends.merge(b.ends(s, at));
                return ends;
              }};
    }
    const int min = Draw(3), max = min + Draw(3);
    const bool open = Draw(2) == 0;
    return {absl::StrCat("(", a.text, "){", min, ",", open ? "" : absl::StrCat(max), "}"),
            [a, min, max, open](const std::string& s, size_t at) {
              Ends now = {at}, ends;
              const int most = open ? min + static_cast<int>(s.size()) : max;
              for (int i = 0; i <= most; ++i) {
                if (i >= min) ends.insert(now.begin(), now.end());
                Ends next;
                for (size_t from : now) next.merge(a.ends(s, from));
                now = std::move(next);
              }
              return ends;
            }};
  }

  Ends EndsOfRule(int rule, const std::string& s, size_t at) {
    const auto found = known_.find({rule, at});
    if (found != known_.end()) return found->second;
    const Ends ends = rules_[rule].ends(s, at);
    known_[{rule, at}] = ends;
    return ends;
  }

  std::mt19937_64* const random_;
  std::vector<Part> rules_;
  std::map<std::pair<int, size_t>, Ends> known_;
};

TEST(GbnfTest, MatchesWhatTryingEverythingMatches) {
  std::mt19937_64 random(1);
  int matched = 0, unmatched = 0;
  for (int round = 0; round < 400; ++round) {
    RandomGrammar reference(&random);
    auto grammar = Compile(ParseGbnf(reference.Write()));
    if (!grammar.ok()) {
      EXPECT_FALSE(reference.Matches("a")) << reference.Write() << grammar.status();
      EXPECT_FALSE(reference.Matches("cb")) << reference.Write() << grammar.status();
      continue;
    }
    GrammarTexts texts(*std::move(grammar));
    const auto check = [&](const std::string& text) {
      const bool expected = reference.Matches(text);
      ASSERT_EQ(texts.Matches(text), expected) << reference.Write() << "'" << text << "'";
      if (expected) {
        ASSERT_TRUE(texts.Begins(text.substr(0, text.size() / 2)));
      }
      ++(expected ? matched : unmatched);
    };
    for (int i = 0; i < 60; ++i) {
      std::string text(random() % 8, ' ');
      for (char& c : text) c = static_cast<char>('a' + random() % 3);
      check(text);
    }
    for (int i = 0; i < 10; ++i) {
      const auto text = texts.Sample(&random, 12);
      if (text.has_value()) check(*text);
    }
  }
  EXPECT_GT(matched, 2000);
  EXPECT_GT(unmatched, 2000);
}

}  // namespace
}  // namespace packrat
