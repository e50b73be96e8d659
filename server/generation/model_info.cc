#include "server/generation/model_info.h"

#include <algorithm>
#include <cstdint>

#include "kernels/cpu_target.h"
#include "models/config.h"
#include "models/model.h"
#include "models/state_layout.h"
#include "proto/packrat/v1/inference.pb.h"
#include "server/generation/call_environment.h"
#include "server/version.h"

namespace packrat {
namespace {

void FillState(const StateLayout& layout, const Engine& engine, v1::StateInfo* info) {
  const int64_t max_context = engine.options().max_context;
  double per_token = 0;
  int64_t windows = 0;
  for (const PageClass& pages : layout.page_classes) {
    if (pages.num_layers == 0) continue;  // Another dial's.
    if (pages.kind == PageClass::Kind::kWindow) {
      windows += static_cast<int64_t>(pages.page_bytes) * pages.PagesFor(max_context);
    } else {
      per_token += static_cast<double>(pages.page_bytes) / pages.tokens_per_page;
    }
  }
  info->set_fixed_bytes(layout.slot_bytes + layout.tail_bytes);
  info->set_window_bytes(windows);
  info->set_bytes_per_token(per_token);
  info->set_bytes_at_max_context(layout.SequenceBytes(max_context));
  int64_t pool_bytes = 0;
  for (const EngineStats::Pool& pool : engine.stats().pools) {
    pool_bytes += pool.total * pool.bytes_each;
  }
  info->set_pool_bytes(pool_bytes);
}

}  // namespace

void FillModelInfo(const ServedModel& served, const ServerOptions& options,
                   v1::GetModelInfoResponse* info) {
  const ModelConfig& config = served.model->config();
  const EngineOptions& engine = served.engine->options();
  info->set_name(options.model_name);
  info->set_family(config.family);
  info->set_fingerprint(served.model->fingerprint());
  info->set_numerics_id(served.model->numerics_id());
  info->set_server_version(kVersion);
  info->set_cpu_target(CpuTargetName());
  info->set_device(served.model->device());
  info->set_vocab_size(config.vocab_size);
  info->set_hidden_size(config.hidden_size);
  info->mutable_rat_plus_dials()->Assign(config.dials.begin(), config.dials.end());
  for (const MixerSpec& mixer : config.mixers) {
    const MixerInfo from = InfoOf(mixer);
    v1::LayerInfo* layer = info->add_layers();
    layer->set_type(from.type);
    layer->set_num_heads(from.num_heads);
    layer->set_head_dim(from.head_dim);
    layer->set_num_kv_heads(from.num_kv_heads);
    layer->set_chunk_size(from.chunk_size);
    layer->set_window(from.window);
  }
  FillState(served.model->state_layout(), *served.engine, info->mutable_state());
  v1::Limits* limits = info->mutable_limits();
  limits->set_max_context(engine.max_context);
  limits->set_max_running(engine.max_running);
  limits->set_max_queue(engine.max_queue);
  limits->set_max_batch_tokens(engine.max_batch_tokens);
  limits->set_max_message_bytes(options.max_message_bytes);
  if (served.tokenizer != nullptr) {
    info->mutable_tokenizer()->set_num_pieces(served.tokenizer->num_pieces());
    info->mutable_tokenizer()->set_add_bos(served.tokenizer->default_add_bos());
    info->mutable_tokenizer()->set_has_chat_template(served.tokenizer->chat_template().ok());
  }
  info->set_bos_token_id(config.bos_id);
  for (int id : config.eos_ids) info->add_eos_token_ids(id);
  info->set_weight_bytes(served.model->weight_bytes());
  info->mutable_solver_defaults()->set_cg_tolerance(options.solver.cg_tolerance);
  info->mutable_solver_defaults()->set_cg_max_steps(options.solver.cg_max_steps);
  v1::SamplingParams* sampling = info->mutable_sampling_defaults();
  sampling->set_temperature(config.sampling.temperature);
  sampling->set_top_k(config.sampling.top_k);
  sampling->set_top_p(config.sampling.top_p);
  sampling->set_min_p(config.sampling.min_p);
  sampling->set_repetition_penalty(config.sampling.repetition_penalty);
  for (int32_t id : config.sampling.banned_ids) sampling->add_banned_token_ids(id);
  v1::StopParams* stop = info->mutable_stop_defaults();
  for (const std::string& text : config.stop.strings) stop->add_strings(text);
  stop->set_min_tokens(config.stop.min_tokens);
  const int most = config.stop.max_tokens;
  stop->set_max_tokens(most > 0 ? most : kDefaultMaxTokens);
  info->set_chat_max_tokens(most > 0 ? most : kDefaultChatTokens);
}

}  // namespace packrat
