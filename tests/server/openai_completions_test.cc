// What requests to /v1/completions become, and what hostile JSON gets.
#include <gtest/gtest.h>

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tests/server/openai_ask.h"

namespace packrat::openai {
namespace {

TEST(Completions, APromptIsTextIdsOrAListOfEither) {
  EXPECT_EQ(Calls(Complete(R"({"model": "rat", "prompt": "a"})")), R"(text: "a")");
  EXPECT_EQ(Calls(Complete(R"({"prompt": [1, 2]})")), "tokens { ids: 1 ids: 2 }");
  EXPECT_EQ(Calls(Complete(R"({"prompt": ["a", "b"]})")), R"(text: "a" text: "b")");
  EXPECT_EQ(Calls(Complete(R"({"prompt": [[1], [2, 3]]})")),
            "tokens { ids: 1 } tokens { ids: 2 ids: 3 }");
  EXPECT_EQ(Complete(R"({"prompt": [[1], [2, 3]]})")->form.calls, 2);
  EXPECT_EQ(Calls(Complete(R"({"session": "s"})")), R"(session: "s")");
}

TEST(Completions, EveryOptionHasItsPlace) {
  EXPECT_EQ(Calls(Complete(R"({
      "prompt": "a", "max_tokens": 7, "temperature": 0.5, "top_p": 0.25, "n": 3, "logprobs": 2,
      "stop": ["x", "y"], "seed": 18446744073709551615, "presence_penalty": 1,
      "frequency_penalty": -2, "logit_bias": {"5": -100, "6": 1.5}, "top_k": 40, "min_p": 0.125,
      "repetition_penalty": 2, "min_tokens": 1, "ignore_eos": true, "stop_token_ids": [8, 9],
      "allowed_token_ids": [1, 2], "banned_token_ids": [3], "skip_special_tokens": false,
      "add_bos": false, "parse_special": true, "use_cache": false, "cache_salt": "s",
      "priority": -4, "solver": {"cg_tolerance": 0.5, "cg_max_steps": 3}, "user": "u"})")),
            "text: \"a\" add_bos: false parse_special: true skip_special_tokens: false sampling { "
            "temperature: 0.5 top_k: 40 top_p: 0.25 min_p: 0.125 repetition_penalty: 2 "
            "presence_penalty: 1 frequency_penalty: -2 logit_bias { token_id: 5 bias: -100 } "
            "logit_bias { token_id: 6 bias: 1.5 } allowed_token_ids: 1 allowed_token_ids: 2 "
            "banned_token_ids: 3 seed: 18446744073709551615 num_logprobs: 2 } stop { strings: "
            "\"x\" strings: \"y\" token_ids: 8 token_ids: 9 min_tokens: 1 max_tokens: 7 "
            "ignore_eos: true } solver { cg_tolerance: 0.5 cg_max_steps: 3 } priority: -4 "
            "use_cache: false cache_salt: \"s\" num_choices: 3");
}

TEST(Completions, WhatHasTwoForms) {
  EXPECT_EQ(Calls(Complete(R"({"prompt": "", "stop": "x"})")), R"(text: "" stop { strings: "x" })");
  EXPECT_EQ(Calls(Complete(R"({"prompt": "", "stop": []})")), R"(text: "" stop { })");
  EXPECT_EQ(Calls(Complete(R"({"prompt": "", "top_k": -1})")), R"(text: "" sampling { top_k: 0 })");
  EXPECT_EQ(Calls(Complete(R"({"prompt": "", "seed": -1})")),
            R"(text: "" sampling { seed: 18446744073709551615 })");
  EXPECT_EQ(Calls(Complete(R"({"prompt": "", "max_tokens": 2.0})")),
            R"(text: "" stop { max_tokens: 2 })");
  EXPECT_EQ(Calls(Complete(R"({"prompt": "", "add_special_tokens": true})")),
            R"(text: "" add_bos: true)");
}

TEST(Completions, NullIsUnset) {
  EXPECT_EQ(Calls(Complete(R"({"prompt": "a", "model": null, "stop": null, "logprobs": null,
      "suffix": null, "best_of": null, "unheard_of": null, "stream_options": null})")),
            R"(text: "a")");
}

TEST(Completions, TheBestOfSeveralNeedLogProbabilities) {
  const absl::StatusOr<Ask> ask = Complete(R"({"prompt": "a", "n": 2, "best_of": 5})");
  EXPECT_EQ(Calls(ask), R"(text: "a" sampling { num_logprobs: 0 } num_choices: 5)");
  EXPECT_EQ(ask->form.made, 5);
  EXPECT_EQ(ask->form.shown, 2);
  EXPECT_FALSE(ask->form.logprobs);
  EXPECT_EQ(Refusal(Complete(R"({"prompt": "a", "n": 2, "best_of": 1})")),
            "400 best_of: best_of is 1; at least n, which is 2");
  EXPECT_EQ(Refusal(Complete(R"({"prompt": "a", "best_of": 2, "stream": true})")),
            "400 best_of: best_of is more than n; with stream nobody knows yet which are the best");
}

// What lm-eval's local-completions sends for a log-likelihood. It drops the last entry, whatever it
// is: so an end token, which would not be sent, must not end the text.
TEST(Completions, EchoWithLogprobsScoresThePrompt) {
  EXPECT_EQ(
      Calls(Complete(R"({"model": "rat", "prompt": [[5, 6, 7]], "temperature": 0,
      "max_tokens": 1, "logprobs": 1, "seed": 1234, "echo": true})")),
      "tokens { ids: 5 ids: 6 ids: 7 } sampling { temperature: 0 seed: 1234 num_logprobs: 1 } "
      "stop { max_tokens: 1 ignore_eos: true } echo_prompt: true");
  EXPECT_EQ(Calls(Complete(R"({"prompt": "a", "max_tokens": 2, "logprobs": 1, "echo": true})")),
            R"(text: "a" sampling { num_logprobs: 1 } stop { max_tokens: 2 } echo_prompt: true)");
  // The text is repeated by us; no scores are needed.
  EXPECT_EQ(Calls(Complete(R"({"prompt": "a", "echo": true})")), R"(text: "a")");
}

TEST(Completions, EchoWithoutATokenToMakeIsAScore) {
  EXPECT_EQ(Calls(Complete(R"({"prompt": ["a", "b"], "max_tokens": 0, "logprobs": 3, "echo": true,
      "cache_salt": "s", "priority": 2, "add_bos": true})")),
            "score text: \"a\" add_bos: true num_logprobs: 3 priority: 2 cache_salt: \"s\" "
            "score text: \"b\" add_bos: true num_logprobs: 3 priority: 2 cache_salt: \"s\"");
  // Without echo who runs the call says which range max_tokens has.
  EXPECT_EQ(Calls(Complete(R"({"prompt": "a", "max_tokens": 0})")),
            R"(text: "a" stop { max_tokens: 0 })");
  EXPECT_EQ(Refusal(Complete(R"({"prompt": "a", "max_tokens": 0, "echo": true, "n": 2})")),
            "400 n: n must be 1 where max_tokens is 0");
}

TEST(Completions, WhatCannotBeCombined) {
  EXPECT_EQ(Refusal(Complete(R"({"prompt": "a", "stream_options": {"include_usage": true}})")),
            "400 stream_options: stream_options can be used with stream only");
  EXPECT_EQ(Refusal(Complete(R"({"prompt": ["a", "b"], "session": "s"})")),
            "400 prompt: prompt has 2 prompts; 1 in a session");
  EXPECT_EQ(Refusal(Complete(R"({"prompt": "a", "session": "s", "echo": true})")),
            "400 echo: echo is true; the text of a session is not repeated");
  EXPECT_EQ(Refusal(Complete(R"({"prompt": "a", "echo": true, "logprobs": 1, "n": 2,
      "stream": true})")),
            "400 n: n is more than 1; 1 with stream, echo and logprobs together");
  EXPECT_EQ(Refusal(Complete(R"({"prompt": "a", "add_bos": true, "add_special_tokens": false})")),
            "400 add_special_tokens: add_special_tokens says something else than add_bos; send one "
            "of them");
  EXPECT_EQ(Calls(Complete(R"({"prompt": "a", "add_bos": true, "add_special_tokens": true})")),
            R"(text: "a" add_bos: true)");
}

TEST(Completions, WrongTypesAreRefusedByName) {
  const std::pair<const char*, const char*> cases[] = {
      {R"({})", "400 prompt: prompt is missing"},
      {R"({"prompt": 1})",
       "400 prompt: prompt is 1; must be a string, token ids, or a list of either"},
      {R"({"prompt": []})",
       "400 prompt: prompt is an empty list; must be a string, token ids, or a list of either"},
      {R"({"prompt": ["a", 1]})",
       "400 prompt[1]: prompt[1] is 1; must be a string, as those before it"},
      {R"({"prompt": [1, "a"]})", R"(400 prompt[1]: prompt[1] is "a"; must be a token id)"},
      {R"({"prompt": [[1], "a"]})",
       R"(400 prompt[1]: prompt[1] is "a"; must be a list of token ids, as those before it)"},
      {R"({"prompt": [1.5]})", "400 prompt[0]: prompt[0] is 1.5; must be a token id"},
      {R"({"prompt": [4294967296]})", "400 prompt[0]: prompt[0] is 4294967296; must be a token id"},
      {R"({"prompt": [true]})",
       "400 prompt[0]: prompt[0] is true; must be a string, a token id or a list of ids"},
      {R"({"temperature": "1"})",
       R"(400 temperature: temperature is "1"; must be a number that a float can hold)"},
      {R"({"temperature": 1e39})",
       "400 temperature: temperature is 1e+39; must be a number that a float can hold"},
      {R"({"max_tokens": 1.5})",
       "400 max_tokens: max_tokens is 1.5; must be an integer of 32 bits"},
      {R"({"max_tokens": 2147483648})",
       "400 max_tokens: max_tokens is 2147483648; must be an integer of 32 bits"},
      {R"({"seed": 18446744073709551616})",
       "400 seed: seed is 1.8446744073709552e+19; must be an integer of 64 bits"},
      {R"({"seed": 0.5})", "400 seed: seed is 0.5; must be an integer of 64 bits"},
      {R"({"stream": 1})", "400 stream: stream is 1; must be of type boolean"},
      {R"({"stop": 1})", "400 stop: stop is 1; must be of type string or array"},
      {R"({"stop": ["a", 1]})", "400 stop[1]: stop[1] is 1; must be a string"},
      {R"({"logit_bias": {"x": 1}})", "400 logit_bias.x: logit_bias.x is no token id"},
      {R"({"logit_bias": {"1": "x"}})",
       R"(400 logit_bias.1: logit_bias.1 is "x"; must be a number that a float can hold)"},
      {R"({"stop_token_ids": 1})", "400 stop_token_ids: stop_token_ids is 1; must be a list"},
      {R"({"stop_token_ids": [1, 0.5]})",
       "400 stop_token_ids[1]: stop_token_ids[1] is 0.5; must be an integer of 32 bits"},
      {R"({"solver": {"x": 1}})", "400 solver.x: solver.x is not known here"},
      {R"({"solver": 1})", "400 solver: solver is 1; must be an object"},
      {R"({"user": 1})", "400 user: user is 1; must be of type string"},
      {R"({"suffix": "x"})", R"(400 suffix: suffix is "x"; this server takes "" only)"},
      {R"({"logprobs": true})", "400 logprobs: logprobs is true; must be of type integer"},
      {R"({"logprobs": 0.5})", "400 logprobs: logprobs is 0.5; must be an integer of 32 bits"},
      {R"({"stream_options": {"usage": true}})",
       "400 stream_options.usage: stream_options.usage is not known here"},
      {R"({"stream_options": {"include_usage": 1}})",
       "400 stream_options.include_usage: stream_options.include_usage is 1; must be true or "
       "false"},
      {R"({"messages": []})", "400 messages: Unrecognized request argument supplied: messages"},
      {R"({"model": "other"})", "404 model: model is \"other\"; this server has rat"},
      {R"({"model": 1})", "400 model: model is 1; must be of type string"},
  };
  for (const auto& [body, refusal] : cases) EXPECT_EQ(Refusal(Complete(body)), refusal);
}

TEST(Completions, PromptsAreCountedAndTheirOptionsNotCopiedWithoutEnd) {
  const auto prompts = [](int count) {
    std::string list = "\"a\"";
    for (int i = 1; i < count; ++i) list += ",\"a\"";
    return list;
  };
  EXPECT_EQ(Complete(absl::StrCat("{\"prompt\": [", prompts(256), "]}"))->calls.size(), 256u);
  EXPECT_EQ(Refusal(Complete(absl::StrCat("{\"prompt\": [", prompts(257), "]}"))),
            "400 prompt: prompt has 257 prompts; range [1, 256]");
  std::string ids = "1000000";
  for (int i = 0; i < 200000; ++i) ids += ",1000000";
  EXPECT_EQ(Refusal(Complete(absl::StrCat("{\"allowed_token_ids\": [", ids, "], \"prompt\": [",
                                          prompts(256), "]}"))),
            "400 prompt: prompt has too many prompts for options of this size; send fewer");
}

TEST(Hostile, EachIsRefusedAndSaysWhere) {
  const auto deep = [](int levels) {
    return absl::StrCat("{\"prompt\": ", std::string(levels, '['), std::string(levels, ']'), "}");
  };
  const std::pair<std::string, const char*> cases[] = {
      {"", "400 -: the body: not valid JSON at byte 1"},
      {"[]", "400 -: the body is an empty list; must be an object"},
      {"null", "400 -: the body is null; must be an object"},
      {"{", "400 -: the body: not valid JSON at byte 2"},
      {"{} {}", "400 -: the body: not valid JSON at byte 4"},
      {std::string("{}\0", 3), "400 -: the body: not valid JSON: a NUL at byte 3"},
      {deep(128), "400 prompt: prompt: nested more than 128 levels deep"},
      {deep(1000000), "400 prompt: prompt: nested more than 128 levels deep"},
      {R"({"top_p": NaN})", "400 top_p: top_p: not valid JSON at byte 11"},
      {R"({"top_p": Infinity})", "400 top_p: top_p: not valid JSON at byte 11"},
      {R"({"top_p": 1e999})", R"(400 top_p: top_p: number out of range: "1e999")"},
      {R"({"n": 1, "n": 2})", R"(400 n: n: duplicate key "n")"},
      {R"({"solver": {"a": 1, "a": 2}})", R"(400 solver: solver: duplicate key "a")"},
      {R"({"prompt": "\ud800"})", "400 prompt: prompt: not valid JSON at byte 19"},
      {R"({"prompt": "\ud800\u0041"})", "400 prompt: prompt: not valid JSON at byte 24"},
      {R"({"prompt": "\udc00"})", "400 prompt: prompt: not valid JSON at byte 18"},
      {"{\"prompt\": \"\xff\"}", "400 prompt: prompt: not valid JSON at byte 13"},
      {"{\"prompt\": \"\xed\xa0\x80\"}", "400 prompt: prompt: not valid JSON at byte 14"},
      {R"({"prompt": "a)", "400 prompt: prompt: not valid JSON at byte 14"},
      {R"({"prompt": "a", /* */ "n": 1})", "400 prompt: prompt: not valid JSON at byte 17"},
  };
  for (const auto& [body, refusal] : cases) {
    EXPECT_EQ(Refusal(Complete(body)).substr(0, std::string(refusal).size()), refusal)
        << body.substr(0, 40);
  }
  // One less is not too deep, and wrong for another reason.
  EXPECT_EQ(Refusal(Complete(deep(127))),
            "400 prompt[0][0]: prompt[0][0] is a list; must be a token id");
}

// The library's own reader takes a time that grows with the square of the number of keys.
TEST(Hostile, ManyKeysTakeNoTime) {
  std::string body = "{\"metadata\": {\"k\": 1";
  for (int i = 0; i < 300000; ++i) absl::StrAppend(&body, ",\"", i, "\":1");
  EXPECT_EQ(Refusal(Complete(body + "}, \"prompt\": \"a\"}")),
            "400 metadata: metadata has 300001 keys; range [0, 16]");
}

TEST(Hostile, LongNamesAreCut) {
  const std::string refusal = Refusal(Complete("{\"" + std::string(100000, 'x') + "\": 1}"));
  EXPECT_LT(refusal.size(), 400u);
  EXPECT_NE(refusal.find("Unrecognized request argument supplied: \"xxx"), std::string::npos);
}

}  // namespace
}  // namespace packrat::openai
