#include "server/generation/unary_methods.h"

#include <cstdint>
#include <utility>

#include "server/generation/model_info.h"
#include "server/generation/request_rules.h"

namespace packrat {

absl::Status Tokenize(const CallContext& call, const v1::TokenizeRequest& request,
                      v1::TokenizeResponse* response) {
  auto ids = TokenizeChecked(request, call.served.rules);
  if (!ids.ok()) return ids.status();
  for (int32_t id : *ids) {
    response->add_token_ids(id);
    response->add_pieces(call.served.tokenizer->PieceText(id));
  }
  return CheckAnswer(*response, "text");
}

absl::Status Detokenize(const CallContext& call, const v1::DetokenizeRequest& request,
                        v1::DetokenizeResponse* response) {
  auto text = DetokenizeChecked(request, call.served.rules);
  if (!text.ok()) return text.status();
  response->set_text(*std::move(text));
  return CheckAnswer(*response, "token_ids");
}

absl::Status GetModelInfo(const CallContext& call, const v1::GetModelInfoRequest&,
                          v1::GetModelInfoResponse* response) {
  FillModelInfo(call.served, *call.environment->options, response);
  return absl::OkStatus();
}

}  // namespace packrat
