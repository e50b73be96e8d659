#include "runtime/validate.h"

#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
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
      {[](R r) { r->prompt.clear(); }, "prompt has 0 tokens; range [1, 63] (max_context 64)"},
      {[](R r) { r->prompt.assign(64, 1); },
       "prompt has 64 tokens; range [1, 63] (max_context 64)"},
      {[](R r) { r->prompt[1] = -1; }, "prompt[1] is -1; range [0, 100)"},
      {[](R r) { r->prompt[2] = 100; }, "prompt[2] is 100; range [0, 100)"},
      {[](R r) { r->stop.max_tokens = 0; }, "stop.max_tokens is 0; range [1, 63]"},
      {[](R r) { r->stop.max_tokens = 62; },
       "stop.max_tokens is 62; range [1, 61] (max_context 64 less 3 tokens of prompt)"},
      {[](R r) { r->stop.min_tokens = 11; }, "stop.min_tokens is 11; range [0, 10]"},
      {[](R r) { r->stop.min_tokens = -1; }, "stop.min_tokens is -1; range [0, 10]"},
      {[](R r) { r->sampling.temperature = kNan; }, "sampling.temperature is nan; range [0, 100]"},
      {[](R r) { r->sampling.temperature = -0.5f; },
       "sampling.temperature is -0.5; range [0, 100]"},
      {[](R r) { r->sampling.temperature = kInf; }, "sampling.temperature is inf; range [0, 100]"},
      {[](R r) { r->sampling.top_k = -1; }, "sampling.top_k is -1; range [0, 100]"},
      {[](R r) { r->sampling.top_k = 101; }, "sampling.top_k is 101; range [0, 100]"},
      {[](R r) { r->sampling.top_p = 0; }, "sampling.top_p is 0; range (0, 1]"},
      {[](R r) { r->sampling.top_p = 1.5f; }, "sampling.top_p is 1.5; range (0, 1]"},
      {[](R r) { r->sampling.top_p = kNan; }, "sampling.top_p is nan; range (0, 1]"},
      {[](R r) { r->sampling.min_p = 1; }, "sampling.min_p is 1; range [0, 1)"},
      {[](R r) { r->sampling.min_p = kNan; }, "sampling.min_p is nan; range [0, 1)"},
      {[](R r) { r->sampling.repetition_penalty = 0; },
       "sampling.repetition_penalty is 0; range (0, 10]"},
      {[](R r) { r->sampling.repetition_penalty = kNan; },
       "sampling.repetition_penalty is nan; range (0, 10]"},
      {[](R r) { r->sampling.repetition_penalty = 11; },
       "sampling.repetition_penalty is 11; range (0, 10]"},
      {[](R r) { r->sampling.presence_penalty = 11; },
       "sampling.presence_penalty is 11; range [-10, 10]"},
      {[](R r) { r->sampling.presence_penalty = -11; },
       "sampling.presence_penalty is -11; range [-10, 10]"},
      {[](R r) { r->sampling.frequency_penalty = 11; },
       "sampling.frequency_penalty is 11; range [-10, 10]"},
      {[](R r) { r->sampling.frequency_penalty = -11; },
       "sampling.frequency_penalty is -11; range [-10, 10]"},
      {[](R r) {
         r->sampling.logit_bias = {{5, -1001}};
       },
       "sampling.logit_bias[0].bias is -1001; range [-1000, 1000]"},
      {[](R r) { r->sampling.temperature = 101; }, "sampling.temperature is 101; range [0, 100]"},
      {[](R r) { r->sampling.min_p = -0.5f; }, "sampling.min_p is -0.5; range [0, 1)"},
      {[](R r) { r->solver.cg_tolerance = 0.2f; }, "solver.cg_tolerance is 0.2; range [1e-7, 0.1]"},
      {[](R r) { r->sampling.num_logprobs = 21; }, "sampling.num_logprobs is 21; range [0, 20]"},
      {[](R r) { r->sampling.num_logprobs = -1; }, "sampling.num_logprobs is -1; range [0, 20]"},
      {[](R r) {
         r->sampling.logit_bias = {{5, 1001}};
       },
       "sampling.logit_bias[0].bias is 1001; range [-1000, 1000]"},
      {[](R r) {
         r->sampling.logit_bias = {{5, kNan}};
       },
       "sampling.logit_bias[0].bias is nan; range [-1000, 1000]"},
      {[](R r) {
         r->sampling.logit_bias = {{5, 1}, {100, 1}};
       },
       "sampling.logit_bias[1] is 100; range [0, 100)"},
      {[](R r) {
         r->sampling.logit_bias = {{5, 1}, {6, 1}, {5, 2}};
       },
       "sampling.logit_bias names token 5 more than once; ids must be distinct"},
      {[](R r) {
         r->sampling.allowed_ids = {5, 100};
       },
       "sampling.allowed_ids[1] is 100; range [0, 100)"},
      {[](R r) { r->sampling.banned_ids = {-7}; }, "sampling.banned_ids[0] is -7; range [0, 100)"},
      {[](R r) { r->stop.ids = {100}; }, "stop.ids[0] is 100; range [0, 100)"},
      {[](R r) { r->stop.ids.assign(257, 1); }, "stop.ids has 257 ids; range [0, 256]"},
      {[](R r) { r->text.stop_strings.assign(1000, "x"); },
       "text.stop_strings has 1000 strings; range [0, 16]"},
      {[](R r) {
         r->text.stop_strings = {"x", ""};
       },
       "text.stop_strings[1] has 0 bytes; range [1, 256]"},
      {[](R r) { r->text.stop_strings = {std::string(257, 'x')}; },
       "text.stop_strings[0] has 257 bytes; range [1, 256]"},
      {[](R r) { r->solver.cg_tolerance = 0; }, "solver.cg_tolerance is 0; range [1e-7, 0.1]"},
      {[](R r) { r->solver.cg_tolerance = kNan; }, "solver.cg_tolerance is nan; range [1e-7, 0.1]"},
      {[](R r) { r->solver.cg_max_steps = 0; }, "solver.cg_max_steps is 0; range [1, 1024]"},
      {[](R r) { r->solver.cg_max_steps = 1025; }, "solver.cg_max_steps is 1025; range [1, 1024]"},
      {[](R r) { r->priority = 101; }, "priority is 101; range [-100, 100]"},
      {[](R r) { r->priority = -101; }, "priority is -101; range [-100, 100]"},
      {[](R r) { r->sampling.logit_bias.resize(1025); },
       "sampling.logit_bias has 1025 entries; range [0, 1024]"},
      {[](R r) { r->sampling.allowed_ids.assign(101, 1); },
       "sampling.allowed_ids has 101 ids; range [0, 100]"},
      {[](R r) { r->sampling.banned_ids.assign(101, 1); },
       "sampling.banned_ids has 101 ids; range [0, 100]"},
      {[](R r) {
         r->prompt.assign(60, 1);
         r->stop.max_tokens = 4;
         r->stop.min_tokens = 5;
       },
       "stop.min_tokens is 5; range [0, 4]"},
      // The first error counts.
      {[](R r) {
         r->sampling.logit_bias = {{5, 1001}, {6, kNan}, {5, 1}};
       },
       "sampling.logit_bias[0].bias is 1001; range [-1000, 1000]"},
      {[](R r) {
         r->sampling.temperature = 101;
         r->sampling.banned_ids = {-1};
         r->text.stop_strings = {""};
       },
       "sampling.temperature is 101; range [0, 100]"},
      {[](R r) {
         r->sampling.allowed_ids = {2, 97};
         r->stop.min_tokens = 1;
       },
       "stop.min_tokens excludes the end and stop ids, and sampling.allowed_ids and "
       "sampling.banned_ids leave no other token to sample"},
      {[](R r) {
         r->sampling.allowed_ids = {5, 97};
         r->sampling.banned_ids = {5};
       },
       "sampling.allowed_ids and sampling.banned_ids leave no token to sample"},
      {[](R r) {
         for (int i = 0; i < 96; ++i) r->sampling.banned_ids.push_back(i);
       },
       "sampling.allowed_ids and sampling.banned_ids leave no token to sample"},
      {[](R r) {
         r->sampling.allowed_ids = {2, 7};
         r->stop.ids = {7};
         r->stop.min_tokens = 1;
       },
       "stop.min_tokens excludes the end and stop ids, and sampling.allowed_ids and "
       "sampling.banned_ids leave no other token to sample"},
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
              r->text.stop_strings.assign(16, std::string(256, 'x'));
              r->stop.ids.assign(256, 0);
              r->solver.cg_tolerance = 1e-7f;
              r->solver.cg_max_steps = 1;
            }),
            "");
  EXPECT_EQ(Message([](Request* r) {
              r->prompt.assign(1, 0);
              r->stop.max_tokens = 63;
              r->sampling.temperature = 100;
              r->sampling.repetition_penalty = 10;
              r->sampling.presence_penalty = 10;
              r->sampling.frequency_penalty = -10;
              r->solver.cg_tolerance = 0.1f;
              r->solver.cg_max_steps = 1024;
              r->sampling.allowed_ids = {2};  // min_tokens 0: the end id alone is enough.
            }),
            "");
  EXPECT_EQ(Message([](Request* r) {
              r->sampling.allowed_ids = {2};
              r->stop.min_tokens = 1;
              r->stop.ignore_eos = true;  // It ends nothing then.
            }),
            "");
}

// What a front end calls a field is what the message says.
TEST(ValidateRequest, NamesAreTheFrontEnds) {
  const FieldNames names = [](absl::string_view field) { return absl::StrCat("<", field, ">"); };
  const auto message = [&](const std::function<void(Request*)>& change) {
    Request request;
    request.prompt = {1};
    request.stop.max_tokens = 4;
    change(&request);
    return std::string(ValidateRequest(request, Limits(), names).message());
  };
  using R = Request*;
  EXPECT_EQ(message([](R r) { r->sampling.top_p = 2; }), "<sampling.top_p> is 2; range (0, 1]");
  EXPECT_EQ(message([](R r) { r->stop.ids = {-1}; }), "<stop.ids>[0] is -1; range [0, 100)");
  EXPECT_EQ(message([](R r) { r->prompt.clear(); }),
            "<prompt> has 0 tokens; range [1, 63] (max_context 64)");
  EXPECT_EQ(message([](R r) { r->prompt = {100}; }), "<prompt>[0] is 100; range [0, 100)");
}

// A prompt that is not there yet is not missing.
TEST(ValidateRequest, OptionsGoBeforeThePrompt) {
  Request request;
  request.stop.max_tokens = 63;
  EXPECT_TRUE(ValidateOptions(request, Limits(), NameInRequest).ok());
  request.stop.max_tokens = 64;
  EXPECT_EQ(ValidateOptions(request, Limits(), NameInRequest).message(),
            "stop.max_tokens is 64; range [1, 63] (max_context 64)");
  request.stop.max_tokens = 4;
  request.stop.min_tokens = 5;
  EXPECT_EQ(ValidateOptions(request, Limits(), NameInRequest).message(),
            "stop.min_tokens is 5; range [0, 4]");
  // max_tokens may only be known with the prompt.
  request.prompt = {1};
  EXPECT_EQ(ValidatePrompt(request, Limits(), NameInRequest).message(),
            "stop.min_tokens is 5; range [0, 4]");
}

TEST(ValidateRequest, StopStringsNeedATokenizer) {
  RequestLimits limits = Limits();
  limits.has_tokenizer = false;
  Request request;
  request.prompt = {1};
  request.stop.max_tokens = 4;
  request.text.stop_strings = {"x"};
  EXPECT_TRUE(absl::IsFailedPrecondition(ValidateRequest(request, limits)));
  request.sampling.temperature = 101;
  EXPECT_EQ(ValidateRequest(request, limits).message(),
            "sampling.temperature is 101; range [0, 100]");
}

}  // namespace
}  // namespace packrat
