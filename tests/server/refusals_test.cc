// Every bad argument is refused with a status that names the field and its range, and leaves
// nothing behind.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "server/client/connection.h"
#include "server/generation/request_rules.h"
#include "tests/server/test_server.h"

namespace packrat {
namespace {

using Code = absl::StatusCode;
using R = v1::GenerateRequest;

struct Case {
  const char* name;
  std::function<void(R*)> spoil;
  const char* field;  // What the message must name...
  const char* range;  // ...and its range.
  Code code = Code::kInvalidArgument;
};

const float kNan = std::numeric_limits<float>::quiet_NaN();
const float kInf = std::numeric_limits<float>::infinity();

template <typename Set>
std::function<void(R*)> Sampling(Set set) {
  return [set](R* r) { set(r->mutable_sampling()); };
}
template <typename Set>
std::function<void(R*)> Stop(Set set) {
  return [set](R* r) { set(r->mutable_stop()); };
}

// The model has 101 ids and a context of 512 tokens; the prompt is {5, 6}.
std::vector<Case> Cases() {
  using S = v1::SamplingParams;
  using T = v1::StopParams;
  return {
      {"no prompt", [](R* r) { r->clear_prompt(); }, "prompt", "text, tokens or chat"},
      {"empty prompt", [](R* r) { r->mutable_tokens()->clear_ids(); }, "prompt", "[1, 511]"},
      {"unknown id", [](R* r) { r->mutable_tokens()->add_ids(101); }, "tokens.ids[2]", "[0, 101)"},
      {"negative id", [](R* r) { r->mutable_tokens()->add_ids(-1); }, "tokens.ids[2]", "[0, 101)"},
      {"prompt as long as the context",
       [](R* r) {
         while (r->tokens().ids_size() < 512) r->mutable_tokens()->add_ids(7);
       },
       "prompt has 512 tokens", "[1, 511]"},
      {"add_bos with ids", [](R* r) { r->set_add_bos(false); }, "add_bos", "text"},
      {"parse_special with ids", [](R* r) { r->set_parse_special(false); }, "parse_special",
       "text"},
      {"text", [](R* r) { r->set_text("hello"); }, "text", "tokenizer", Code::kFailedPrecondition},
      {"NaN temperature", Sampling([](S* s) { s->set_temperature(kNan); }), "sampling.temperature",
       "[0, 100]"},
      {"negative temperature", Sampling([](S* s) { s->set_temperature(-0.1f); }),
       "sampling.temperature", "[0, 100]"},
      {"temperature beyond all integers", Sampling([](S* s) { s->set_temperature(1e30f); }),
       "sampling.temperature is 1e+30", "[0, 100]"},
      {"infinite temperature", Sampling([](S* s) { s->set_temperature(kInf); }),
       "sampling.temperature", "[0, 100]"},
      {"negative top_k", Sampling([](S* s) { s->set_top_k(-1); }), "sampling.top_k", "[0, 101]"},
      {"large top_k", Sampling([](S* s) { s->set_top_k(102); }), "sampling.top_k", "[0, 101]"},
      {"top_p 0", Sampling([](S* s) { s->set_top_p(0); }), "sampling.top_p", "(0, 1]"},
      {"top_p 1.1", Sampling([](S* s) { s->set_top_p(1.1f); }), "sampling.top_p", "(0, 1]"},
      {"NaN top_p", Sampling([](S* s) { s->set_top_p(kNan); }), "sampling.top_p", "(0, 1]"},
      {"min_p 1", Sampling([](S* s) { s->set_min_p(1); }), "sampling.min_p", "[0, 1)"},
      {"NaN min_p", Sampling([](S* s) { s->set_min_p(kNan); }), "sampling.min_p", "[0, 1)"},
      {"repetition_penalty 0", Sampling([](S* s) { s->set_repetition_penalty(0); }),
       "sampling.repetition_penalty", "(0, 10]"},
      {"presence_penalty 11", Sampling([](S* s) { s->set_presence_penalty(11); }),
       "sampling.presence_penalty", "[-10, 10]"},
      {"NaN frequency_penalty", Sampling([](S* s) { s->set_frequency_penalty(kNan); }),
       "sampling.frequency_penalty", "[-10, 10]"},
      {"num_logprobs 21", Sampling([](S* s) { s->set_num_logprobs(21); }), "sampling.num_logprobs",
       "[0, 20]"},
      {"num_logprobs -1", Sampling([](S* s) { s->set_num_logprobs(-1); }), "sampling.num_logprobs",
       "[0, 20]"},
      {"bias of an unknown id", Sampling([](S* s) { s->add_logit_bias()->set_token_id(101); }),
       "sampling.logit_bias[0]", "[0, 101)"},
      {"bias too large", Sampling([](S* s) { s->add_logit_bias()->set_bias(1001); }),
       "sampling.logit_bias[0].bias", "[-1000, 1000]"},
      {"NaN bias", Sampling([](S* s) { s->add_logit_bias()->set_bias(kNan); }),
       "sampling.logit_bias[0].bias", "[-1000, 1000]"},
      {"bias twice", Sampling([](S* s) {
         s->add_logit_bias();
         s->add_logit_bias();
       }),
       "sampling.logit_bias", "distinct"},
      {"bias too often", Sampling([](S* s) {
         for (int i = 0; i < 1025; ++i) s->add_logit_bias();
       }),
       "sampling.logit_bias", "[0, 1024]"},
      {"allowed unknown id", Sampling([](S* s) { s->add_allowed_token_ids(-3); }),
       "sampling.allowed_token_ids[0]", "[0, 101)"},
      {"banned unknown id", Sampling([](S* s) { s->add_banned_token_ids(1 << 30); }),
       "sampling.banned_token_ids[0]", "[0, 101)"},
      {"banned too often", Sampling([](S* s) {
         for (int i = 0; i < 102; ++i) s->add_banned_token_ids(1);
       }),
       "sampling.banned_token_ids", "[0, 101]"},
      {"everything banned", Sampling([](S* s) {
         for (int i = 0; i < 101; ++i) s->add_banned_token_ids(i);
       }),
       "banned", "no token"},
      {"1000 stop strings", Stop([](T* t) {
         for (int i = 0; i < 1000; ++i) t->add_strings("x");
       }),
       "stop.strings", "[0, 16]"},
      {"empty stop string", Stop([](T* t) { t->add_strings(""); }), "stop.strings[0]", "[1, 256]"},
      {"long stop string", Stop([](T* t) { t->add_strings(std::string(257, 'x')); }),
       "stop.strings[0]", "[1, 256]"},
      {"stop string without a tokenizer", Stop([](T* t) { t->add_strings("x"); }), "stop.strings",
       "tokenizer", Code::kFailedPrecondition},
      {"unknown stop id", Stop([](T* t) { t->add_token_ids(101); }), "stop.token_ids[0]",
       "[0, 101)"},
      {"too many stop ids", Stop([](T* t) {
         for (int i = 0; i < 257; ++i) t->add_token_ids(1);
       }),
       "stop.token_ids", "[0, 256]"},
      {"max_tokens 0", Stop([](T* t) { t->set_max_tokens(0); }), "stop.max_tokens", "[1, 511]"},
      {"max_tokens -5", Stop([](T* t) { t->set_max_tokens(-5); }), "stop.max_tokens", "[1, 511]"},
      {"max_tokens beyond the context", Stop([](T* t) { t->set_max_tokens(511); }),
       "stop.max_tokens", "[1, 510]"},
      {"min_tokens -1", Stop([](T* t) { t->set_min_tokens(-1); }), "stop.min_tokens", "[0, "},
      {"min_tokens beyond max_tokens", Stop([](T* t) {
         t->set_max_tokens(5);
         t->set_min_tokens(6);
       }),
       "stop.min_tokens", "[0, 5]"},
      {"cg_tolerance 0", [](R* r) { r->mutable_solver()->set_cg_tolerance(0); },
       "solver.cg_tolerance", "1e-7, 0.1]"},
      {"NaN cg_tolerance", [](R* r) { r->mutable_solver()->set_cg_tolerance(kNan); },
       "solver.cg_tolerance", "1e-7, 0.1]"},
      {"cg_max_steps 0", [](R* r) { r->mutable_solver()->set_cg_max_steps(0); },
       "solver.cg_max_steps", "[1, 1024]"},
      {"cg_max_steps 1025", [](R* r) { r->mutable_solver()->set_cg_max_steps(1025); },
       "solver.cg_max_steps", "[1, 1024]"},
      {"priority", [](R* r) { r->set_priority(101); }, "priority", "[-100, 100]"},
      {"cache_salt", [](R* r) { r->set_cache_salt(std::string(257, 'a')); }, "cache_salt",
       "[0, 256]"},
      // Known, not built: refused even where they say the default.
      {"fork_from", [](R* r) { r->set_fork_from("a"); }, "fork_from", "session of ForkSession"},
      {"snapshot", [](R* r) { r->set_snapshot("a"); }, "snapshot", "session of LoadSession"},
      {"num_choices", [](R* r) { r->set_num_choices(17); }, "num_choices is 17", "[1, 16]"},
      {"no choices", [](R* r) { r->set_num_choices(0); }, "num_choices is 0", "[1, 16]"},
  };
}

R GoodRequest() {
  R request;
  request.mutable_tokens()->add_ids(5);
  request.mutable_tokens()->add_ids(6);
  return request;
}

TEST(Refusals, EveryBadArgumentIsNamedWithItsRange) {
  TestServer server;
  Connection connection({server.address()});
  int messages = 0;
  for (const Case& bad : Cases()) {
    R request = GoodRequest();
    bad.spoil(&request);
    const auto outcome =
        connection.Generate(request, [&](const v1::GenerateResponse&) { ++messages; });
    EXPECT_EQ(outcome.status.code(), bad.code) << bad.name << ": " << outcome.status;
    const std::string message(outcome.status.message());
    EXPECT_TRUE(absl::StrContains(message, bad.field)) << bad.name << ": " << message;
    EXPECT_TRUE(absl::StrContains(message, bad.range)) << bad.name << ": " << message;
    EXPECT_FALSE(outcome.request_id.empty()) << bad.name;
  }
  EXPECT_EQ(messages, 0);
  EXPECT_EQ(server.Metric("packrat_engine_steps_total"), 0);
  // The request that they were made from is good.
  EXPECT_TRUE(connection.Generate(GoodRequest(), [](const auto&) {}).status.ok());
}

TEST(Refusals, TheDefaultOfMaxTokensIsWhatFits) {
  TestServer server;
  Connection connection({server.address()});
  R request = GoodRequest();
  while (request.tokens().ids_size() < 500) request.mutable_tokens()->add_ids(7);
  request.mutable_stop()->set_ignore_eos(true);
  int tokens = 0;
  const auto outcome = connection.Generate(
      request, [&](const v1::GenerateResponse& m) { tokens += m.token_ids_size(); });
  EXPECT_TRUE(outcome.status.ok()) << outcome.status;
  EXPECT_EQ(tokens, 12);
  request = GoodRequest();
  request.mutable_stop()->set_ignore_eos(true);
  tokens = 0;
  EXPECT_TRUE(
      connection
          .Generate(request, [&](const v1::GenerateResponse& m) { tokens += m.token_ids_size(); })
          .status.ok());
  EXPECT_EQ(tokens, 256);
}

TEST(Refusals, TextThatCannotFitIsRefusedBeforeItIsTokenized) {
  TestServer::Options options;
  options.tokenizer = true;
  TestServer server(options);
  Connection connection({server.address()});
  R request;
  request.set_text(std::string(100000, 'a'));
  const auto outcome = connection.Generate(request, [](const auto&) {});
  EXPECT_EQ(outcome.status.code(), Code::kInvalidArgument);
  EXPECT_TRUE(absl::StrContains(outcome.status.message(), "text has 100000 bytes"))
      << outcome.status;

  // Shorter, but too many tokens.
  request.set_text(std::string(2000, '#') + std::string(2000, '7'));
  const auto tokens = connection.Generate(request, [](const auto&) {});
  EXPECT_EQ(tokens.status.code(), Code::kInvalidArgument);
  EXPECT_TRUE(absl::StrContains(tokens.status.message(), "range [1, 511]")) << tokens.status;

  v1::TokenizeResponse ids;
  v1::TokenizeRequest tokenize;
  tokenize.set_text("good");
  EXPECT_TRUE(connection.Tokenize(tokenize, &ids).status.ok());
}

// Tokenizing needs a hundred times the memory of the text, and a core meanwhile.
TEST(Refusals, TokenizeHasABoundOfItsOwn) {
  TestServer::Options options;
  options.tokenizer = true;
  TestServer server(options);
  Connection connection({server.address()});
  v1::TokenizeRequest request;
  v1::TokenizeResponse response;
  // More than fits a prompt, which may well be counted.
  request.set_text(std::string(kMaxTokenizeBytes, 'a'));
  EXPECT_TRUE(connection.Tokenize(request, &response).status.ok());
  request.mutable_text()->push_back('a');
  const auto outcome = connection.Tokenize(request, &response);
  EXPECT_EQ(outcome.status.code(), Code::kInvalidArgument);
  EXPECT_TRUE(absl::StrContains(outcome.status.message(), "text has 262145 bytes; at most 262144"))
      << outcome.status;
}

TEST(Refusals, IdsOfDetokenizeAreChecked) {
  TestServer::Options options;
  options.tokenizer = true;
  TestServer server(options);
  Connection connection({server.address()});
  v1::DetokenizeRequest request;
  v1::DetokenizeResponse response;
  request.add_token_ids(32000);
  const auto outcome = connection.Detokenize(request, &response);
  EXPECT_EQ(outcome.status.code(), Code::kInvalidArgument);
  EXPECT_TRUE(absl::StrContains(outcome.status.message(), "token_ids[0] is 32000"))
      << outcome.status;
}

}  // namespace
}  // namespace packrat
