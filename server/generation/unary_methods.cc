#include "server/generation/unary_methods.h"

#include <cstdint>
#include <utility>

#include "models/state_layout.h"
#include "runtime/capacity.h"
#include "runtime/engine.h"
#include "runtime/state_pool.h"
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

absl::Status GetPlan(const CallContext& call, const v1::GetPlanRequest&,
                     v1::GetPlanResponse* response) {
  const Engine& engine = *call.served.engine;
  const StateLayout& layout = call.served.model->state_layout();
  const EngineOptions& options = engine.options();
  response->set_state_bytes(static_cast<int64_t>(PoolBytes(layout, engine.state_parts())));
  response->set_park_bytes(options.park_memory);
  response->set_host_memory_bytes(options.state_host_memory);
  response->set_disk_bytes(options.state_dir.empty() ? 0 : options.state_disk);
  for (const Capacity& row :
       CapacityOf(layout, engine.state_parts(), options, call.environment->options->sessions)) {
    v1::Capacity* capacity = response->add_capacity();
    capacity->set_tokens(row.tokens);
    capacity->set_sequence_bytes(row.sequence_bytes);
    capacity->set_sequences(row.sequences);
    capacity->set_kept_states_in_pool(row.kept.pool);
    capacity->set_kept_states_in_memory(row.kept.memory);
    capacity->set_kept_states_on_disk(row.kept.disk);
    capacity->set_idle_sessions(row.idle_sessions);
  }
  return absl::OkStatus();
}

}  // namespace packrat
