#include "runtime/validate.h"

#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace packrat {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

RequestLimits Limits() {
  RequestLimits limits;
  limits.vocab_size = 100;
  limits.num_ids = 96;
  limits.max_context = 64;
  limits.has_tokenizer = true;
  limits.eos_ids = {2};
  return limits;
}

// The message that a request with this change gets; "" if it passes.
std::string Message(const std::function<void(Request*)>& change,
                    const RequestLimits& limits = Limits()) {
  Request request;
  request.prompt = {1, 5, 6};
  request.stop.max_tokens = 10;
  change(&request);
  const absl::Status status = ValidateRequest(request, limits);
  EXPECT_TRUE(status.ok() || absl::IsInvalidArgument(status)) << status;
  return std::string(status.message());
}

TEST(ValidateRequest, EveryBoundIsNamedWithItsRange) {
  using R = Request*;
  const struct {
    std::function<void(R)> change;
    const char* message;
  } kCases[] = {
      {[](R r) { r->prompt.clear(); },
       "prompt must have 1 to 63 tokens (max_context 64 less one to generate), got 0"},
      {[](R r) { r->prompt.assign(64, 1); },
       "prompt must have 1 to 63 tokens (max_context 64 less one to generate), got 64"},
      {[](R r) { r->prompt[1] = -1; }, "prompt[1] must be in [0, 100), got -1"},
      {[](R r) { r->prompt[2] = 100; }, "prompt[2] must be in [0, 100), got 100"},
      {[](R r) { r->stop.max_tokens = 0; },
       "max_tokens must be in [1, 61] (max_context 64 less 3 tokens of prompt), got 0"},
      {[](R r) { r->stop.max_tokens = 62; },
       "max_tokens must be in [1, 61] (max_context 64 less 3 tokens of prompt), got 62"},
      {[](R r) { r->stop.min_tokens = 11; }, "min_tokens must be in [0, max_tokens = 10], got 11"},
      {[](R r) { r->stop.min_tokens = -1; }, "min_tokens must be in [0, max_tokens = 10], got -1"},
      {[](R r) { r->sampling.temperature = kNan; }, "temperature must be in [0, 100], got nan"},
      {[](R r) { r->sampling.temperature = -0.5f; }, "temperature must be in [0, 100], got -0.5"},
      {[](R r) { r->sampling.temperature = kInf; }, "temperature must be in [0, 100], got inf"},
      {[](R r) { r->sampling.top_k = -1; }, "top_k must be in [0, 100], got -1"},
      {[](R r) { r->sampling.top_k = 101; }, "top_k must be in [0, 100], got 101"},
      {[](R r) { r->sampling.top_p = 0; }, "top_p must be in (0, 1], got 0"},
      {[](R r) { r->sampling.top_p = 1.5f; }, "top_p must be in (0, 1], got 1.5"},
      {[](R r) { r->sampling.top_p = kNan; }, "top_p must be in (0, 1], got nan"},
      {[](R r) { r->sampling.min_p = 1; }, "min_p must be in [0, 1), got 1"},
      {[](R r) { r->sampling.min_p = kNan; }, "min_p must be in [0, 1), got nan"},
      {[](R r) { r->sampling.repetition_penalty = 0; },
       "repetition_penalty must be in (0, 10], got 0"},
      {[](R r) { r->sampling.repetition_penalty = kNan; },
       "repetition_penalty must be in (0, 10], got nan"},
      {[](R r) { r->sampling.repetition_penalty = 11; },
       "repetition_penalty must be in (0, 10], got 11"},
      {[](R r) { r->sampling.presence_penalty = 11; },
       "presence_penalty must be in [-10, 10], got 11"},
      {[](R r) { r->sampling.presence_penalty = -11; },
       "presence_penalty must be in [-10, 10], got -11"},
      {[](R r) { r->sampling.frequency_penalty = 11; },
       "frequency_penalty must be in [-10, 10], got 11"},
      {[](R r) { r->sampling.frequency_penalty = -11; },
       "frequency_penalty must be in [-10, 10], got -11"},
      {[](R r) {
         r->sampling.logit_bias = {{5, -1001}};
       },
       "logit_bias of token 5 must be in [-1000, 1000], got -1001"},
      {[](R r) { r->sampling.temperature = 101; }, "temperature must be in [0, 100], got 101"},
      {[](R r) { r->sampling.min_p = -0.5f; }, "min_p must be in [0, 1), got -0.5"},
      {[](R r) { r->cg_tolerance = 0.2f; }, "cg_tolerance must be in [1e-07, 0.1], got 0.2"},
      {[](R r) { r->sampling.num_logprobs = 21; }, "num_logprobs must be in [-1, 20], got 21"},
      {[](R r) { r->sampling.num_logprobs = -2; }, "num_logprobs must be in [-1, 20], got -2"},
      {[](R r) {
         r->sampling.logit_bias = {{5, 1001}};
       },
       "logit_bias of token 5 must be in [-1000, 1000], got 1001"},
      {[](R r) {
         r->sampling.logit_bias = {{5, kNan}};
       },
       "logit_bias of token 5 must be in [-1000, 1000], got nan"},
      {[](R r) {
         r->sampling.logit_bias = {{5, 1}, {100, 1}};
       },
       "logit_bias[1] must be in [0, 100), got 100"},
      {[](R r) {
         r->sampling.logit_bias = {{5, 1}, {6, 1}, {5, 2}};
       },
       "logit_bias must name each token once, got token 5 twice"},
      {[](R r) {
         r->sampling.allowed_ids = {5, 100};
       },
       "allowed_ids[1] must be in [0, 100), got 100"},
      {[](R r) { r->sampling.banned_ids = {-7}; }, "banned_ids[0] must be in [0, 100), got -7"},
      {[](R r) { r->stop.stop_ids = {100}; }, "stop_ids[0] must be in [0, 100), got 100"},
      {[](R r) { r->stop.stop_ids.assign(257, 1); }, "stop_ids must be in [0, 256] ids, got 257"},
      {[](R r) { r->stop.stop_strings.assign(1000, "x"); },
       "stop_strings must be in [0, 16] strings, got 1000"},
      {[](R r) {
         r->stop.stop_strings = {"x", ""};
       },
       "stop_strings[1] must be in [1, 256] bytes, got 0"},
      {[](R r) { r->stop.stop_strings = {std::string(257, 'x')}; },
       "stop_strings[0] must be in [1, 256] bytes, got 257"},
      {[](R r) { r->cg_tolerance = 0; }, "cg_tolerance must be in [1e-07, 0.1], got 0"},
      {[](R r) { r->cg_tolerance = kNan; }, "cg_tolerance must be in [1e-07, 0.1], got nan"},
      {[](R r) { r->cg_max_steps = 0; }, "cg_max_steps must be in [1, 1024], got 0"},
      {[](R r) { r->cg_max_steps = 1025; }, "cg_max_steps must be in [1, 1024], got 1025"},
      {[](R r) {
         r->sampling.allowed_ids = {5, 97};
         r->sampling.banned_ids = {5};
       },
       "allowed_token_ids and banned_token_ids leave no token to sample"},
      {[](R r) {
         for (int i = 0; i < 96; ++i) r->sampling.banned_ids.push_back(i);
       },
       "allowed_token_ids and banned_token_ids leave no token to sample"},
      {[](R r) {
         r->sampling.allowed_ids = {2, 7};
         r->stop.stop_ids = {7};
         r->stop.min_tokens = 1;
       },
       "min_tokens excludes the end and stop ids, and allowed_token_ids and banned_token_ids leave "
       "no other "
       "token to sample"},
  };
  for (const auto& c : kCases) EXPECT_EQ(Message(c.change), c.message);
}

TEST(ValidateRequest, TheEndsOfEveryRangePass) {
  EXPECT_EQ(Message([](Request* r) {}), "");
  EXPECT_EQ(Message([](Request* r) {
              r->prompt.assign(63, 99);
              r->stop.max_tokens = r->stop.min_tokens = 1;
              r->sampling.temperature = 0;
              r->sampling.top_k = 100;
              r->sampling.top_p = 1e-30f;
              r->sampling.min_p = 0.999f;
              r->sampling.repetition_penalty = 1e-30f;
              r->sampling.presence_penalty = -10;
              r->sampling.frequency_penalty = 10;
              r->sampling.num_logprobs = 20;
              r->sampling.logit_bias = {{0, -1000}, {99, 1000}};
              r->stop.stop_strings.assign(16, std::string(256, 'x'));
              r->stop.stop_ids.assign(256, 0);
              r->cg_tolerance = 1e-7f;
              r->cg_max_steps = 1;
            }),
            "");
  EXPECT_EQ(Message([](Request* r) {
              r->prompt.assign(1, 0);
              r->stop.max_tokens = 63;
              r->sampling.temperature = 100;
              r->sampling.repetition_penalty = 10;
              r->sampling.presence_penalty = 10;
              r->sampling.frequency_penalty = -10;
              r->cg_tolerance = 0.1f;
              r->cg_max_steps = 1024;
              r->sampling.allowed_ids = {2};  // min_tokens 0: the end id alone is enough.
            }),
            "");
}

TEST(ValidateRequest, StopStringsNeedATokenizer) {
  RequestLimits limits = Limits();
  limits.has_tokenizer = false;
  Request request;
  request.prompt = {1};
  request.stop.max_tokens = 4;
  request.stop.stop_strings = {"x"};
  EXPECT_TRUE(absl::IsFailedPrecondition(ValidateRequest(request, limits)));
}

}  // namespace
}  // namespace packrat
