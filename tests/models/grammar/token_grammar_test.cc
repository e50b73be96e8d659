#include "models/text/grammar/token_grammar.h"

#include <algorithm>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "models/text/grammar/gbnf.h"
#include "models/text/grammar/json_schema.h"
#include "models/text/grammar/regex.h"
#include "tests/models/grammar/grammar_texts.h"

namespace packrat {
namespace {

using ::testing::HasSubstr;

constexpr char kList[] = R"(
root  ::= "[" (value ("," value)*)? "]"
value ::= root | "\"" [^"]* "\"" | [0-9]+ | "true" | "é"+)";

// All bytes, three tokens without text (of which 1 and 300 end texts), and pieces of several bytes,
// some of them twice.
std::vector<std::string> Pieces() {
  std::vector<std::string> pieces = {"", ""};
  for (int byte = 0; byte < 256; ++byte) pieces.emplace_back(1, static_cast<char>(byte));
  for (const char* piece :
       {"[[", "[\"", "\"]", "],", "true", "tru", "ue", "true,", "12", "\",\"", "\xc3\xa9\xc3",
        "\xa9", "\xa9\xc3\xa9", "ab", "abc", "abcd", "]]", "[]", "\xc3", "\"a\"", "12,", "1", "[1",
        "x]", "true]",
        // Words, and plain characters of strings: few, many, cut anywhere.
        "the", " the", " The", "The", " ", "  ", " a", "aB", " aB", "a b", " a b",
        "\xc3\xa9t\xc3\xa9", "\xe2\x82", "a\xe2\x82", "\xf0\x9f\x98\x80", "\xf0\x9f\x98\x80\xf0",
        "\xed\xa0", "abcdefghijklmnop", "abcdefghijklmnopq", " abcdefghijklmnop",
        " abcdefghijklmnopq", "ab\"", "ab\\", "\\n", "\\u00", "a\n", " \x7f", "ABC", " ABC",
        " abcdef"}) {
    pieces.emplace_back(piece);
  }
  EXPECT_LE(pieces.size(), 320u);
  pieces.resize(320);
  return pieces;
}
const std::vector<int32_t> kEnds = {1, 300};

bool Has(absl::Span<const uint32_t> mask, int32_t id) { return mask[id / 32] >> (id % 32) & 1; }

std::shared_ptr<TokenGrammar> Make(absl::StatusOr<Grammar> grammar,
                                   const TokenGrammar::Limits& limits = {}) {
  auto made = TokenGrammar::Create(*std::move(grammar),
                                   std::make_shared<GrammarVocabulary>(Pieces()), limits);
  EXPECT_TRUE(made.ok()) << made.status();
  return *std::move(made);
}

TEST(TokenTrieTest, HoldsEachPieceOnce) {
  const std::vector<std::string> pieces = Pieces();
  const TokenTrie trie(pieces);
  ASSERT_EQ(trie.num_ids(), static_cast<int>(pieces.size()));
  std::vector<int> seen(pieces.size());
  std::string path;
  const TokenTrie::Tree& tree = trie.all();
  for (size_t i = 0; i < tree.nodes.size(); ++i) {
    const TokenTrie::Node& node = tree.nodes[i];
    ASSERT_GE(node.depth, 1);
    ASSERT_LE(node.depth, path.size() + 1);
    path.resize(node.depth - 1);
    path.push_back(static_cast<char>(node.byte));
    for (int32_t token : tree.TokensOf(i)) {
      EXPECT_EQ(pieces[token], path);
      ++seen[token];
    }
    for (size_t j = i + 1; j < node.end; ++j) EXPECT_GT(tree.nodes[j].depth, node.depth);
    if (node.end < tree.nodes.size()) {
      EXPECT_LE(tree.nodes[node.end].depth, node.depth);
    }
  }
  for (size_t id = 0; id < pieces.size(); ++id) {
    EXPECT_EQ(seen[id], pieces[id].empty() ? 0 : 1) << id;
    EXPECT_EQ(trie.piece(static_cast<int32_t>(id)), pieces[id]);
  }
}

absl::StatusOr<Grammar> CompileAny(const std::string& text) {
  if (text[0] == '{') return Compile(ParseJsonSchema(text));
  if (text[0] == '/') return Compile(ParseRegex(text.substr(1)));
  return Compile(ParseGbnf(text));
}

// Random texts, token by token: each mask against each token tried alone; with room for everything
// and with room for next to nothing.
TEST(TokenGrammarTest, MaskIsWhatTryingEachTokenFinds) {
  const std::vector<std::string> pieces = Pieces();
  TokenGrammar::Limits tiny;
  tiny.state_bytes = tiny.mask_bytes = 1;
  std::mt19937_64 random(3);
  const std::string all_grammars[] = {
      kList,
      R"({"type": "string"})",
      R"({"type": "string", "minLength": 2, "maxLength": 9})",
      R"({"properties": {"the": {"maxLength": 3}, "a": true}, "additionalProperties": true})",
      R"({"type": "string", "pattern": "^[a-z ]{3,20}$"})",
      "/[A-Za-z]{1,20}",
      "/[a-z]{1,4}( [a-z]{2,18})?",
      "/( ?[a-z]{3}){2}",
      "/[A-Z][a-z]{1,6}( [A-Za-z]+)*",
      "/(the| the|[a-zA-Z ]{2}the)*",
      "/[a-y]*( [A-Za-z]*)?",
      "/(\\w| [a-z]|[a-z]x*)+",
      "/[^\"]{1,12}\"",
  };
  for (const std::string& text_of_grammar : all_grammars) {
    const auto shared = Make(CompileAny(text_of_grammar)),
               small = Make(CompileAny(text_of_grammar), tiny);
    GrammarTexts texts(*CompileAny(text_of_grammar));
    int ended = 0;
    for (int round = 0; round < 25; ++round) {
      GrammarPosition position(shared), other(small);
      std::string text;
      for (int step = 0; step < 30; ++step) {
        const auto state = texts.After(text);
        EXPECT_EQ(position.may_end(), texts.automaton().accepts(state));
        EXPECT_EQ(position.must_end(), !texts.automaton().goes_on(state));
        EXPECT_EQ(other.may_end(), position.may_end());
        ASSERT_TRUE(position.FindMask(kEnds).ok());
        ASSERT_TRUE(other.FindMask(kEnds).ok());
        std::vector<int32_t> allowed;
        for (int32_t id = 0; id < static_cast<int32_t>(pieces.size()); ++id) {
          const bool end = id == kEnds[0] || id == kEnds[1];
          const bool expected =
              end ? position.may_end() : !pieces[id].empty() && texts.Begins(text + pieces[id]);
          ASSERT_EQ(Has(position.mask(), id), expected)
              << text_of_grammar << " after " << text << ": " << pieces[id];
          ASSERT_EQ(Has(other.mask(), id), expected) << text << " " << id;
          if (expected && !end) allowed.push_back(id);
        }
        if (position.must_end()) {
          EXPECT_TRUE(texts.Matches(text));
          EXPECT_TRUE(allowed.empty());
          ++ended;
          break;
        }
        if (position.may_end() && random() % 8 == 0) break;
        ASSERT_FALSE(allowed.empty()) << text;
        const int32_t token = allowed[random() % allowed.size()];
        position.Accept(token);
        other.Accept(token);
        text += pieces[token];
      }
    }
    if (text_of_grammar == kList) {
      EXPECT_GT(ended, 2);
    }
    EXPECT_GT(small->masks_found(), shared->masks_found());
  }
}

// Of words and of what strings hold most is known without a walk.
TEST(TokenGrammarTest, WalksOverFewTokensInStringsAndWords) {
  std::vector<std::string> pieces = Pieces();
  std::mt19937_64 random(5);
  for (int i = 0; i < 5000; ++i) {
    std::string word = i % 2 == 0 ? " " : "";
    for (int size = 1 + static_cast<int>(random() % 12); size > 0; --size) {
      word.push_back(static_cast<char>((i % 8 < 2 ? 'A' : 'a') + random() % 26));
    }
    pieces.push_back(word);
  }
  const auto vocabulary = std::make_shared<GrammarVocabulary>(pieces);
  const auto nodes = static_cast<int64_t>(vocabulary->trie.all().nodes.size());
  ASSERT_GT(nodes, 12000);
  const std::pair<std::string, std::string> cases[] = {
      {R"({"type": "string"})", "\"ab"},
      {R"({"type": "string", "maxLength": 9})", "\"ab"},
      {R"({"type": "string", "maxLength": 300})", "\"ab"},
      {"/[a-z ]*", "ab"},
      {"/[a-z]{1,9}", "ab"},
      {"/[A-Za-z]{1,300}", "ab"},
      {"/([a-z]+ )*x", "ab"},
      {"/[a-z]{1,20} [A-Z].*", "ab"},
      {"/.*", "ab"},
  };
  for (const auto& [grammar, text] : cases) {
    auto made = TokenGrammar::Create(*CompileAny(grammar), vocabulary);
    ASSERT_TRUE(made.ok()) << made.status();
    GrammarPosition position(*made);
    for (const char c : text) position.Accept(2 + static_cast<uint8_t>(c));
    const int64_t walked = (*made)->walked();
    ASSERT_TRUE(position.FindMask({}).ok());
    EXPECT_LT((*made)->walked() - walked, nodes / 4) << grammar;
  }
}

// What comes of a text does not depend on which others have come before or run beside it.
TEST(TokenGrammarTest, PositionsDoNotDisturbEachOther) {
  TokenGrammar::Limits tiny;
  tiny.state_bytes = 4000;
  tiny.mask_bytes = 1;
  const auto shared = Make(Compile(ParseGbnf(kList)), tiny);
  const std::vector<std::string> pieces = Pieces();
  std::mt19937_64 random(4);
  struct Text {
    std::unique_ptr<GrammarPosition> position;
    std::unique_ptr<GrammarPosition> alone;
  };
  std::vector<Text> all;
  for (int step = 0; step < 3000; ++step) {
    if (all.size() < 20 && random() % 8 == 0) {
      all.push_back({std::make_unique<GrammarPosition>(shared),
                     std::make_unique<GrammarPosition>(Make(Compile(ParseGbnf(kList))))});
    }
    if (all.empty()) continue;
    const size_t at = random() % all.size();
    Text& text = all[at];
    ASSERT_TRUE(text.position->FindMask(kEnds).ok());
    ASSERT_TRUE(text.alone->FindMask(kEnds).ok());
    ASSERT_EQ(text.position->mask(), text.alone->mask());
    if (text.position->must_end() || random() % 50 == 0) {
      all.erase(all.begin() + static_cast<std::ptrdiff_t>(at));
      continue;
    }
    std::vector<int32_t> allowed;
    for (int32_t id = 0; id < static_cast<int32_t>(pieces.size()); ++id) {
      if (!pieces[id].empty() && Has(text.position->mask(), id)) allowed.push_back(id);
    }
    const int32_t token = allowed[random() % allowed.size()];
    text.position->Accept(token);
    text.alone->Accept(token);
  }
}

TEST(TokenGrammarTest, WhatWasFoundIsNotFoundAgain) {
  const auto grammar = Make(Compile(ParseGbnf("root ::= \"[\" [a-z]* \"]\"")));
  EXPECT_EQ(grammar->masks_found(), 1);  // The first one, ahead of all texts.
  for (int round = 0; round < 3; ++round) {
    GrammarPosition position(grammar);
    EXPECT_TRUE(position.FindMask({}).ok());
    position.Accept(2 + '[');
    for (int i = 0; i < 5; ++i) {
      EXPECT_FALSE(position.has_mask());
      EXPECT_TRUE(position.FindMask({}).ok());
      position.Accept(2 + 'q');
    }
    EXPECT_EQ(grammar->masks_found(), 2);
  }
}

// What would take too long is given up, there and whenever it is asked for again; a text that
// stands elsewhere goes on.
TEST(TokenGrammarTest, TooMuchWorkIsAStatus) {
  // After "x" a text stands in ever more places.
  const char kHostile[] = "root ::= [a-w]* | \"x\" (\"a\" | \"b\" | . \"a\" | . \"b\")* .{300}";
  TokenGrammar::Limits limits;
  limits.mask_work = 20000;
  const auto grammar = Make(Compile(ParseGbnf(kHostile)), limits);
  GrammarPosition hostile(grammar), again(grammar), other(grammar);
  int steps = 0;
  absl::Status status;
  for (; steps < 300; ++steps) {
    const int64_t before = grammar->work();
    status = hostile.FindMask(kEnds);
    const int nodes = static_cast<int>(TokenTrie(Pieces()).all().nodes.size());
    // A single state may go beyond the limit.
    EXPECT_LE(grammar->work() - before, limits.mask_work + nodes + 10000);
    if (!status.ok()) break;
    EXPECT_TRUE(hostile.has_mask());
    ASSERT_TRUE(again.FindMask(kEnds).ok());
    for (GrammarPosition* position : {&hostile, &again})
      position->Accept(2 + (steps == 0 ? 'x' : 'a'));
  }
  EXPECT_GT(steps, 0);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("too ambiguous: what has come goes on in too many ways"));
  EXPECT_FALSE(hostile.has_mask());
  const int64_t before = grammar->work();
  EXPECT_EQ(again.FindMask(kEnds), status);
  EXPECT_EQ(grammar->work(), before);
  EXPECT_TRUE(other.FindMask(kEnds).ok());
  other.Accept(2 + 'q');
  EXPECT_TRUE(other.FindMask(kEnds).ok());
}

// No text is lost in silence where there are too many places: the mask is a status.
TEST(TokenGrammarTest, TooManyPlacesAreAStatus) {
  const auto grammar = Make(Compile(ParseGbnf("root ::= \"xy\" a{0,9000}\na ::= [a-z]?")));
  GrammarPosition position(grammar);
  ASSERT_TRUE(position.FindMask(kEnds).ok());
  EXPECT_TRUE(Has(position.mask(), 2 + 'x'));
  position.Accept(2 + 'x');
  const absl::Status status = position.FindMask(kEnds);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("can belong to too many of its places"));
}

// States and masks of a grammar that shares memory stay within its share, and count.
TEST(TokenGrammarTest, TakesItsShareOfTheMemory) {
  constexpr int64_t kLimit = 6 * GrammarMemory::kLeastShare;
  const auto memory = std::make_shared<GrammarMemory>(kLimit);
  EXPECT_EQ(GrammarMemory::Join(memory, kLimit), nullptr);
  EXPECT_EQ(memory->used(), 0);
  EXPECT_EQ(memory->grammars(), 0);
  {
    TokenGrammar::Limits limits;
    limits.memory = GrammarMemory::Join(memory, 1000);
    ASSERT_NE(limits.memory, nullptr);
    const auto other = GrammarMemory::Join(memory, 1000);
    ASSERT_NE(other, nullptr);
    EXPECT_EQ(memory->grammars(), 2);
    EXPECT_EQ(limits.memory->Share(), (kLimit - 2000) / 2);
    const auto grammar = Make(Compile(ParseRegex("[a-z]{1,9000}")), limits);
    limits.memory = nullptr;
    GrammarPosition position(grammar);
    size_t largest = 0;
    for (int i = 0; i < 9000; ++i) {
      ASSERT_TRUE(position.FindMask(kEnds).ok());
      largest = std::max(largest, grammar->bytes());
      ASSERT_EQ(memory->used(), 2000 + static_cast<int64_t>(grammar->bytes()));
      position.Accept(2 + 'a' + i % 26);
    }
    EXPECT_GT(largest, 50000u);
    EXPECT_LE(largest, static_cast<size_t>((kLimit - 2000) / 2));
  }
  EXPECT_EQ(memory->used(), 0);
  EXPECT_EQ(memory->grammars(), 0);
}

TEST(TokenGrammarTest, RefusesWhatNoTokenBegins) {
  const std::vector<std::string> pieces = {"a", "b", ""};
  const auto made =
      TokenGrammar::Create(*Compile(ParseRegex("cd")), std::make_shared<GrammarVocabulary>(pieces));
  EXPECT_EQ(made.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(made.status().message(), HasSubstr("no token of this model"));
}

TEST(TokenGrammarTest, RefusesABeginningInTooManyPlaces) {
  std::string many = "root ::= a{0,9000}\na ::= [a-z]?";
  const auto made = TokenGrammar::Create(*Compile(ParseGbnf(many)),
                                         std::make_shared<GrammarVocabulary>(Pieces()));
  EXPECT_THAT(made.status().message(), HasSubstr("too ambiguous"));
}

}  // namespace
}  // namespace packrat
