// POST /tokenize and /detokenize, as other servers have them.
#include <utility>

#include "server/openai/readers.h"

namespace packrat::openai {
namespace {

absl::Status CheckModel(const OrderedJson& body, const Context& context) {
  const OrderedJson* model = Find(body, "model");
  if (model == nullptr) return absl::OkStatus();
  const absl::StatusOr<std::string> name = ReadString("model", *model);
  if (!name.ok()) return name.status();
  return GetModel(context, *name).status();
}

// The member, or why there is none.
absl::StatusOr<const OrderedJson*> Need(const OrderedJson& body, const char* name) {
  const OrderedJson* value = Find(body, name);
  if (value == nullptr) return Refuse(name, "is missing");
  return value;
}

}  // namespace

absl::StatusOr<TokenizeAsk> ParseTokenize(absl::string_view body, const Context& context) {
  const absl::StatusOr<OrderedJson> json = ParseBody(body);
  if (!json.ok()) return json.status();
  TokenizeAsk ask;
  if (Find(*json, "messages") != nullptr) {
    absl::StatusOr<Ask> chat = ParseAsk(Endpoint::kChat, body, context);
    if (!chat.ok()) return chat.status();
    ask.call.mutable_chat()->Swap(std::get<v1::GenerateRequest>(chat->calls[0]).mutable_chat());
    ask.names = std::move(chat->names);
    return ask;
  }
  ask.names = {{"text", "prompt"}, {"add_bos", "add_special_tokens"}};
  absl::Status status = OnlyMembers("", *json, {"model", "prompt", "add_special_tokens"});
  if (status.ok()) status = CheckModel(*json, context);
  if (!status.ok()) return status;
  const absl::StatusOr<const OrderedJson*> prompt = Need(*json, "prompt");
  if (!prompt.ok()) return prompt.status();
  status = SetPath("prompt", **prompt, "text", &ask.call);
  const OrderedJson* special = Find(*json, "add_special_tokens");
  if (status.ok() && special != nullptr) {
    status = SetPath("add_special_tokens", *special, "add_bos", &ask.call);
  }
  if (!status.ok()) return status;
  return ask;
}

absl::StatusOr<DetokenizeAsk> ParseDetokenize(absl::string_view body, const Context& context) {
  const absl::StatusOr<OrderedJson> json = ParseBody(body);
  if (!json.ok()) return json.status();
  absl::Status status = OnlyMembers("", *json, {"model", "tokens"});
  if (status.ok()) status = CheckModel(*json, context);
  if (!status.ok()) return status;
  const absl::StatusOr<const OrderedJson*> tokens = Need(*json, "tokens");
  if (!tokens.ok()) return tokens.status();
  DetokenizeAsk ask;
  ask.names = {{"token_ids", "tokens"}};
  status = SetPath("tokens", **tokens, "token_ids", &ask.call);
  if (!status.ok()) return status;
  ask.call.set_skip_special_tokens(false);
  return ask;
}

}  // namespace packrat::openai
