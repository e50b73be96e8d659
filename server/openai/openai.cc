#include "server/openai/openai.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "models/files/json.h"
#include "server/openai/fields.h"
#include "server/openai/readers.h"

namespace packrat::openai {
namespace {

OrderedJson ModelJson(const Context& context) {
  OrderedJson model = {{"id", context.model},
                       {"object", "model"},
                       {"created", context.started},
                       {"owned_by", "packrat"}};
  if (context.max_context > 0) model["max_model_len"] = context.max_context;  // vLLM's name.
  return model;
}

}  // namespace

absl::StatusOr<Ask> ParseAsk(Endpoint endpoint, absl::string_view body, const Context& context) {
  const absl::StatusOr<OrderedJson> json = ParseBody(body);
  if (!json.ok()) return json.status();
  Draft draft;
  draft.endpoint = draft.form.endpoint = endpoint;
  draft.context = &context;
  const absl::Status status = ReadFields(*json, &draft);
  if (!status.ok()) return status;
  switch (endpoint) {
    case Endpoint::kCompletions:
      return FinishCompletions(std::move(draft));
    case Endpoint::kChat:
      return FinishChat(std::move(draft));
    case Endpoint::kResponses:
      break;
  }
  return FinishResponses(std::move(draft));
}

absl::Status Ask::InClientsNames(const absl::Status& status, size_t call) const {
  if (why_no_grammar != nullptr && absl::IsInvalidArgument(status) &&
      absl::StartsWith(status.message(), "grammar: ")) {
    const absl::Status why = why_no_grammar();
    if (!why.ok()) return why;
  }
  NameList own = names;
  for (auto& [ours, name] : own) {
    if (listed && name == "prompt") name = absl::StrCat("prompt[", call, "]");
  }
  return InNames(own, status);
}

std::string ListModels(const Context& context) {
  return Dump({{"object", "list"}, {"data", OrderedJson::array({ModelJson(context)})}});
}

absl::StatusOr<std::string> GetModel(const Context& context, absl::string_view name) {
  if (name == context.model) return Dump(ModelJson(context));
  if (name.empty()) {
    return absl::NotFoundError(
        absl::StrCat("/v1/models/ names no model; this server has ", context.model));
  }
  return WithParam(absl::NotFoundError(absl::StrCat("model is ", Quoted(std::string(name)),
                                                    "; this server has ", context.model)),
                   "model");
}

absl::Status NoEmbeddings() {
  return absl::InvalidArgumentError(
      "this server makes no embeddings: its models are trained to continue texts");
}

}  // namespace packrat::openai
