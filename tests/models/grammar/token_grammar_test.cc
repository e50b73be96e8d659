#include "models/text/grammar/token_grammar.h"

#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "models/text/grammar/gbnf.h"
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
  for (const char* piece : {"[[",    "[\"",  "\"]",   "],",           "true", "tru",          "ue",
                            "true,", "12",   "\",\"", "\xc3\xa9\xc3", "\xa9", "\xa9\xc3\xa9", "ab",
                            "abc",   "abcd", "]]",    "[]",           "\xc3", "\"a\"",        "12,",
                            "1",     "[1",   "x]",    "true]"}) {
    pieces.emplace_back(piece);
  }
  pieces.resize(320);
  return pieces;
}
const std::vector<int32_t> kEnds = {1, 300};

bool Has(absl::Span<const uint32_t> mask, int32_t id) { return mask[id / 32] >> (id % 32) & 1; }

std::shared_ptr<TokenGrammar> Make(absl::StatusOr<Grammar> grammar,
                                   TokenGrammar::Limits limits = {}) {
  auto made =
      TokenGrammar::Create(*std::move(grammar), std::make_shared<TokenTrie>(Pieces()), limits);
  EXPECT_TRUE(made.ok()) << made.status();
  return *std::move(made);
}

TEST(TokenTrieTest, HoldsEachPieceOnce) {
  const std::vector<std::string> pieces = Pieces();
  const TokenTrie trie(pieces);
  ASSERT_EQ(trie.num_ids(), static_cast<int>(pieces.size()));
  std::vector<int> seen(pieces.size());
  std::string path;
  for (size_t i = 0; i < trie.nodes().size(); ++i) {
    const TokenTrie::Node& node = trie.nodes()[i];
    ASSERT_GE(node.depth, 1);
    ASSERT_LE(node.depth, path.size() + 1);
    path.resize(node.depth - 1);
    path.push_back(static_cast<char>(node.byte));
    for (int32_t token : trie.TokensOf(i)) {
      EXPECT_EQ(pieces[token], path);
      ++seen[token];
    }
    for (size_t j = i + 1; j < node.end; ++j) EXPECT_GT(trie.nodes()[j].depth, node.depth);
    if (node.end < trie.nodes().size()) {
      EXPECT_LE(trie.nodes()[node.end].depth, node.depth);
    }
  }
  for (size_t id = 0; id < pieces.size(); ++id) {
    EXPECT_EQ(seen[id], pieces[id].empty() ? 0 : 1) << id;
    EXPECT_EQ(trie.piece(static_cast<int32_t>(id)), pieces[id]);
  }
}

// Random texts, token by token: each mask against each token tried alone; with room for everything
// and with room for next to nothing.
TEST(TokenGrammarTest, MaskIsWhatTryingEachTokenFinds) {
  const std::vector<std::string> pieces = Pieces();
  TokenGrammar::Limits tiny;
  tiny.state_bytes = tiny.mask_bytes = 1;
  const auto shared = Make(Compile(ParseGbnf(kList))),
             small = Make(Compile(ParseGbnf(kList)), tiny);
  GrammarTexts texts(*Compile(ParseGbnf(kList)));
  std::mt19937_64 random(3);
  int ended = 0;
  for (int round = 0; round < 60; ++round) {
    GrammarPosition position(shared), other(small);
    std::string text;
    for (int step = 0; step < 40; ++step) {
      const auto state = texts.After(text);
      EXPECT_EQ(position.may_end(), texts.automaton().accepts(state));
      EXPECT_EQ(position.must_end(), !texts.automaton().goes_on(state));
      EXPECT_EQ(other.may_end(), position.may_end());
      position.FindMask(kEnds);
      other.FindMask(kEnds);
      std::vector<int32_t> allowed;
      for (int32_t id = 0; id < static_cast<int32_t>(pieces.size()); ++id) {
        const bool end = id == kEnds[0] || id == kEnds[1];
        const bool expected =
            end ? position.may_end() : !pieces[id].empty() && texts.Begins(text + pieces[id]);
        ASSERT_EQ(Has(position.mask(), id), expected) << text << " " << id;
        ASSERT_EQ(Has(other.mask(), id), expected) << text << " " << id;
        if (expected && !end) allowed.push_back(id);
      }
      if (position.must_end()) {
        EXPECT_TRUE(texts.Matches(text));
        EXPECT_TRUE(allowed.empty());
        ++ended;
        break;
      }
      ASSERT_FALSE(allowed.empty()) << text;
      const int32_t token = allowed[random() % allowed.size()];
      position.Accept(token);
      other.Accept(token);
      text += pieces[token];
    }
  }
  EXPECT_GT(ended, 5);
  EXPECT_GT(small->masks_found(), shared->masks_found());
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
    text.position->FindMask(kEnds);
    text.alone->FindMask(kEnds);
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
    position.FindMask({});
    position.Accept(2 + '[');
    for (int i = 0; i < 5; ++i) {
      position.FindMask({});
      position.Accept(2 + 'q');
    }
    EXPECT_EQ(grammar->masks_found(), 2);
  }
}

// Where a mask would take too long, it is a part of the whole one and has all that have one byte.
TEST(TokenGrammarTest, LittleWorkLosesLongTokensAlone) {
  TokenGrammar::Limits limits;
  limits.work_per_node = 1;
  const auto whole = Make(Compile(ParseGbnf(kList))),
             part = Make(Compile(ParseGbnf(kList)), limits);
  GrammarPosition a(whole), b(part);
  const std::vector<std::string> pieces = Pieces();
  for (const int32_t token : {2 + '[', 2 + '"'}) {
    a.Accept(token);
    b.Accept(token);
  }
  a.FindMask({});
  b.FindMask({});
  int lost = 0;
  for (int32_t id = 0; id < static_cast<int32_t>(pieces.size()); ++id) {
    if (pieces[id].size() == 1) {
      EXPECT_EQ(Has(a.mask(), id), Has(b.mask(), id)) << id;
    } else {
      EXPECT_LE(Has(b.mask(), id), Has(a.mask(), id)) << id;
      lost += Has(a.mask(), id) && !Has(b.mask(), id);
    }
  }
  EXPECT_GT(lost, 0);
}

TEST(TokenGrammarTest, RefusesWhatNoTokenBegins) {
  const std::vector<std::string> pieces = {"a", "b", ""};
  const auto made =
      TokenGrammar::Create(*Compile(ParseRegex("cd")), std::make_shared<TokenTrie>(pieces));
  EXPECT_EQ(made.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(made.status().message(), HasSubstr("no token of this model"));
}

TEST(TokenGrammarTest, RefusesABeginningInTooManyPlaces) {
  std::string many = "root ::= a{0,9000}\na ::= [a-z]?";
  const auto made =
      TokenGrammar::Create(*Compile(ParseGbnf(many)), std::make_shared<TokenTrie>(Pieces()));
  EXPECT_THAT(made.status().message(), HasSubstr("too ambiguous"));
}

}  // namespace
}  // namespace packrat
