// A request's grammar, regex or json_schema: taken, or refused by name and place.
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "models/text/grammar/token_grammar.h"
#include "proto/packrat/v1/inference.pb.h"
#include "server/generation/request_rules.h"
#include "tests/server/test_server.h"
#include "tests/server/wire_fields.h"

namespace packrat {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

class GrammarRequestTest : public ::testing::Test {
 protected:
  GrammarRequestTest()
      : server_(WithTokenizer()),
        rules_(MakeRequestRules({/*vocab_size=*/32000, /*num_ids=*/32000, /*max_context=*/1024,
                                 /*has_tokenizer=*/true},
                                server_.tokenizer())) {}
  static TestServer::Options WithTokenizer() {
    TestServer::Options options;
    options.tokenizer = true;
    return options;
  }
  absl::StatusOr<std::vector<Request>> Make(const std::string& wire) {
    return MakeRequests(RequestFromText(R"(text: "Hello" )" + wire), rules_, /*seed=*/5);
  }

  TestServer server_;
  RequestRules rules_;
};

TEST_F(GrammarRequestTest, ArrivesInEachChoice) {
  EXPECT_EQ(Make("")->at(0).grammar, nullptr);
  const auto requests = Make("num_choices: 2 regex: '[a-z]+'");
  ASSERT_TRUE(requests.ok()) << requests.status();
  EXPECT_NE(requests->at(0).grammar, nullptr);
  EXPECT_EQ(requests->at(0).grammar, requests->at(1).grammar);
  // Asked for again it is there; the same text in another notation is another one.
  EXPECT_EQ(Make("regex: '[a-z]+'")->at(0).grammar, requests->at(0).grammar);
  EXPECT_NE(Make("regex: '[a-y]+'")->at(0).grammar, requests->at(0).grammar);
  EXPECT_TRUE(Make(R"(grammar: "root ::= [a-z]+")").ok());
}

// Special tokens are ids, not what they are called.
TEST_F(GrammarRequestTest, ASpecialTokenIsItsIdAlone) {
  const auto requests = Make(R"(grammar: "root ::= <[1]> \"a\"")");
  ASSERT_TRUE(requests.ok()) << requests.status();
  GrammarPosition position(requests->at(0).grammar);
  const auto allowed = [&] {
    EXPECT_TRUE(position.FindMask({}).ok());
    std::vector<int32_t> ids;
    for (int32_t id = 0; id < 32000; ++id) {
      if ((position.mask()[id / 32] >> (id % 32) & 1) != 0) ids.push_back(id);
    }
    return ids;
  };
  EXPECT_EQ(allowed(), std::vector<int32_t>{1});  // <s>
  position.Accept(1);
  for (const int32_t id : allowed()) EXPECT_EQ(server_.tokenizer()->PieceText(id), "a");
  EXPECT_THAT(Make(R"(grammar: "root ::= <[300]>")").status().message(),
              HasSubstr("no token of this model can begin a text that matches it"));
}

TEST_F(GrammarRequestTest, TheLeastUsedMakesRoom) {
  const auto first = Make("regex: 'x0'")->at(0).grammar;
  for (size_t i = 1; i <= GrammarCache::kGrammars; ++i) {
    ASSERT_TRUE(Make("regex: 'x" + std::to_string(i) + "'").ok());
    if (i == 3) {
      EXPECT_EQ(Make("regex: 'x0'")->at(0).grammar, first);
    }
  }
  EXPECT_EQ(Make("regex: 'x0'")->at(0).grammar, first);
  const auto dropped = Make("regex: 'x2'")->at(0).grammar;
  EXPECT_EQ(dropped.use_count(), 2);  // Made anew: of the cache, and ours.
}

// What requests hold is bounded in bytes; what nobody holds gives way.
TEST_F(GrammarRequestTest, GrammarsInUseAreBounded) {
  const auto pieces = static_cast<int64_t>(GrammarVocabulary(*rules_.tokenizer).bytes());
  EXPECT_LT(pieces, GrammarBytes(rules_.tokenizer->num_pieces()) / 2);
  GrammarCache cache(rules_.tokenizer, pieces + (1 << 19));
  const auto get = [&](int i) {
    return cache.Get(GrammarNotation::kRegex, "x" + std::to_string(i) + "[a-z]*");
  };
  std::vector<std::shared_ptr<TokenGrammar>> held;
  absl::Status status;
  while (status.ok() && held.size() < 100) {
    auto grammar = get(static_cast<int>(held.size()));
    status = grammar.status();
    if (status.ok()) held.push_back(*std::move(grammar));
  }
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(status.message(), HasSubstr("grammars of requests that wait or run take the"));
  EXPECT_GE(held.size(), 5u);
  EXPECT_LE(held.size(), 8u);
  EXPECT_EQ(cache.memory().grammars(), static_cast<int64_t>(held.size()));
  EXPECT_LE(cache.memory().used(), cache.memory().limit());
  EXPECT_GT(cache.memory().used(), pieces);
  EXPECT_TRUE(get(0).ok());  // That is there.
  const size_t most = held.size();
  held.pop_back();
  EXPECT_TRUE(get(50).ok());
  held.clear();
  for (int i = 60; i < 80; ++i) EXPECT_TRUE(get(i).ok()) << i;
  EXPECT_EQ(cache.memory().grammars(), static_cast<int64_t>(most));
}

TEST_F(GrammarRequestTest, TheTextOfAnEmptyPromptKeepsItsSpace) {
  auto wire = RequestFromText(R"(text: "" add_bos: true)");
  EXPECT_FALSE(MakeRequests(wire, rules_, 5)->at(0).text.continues_text);
  wire.set_regex("a");
  EXPECT_TRUE(MakeRequests(wire, rules_, 5)->at(0).text.continues_text);
}

TEST_F(GrammarRequestTest, Refusals) {
  const std::pair<const char*, const char*> cases[] = {
      {"regex: 'a' grammar: 'root ::= [a]'", "grammar and regex are both set"},
      {"regex: 'a' json_schema: '{}'", "regex and json_schema are both set"},
      {"grammar: 'root = 1'", "grammar: at byte 5: "},
      {"regex: 'a(?=b)'", "regex: at byte 1: look-around is not supported"},
      {"grammar: ''", "grammar: it is empty"},
  };
  for (const auto& [wire, message] : cases) {
    const absl::Status status = Make(wire).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << wire;
    EXPECT_THAT(std::string(status.message()), StartsWith(message)) << wire;
  }
  const RequestRules ids_only = MakeRequestRules({100, 100, 64}, nullptr);
  const absl::Status status =
      MakeRequests(RequestFromText("tokens { ids: 5 } regex: 'a'"), ids_only, 5).status();
  EXPECT_EQ(status,
            absl::FailedPreconditionError("regex needs a tokenizer, and this model has none"));
}

}  // namespace
}  // namespace packrat
