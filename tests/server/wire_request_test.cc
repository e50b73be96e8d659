// Every field of a GenerateRequest arrives in its own field of the engine's Request, and in no
// other.
#include <gtest/gtest.h>

#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "proto/packrat/v1/inference.pb.h"
#include "server/generation/request_rules.h"
#include "tests/server/test_server.h"
#include "tests/server/wire_fields.h"

namespace packrat {
namespace {

using Fields = std::map<std::string, std::string>;

// All that a wire request decides.
Fields Show(const Request& r) {
  const SamplingParams& p = r.sampling;
  const StopParams& s = r.stop;
  return {
      {"prompt", absl::StrJoin(r.prompt, ",")},
      {"priority", absl::StrCat(r.priority)},
      {"use_cache", absl::StrCat(r.cache.use)},
      {"cache_salt", r.cache.salt},
      {"cg_tolerance", absl::StrCat(r.solver.cg_tolerance)},
      {"cg_max_steps", absl::StrCat(r.solver.cg_max_steps)},
      {"temperature", absl::StrCat(p.temperature)},
      {"top_k", absl::StrCat(p.top_k)},
      {"top_p", absl::StrCat(p.top_p)},
      {"min_p", absl::StrCat(p.min_p)},
      {"repetition_penalty", absl::StrCat(p.repetition_penalty)},
      {"presence_penalty", absl::StrCat(p.presence_penalty)},
      {"frequency_penalty", absl::StrCat(p.frequency_penalty)},
      {"logit_bias", absl::StrJoin(p.logit_bias, ",", absl::PairFormatter(":"))},
      {"allowed_ids", absl::StrJoin(p.allowed_ids, ",")},
      {"banned_ids", absl::StrJoin(p.banned_ids, ",")},
      {"seed", absl::StrCat(p.seed)},
      {"num_logprobs", absl::StrCat(p.num_logprobs.value_or(-1))},
      {"stop_strings", absl::StrJoin(r.text.stop_strings, ",")},
      {"stop_ids", absl::StrJoin(s.ids, ",")},
      {"skip_special_tokens", absl::StrCat(r.text.skip_special_tokens)},
      {"continues_text", absl::StrCat(r.text.continues_text)},
      {"min_tokens", absl::StrCat(s.min_tokens)},
      {"max_tokens", absl::StrCat(s.max_tokens)},
      {"ignore_eos", absl::StrCat(s.ignore_eos)},
      {"score_from", absl::StrCat(r.score_from.value_or(-1))},
      {"dial", absl::StrCat(r.dials.last)},
  };
}

const struct {
  const char* wire;   // Added to a request for the text "Hello".
  const char* field;  // The one that changes ...
  const char* value;  // ... to this.
} kRows[] = {
    {R"(text: "world")", "prompt", "1,1526"},
    {"tokens { ids: 5 ids: 6 }", "prompt", "5,6"},
    {"add_bos: false", "prompt", "22557"},
    {R"(text: "</s>" parse_special: true)", "prompt", "1,2"},
    {"skip_special_tokens: false", "skip_special_tokens", "0"},
    {"priority: -7", "priority", "-7"},
    {"use_cache: false", "use_cache", "0"},
    {R"(cache_salt: "pepper")", "cache_salt", "pepper"},
    {"sampling { temperature: 0.5 }", "temperature", "0.5"},
    {"sampling { top_k: 40 }", "top_k", "40"},
    {"sampling { top_p: 0.75 }", "top_p", "0.75"},
    {"sampling { min_p: 0.125 }", "min_p", "0.125"},
    {"sampling { repetition_penalty: 1.5 }", "repetition_penalty", "1.5"},
    {"sampling { presence_penalty: 0.25 }", "presence_penalty", "0.25"},
    {"sampling { frequency_penalty: -0.25 }", "frequency_penalty", "-0.25"},
    {"sampling { logit_bias { token_id: 9 bias: -2 } logit_bias { token_id: 4 bias: 3 } }",
     "logit_bias", "9:-2,4:3"},
    {"sampling { allowed_token_ids: 7 allowed_token_ids: 8 }", "allowed_ids", "7,8"},
    {"sampling { banned_token_ids: 9 banned_token_ids: 3 }", "banned_ids", "9,3"},
    {"sampling { seed: 77 }", "seed", "77"},
    {"sampling { num_logprobs: 3 }", "num_logprobs", "3"},
    {R"(stop { strings: "one" strings: "two" })", "stop_strings", "one,two"},
    {"stop { token_ids: 11 token_ids: 12 }", "stop_ids", "11,12"},
    {"stop { min_tokens: 4 }", "min_tokens", "4"},
    {"stop { max_tokens: 9 }", "max_tokens", "9"},
    {"stop { ignore_eos: true }", "ignore_eos", "1"},
    {"solver { cg_tolerance: 0.03125 }", "cg_tolerance", "0.03125"},
    {"solver { cg_max_steps: 17 }", "cg_max_steps", "17"},
    {"echo_prompt: true", "score_from", "1"},
    {R"(rat_plus_dial: "64")", "dial", "1"},
};

TEST(WireRequest, EachFieldArrivesInItsOwnAndInNoOther) {
  TestServer::Options options;
  options.tokenizer = true;
  TestServer server(options);
  RequestRules rules = MakeRequestRules(
      {/*vocab_size=*/32000, /*num_ids=*/32000, /*max_context=*/1024, /*has_tokenizer=*/true},
      server.tokenizer());
  rules.limits.dials = {"16", "64"};
  const v1::GenerateRequest plain = RequestFromText(R"(text: "Hello")");
  const auto shown = MakeRequests(plain, rules, /*seed=*/5);
  ASSERT_TRUE(shown.ok()) << shown.status();
  const Fields before = Show(shown->at(0));
  EXPECT_EQ(before.at("prompt"), "1,22557");
  EXPECT_EQ(before.at("seed"), "5");
  for (const auto& row : kRows) {
    v1::GenerateRequest wire = plain;
    wire.MergeFrom(RequestFromText(row.wire));
    const auto request = MakeRequests(wire, rules, /*seed=*/5);
    ASSERT_TRUE(request.ok()) << row.wire << ": " << request.status();
    Fields wanted = before;
    EXPECT_NE(wanted.at(row.field), row.value) << "choose another value than the default";
    wanted[row.field] = row.value;
    EXPECT_EQ(Show(request->at(0)), wanted) << row.wire;
  }
}

TEST(WireRequest, ChoicesDifferInTheirSeedsAlone) {
  const RequestRules rules = MakeRequestRules({100, 100, 64}, nullptr);
  const auto requests = MakeRequests(
      RequestFromText("tokens { ids: 5 } num_choices: 3 echo_prompt: true"), rules, /*seed=*/7);
  ASSERT_TRUE(requests.ok()) << requests.status();
  ASSERT_EQ(requests->size(), 3u);
  for (int i = 0; i < 3; ++i) {
    Fields shown = Show(requests->at(i));
    EXPECT_EQ(shown["seed"], absl::StrCat(7 + i));
    EXPECT_EQ(shown["score_from"], i == 0 ? "1" : "-1");  // The prompt is scored once.
    EXPECT_EQ(shown["prompt"], "5");
  }
}

TEST(WireRequest, EveryFieldIsInTheTable) {
  std::string rows = " num_choices:";  // It arrives as so many requests.
  for (const auto& row : kRows) absl::StrAppend(&rows, " ", row.wire);
  // Refused where they are set.
  const std::set<std::string> unbuilt = {"fork_from", "snapshot"};
  for (const std::string& path : FieldsOfARequest()) {
    if (unbuilt.count(path) > 0) continue;
    if (path.rfind("chat.", 0) == 0) continue;  // See chat_request_test.cc.
    // See grammar_request_test.cc.
    if (path == "grammar" || path == "regex" || path == "json_schema") continue;
    if (path == "session") continue;  // Not the engine's: see below, and sessions_test.cc.
    const std::string name = path.substr(path.rfind('.') + 1);
    EXPECT_NE(rows.find(absl::StrCat(" ", name, ":")), std::string::npos)
        << "give " << path << " a row in this test";
  }
}

// Behind the text of a session.
TEST(WireRequest, ATurnJoinsTheTextAsItIs) {
  TestServer::Options options;
  options.tokenizer = true;
  TestServer server(options);
  const RequestRules rules =
      MakeRequestRules({/*vocab_size=*/32000, /*num_ids=*/32000, /*max_context=*/10,
                        /*has_tokenizer=*/true},
                       server.tokenizer());
  const std::vector<int32_t> history = {1, 22557};  // "Hello"
  const auto prompt = [&](const std::string& wire) {
    const auto requests = MakeRequests(RequestFromText(wire), rules, 5, history);
    EXPECT_TRUE(requests.ok()) << wire << ": " << requests.status();
    const Request* request = &requests->front();
    EXPECT_TRUE(request->text.continues_text);
    return absl::StrJoin(request->prompt, ",");
  };
  EXPECT_EQ(prompt(R"(text: " Hello")"), "1,22557,22557");
  EXPECT_EQ(prompt(R"(text: "!")"), "1,22557,28808");
  EXPECT_EQ(prompt(R"(text: "!" add_bos: true)"), "1,22557,1,28808");
  EXPECT_EQ(prompt("tokens { ids: 5 }"), "1,22557,5");
  // What the session holds goes on by itself.
  EXPECT_EQ(prompt(""), "1,22557");
  EXPECT_EQ(prompt(R"(text: "")"), "1,22557");
  EXPECT_EQ(prompt("tokens {}"), "1,22557");

  const auto refusal = [&](const std::string& wire) {
    return std::string(MakeRequests(RequestFromText(wire), rules, 5, history).status().message());
  };
  EXPECT_EQ(refusal("tokens { ids: [5, 5, 5, 5, 5, 5, 5, 5] }"),
            "prompt has 10 tokens; range [1, 9] (max_context 10): 2 of the session and 8 new");
  EXPECT_EQ(
      refusal("tokens { ids: 5 } session: 'x' num_choices: 2"),
      "num_choices is 2; 1 in a session, which goes on with one; fork the session for others");
  EXPECT_EQ(refusal("tokens { ids: [5, 5] } stop { max_tokens: 7 }"),
            "stop.max_tokens is 7; range [1, 6] (max_context 10 less 4 tokens of prompt): 2 of the "
            "session and 2 new");
}

}  // namespace
}  // namespace packrat
