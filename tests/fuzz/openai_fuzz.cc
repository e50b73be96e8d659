// Any bytes as the body of a request to one of OpenAI's endpoints, which the first byte picks, with
// the format of tool calls: refused with a message of bounded length, or calls whose answers are
// valid JSON whatever the model says, and whose forced calls have a grammar.
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <variant>

#include "absl/strings/match.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "kernels/check.h"
#include "models/text/grammar/gbnf.h"
#include "models/text/tool_calls/tool_format.h"
#include "nlohmann/json.hpp"
#include "server/openai/openai.h"

namespace packrat::openai {
namespace {

void CheckEvents(const std::string& events) {
  for (absl::string_view line : absl::StrSplit(events, '\n')) {
    if (absl::ConsumePrefix(&line, "data: ") && line != "[DONE]") {
      PACKRAT_CHECK(nlohmann::json::accept(line.begin(), line.end())) << std::string(line);
    }
  }
}

void CheckAnswer(const Ask& ask, const Context& context, const std::string& said) {
  const AnswerForm& form = ask.form;
  PACKRAT_CHECK(static_cast<int>(ask.calls.size()) == form.calls && form.calls >= 1);
  if (form.made < 1 || form.made > 16 || form.shown < 1) return;  // Refused by who runs the calls.
  PACKRAT_CHECK(form.shown <= form.made);
  const auto writer = MakeAnswerWriter(form, context, "id", 0);
  std::string written = writer->Begin();
  for (int call = 0; call < form.calls; ++call) {
    for (int choice = 0; choice < form.made; ++choice) {
      v1::GenerateResponse message;
      message.set_choice(choice);
      message.set_text(said);
      message.add_token_ids(choice);
      message.add_logprobs()->add_top()->set_piece(said);
      message.add_scores()->set_piece(said);
      message.mutable_finished();
      written += writer->Add(call, message);
    }
  }
  written += writer->Finish();
  if (form.stream) {
    CheckEvents(written);
    CheckEvents(writer->Fail(absl::InternalError(said)));
  } else {
    PACKRAT_CHECK(nlohmann::json::accept(written)) << written;
  }
}

// What a schema in it says may not be supported; the rest is ours.
void CheckForcedCall(const Ask& ask) {
  const auto* call = std::get_if<v1::GenerateRequest>(&ask.calls[0]);
  if (!ask.form.forced_call.has_value() || call == nullptr || !call->has_grammar()) return;
  const absl::Status status = ParseGbnf(call->grammar()).status();
  PACKRAT_CHECK(status.ok() || absl::StrContains(status.message(), "%json: ") ||
                absl::StrContains(status.message(), "bytes; at most"))
      << status;
}

}  // namespace
}  // namespace packrat::openai

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const auto endpoint = static_cast<packrat::openai::Endpoint>(data[0] % 3);
  const std::string body(reinterpret_cast<const char*>(data) + 1, size - 1);
  packrat::openai::Context context;
  context.model = "m";
  const auto& formats = packrat::ToolFormats();
  const size_t format = data[0] / 3 % (formats.size() + 1);
  if (format < formats.size()) context.tool_format = &formats[format];
  context.piece = [&body](int32_t id) { return body.substr(0, id & 7); };
  const auto ask = packrat::openai::ParseAsk(endpoint, body, context);
  if (ask.ok()) {
    packrat::openai::CheckForcedCall(*ask);
    packrat::openai::CheckAnswer(*ask, context, body.substr(0, 64));
    return 0;
  }
  const packrat::openai::ErrorAnswer error = packrat::openai::MakeErrorAnswer(ask.status());
  PACKRAT_CHECK(error.http_status == 400 || error.http_status == 404);
  PACKRAT_CHECK(nlohmann::json::accept(error.body));
  PACKRAT_CHECK(error.body.size() < 8192) << error.body.size();  // Not the input, repeated.
  return 0;
}
