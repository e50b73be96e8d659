#include "server/plan.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/check.h"
#include "models/cpu_model.h"
#include "models/state_layout.h"
#include "nlohmann/json.hpp"
#include "runtime/capacity.h"
#include "runtime/saved_state.h"
#include "server/stored_sessions.h"

namespace packrat {
namespace {

std::vector<Capacity> Rows(const ServerPlan& plan) {
  const MemoryPlan& memory = plan.memory;
  if (!memory.layout.has_value() || memory.state == 0) return {};
  return CapacityOf(*memory.layout, memory.parts, memory.options, plan.sessions);
}

// What calls hold that bring states to the session store and from it.
int64_t StoreBytes(const ServerOptions& options, const ModelMemory& model) {
  if (options.session_store.empty()) return 0;
  const int longest =
      options.engine.max_context > 0 ? options.engine.max_context : model.config.max_context;
  const auto state =
      static_cast<int64_t>(StateLayout(model.config, model.state_types).SequenceBytes(longest));
  return StoredSessions::kCalls * StoredSessions::kCopies * std::min(state, kMostPieceBytes);
}

std::string DescribeJson(const ServerOptions& options, const ServerPlan& plan,
                         const absl::Status& status) {
  const MemoryPlan& memory = plan.memory;
  nlohmann::ordered_json json = {
      {"model", options.model_dir},
      {"fits", status.ok()},
      {"message", std::string(status.message())},
      {"memory",
       {{"limit_bytes", memory.limit},
        {"limit_source", memory.limit_source},
        {"weight_bytes", memory.weights},
        {"scratch_bytes", memory.scratch},
        {"process_bytes", memory.process},
        {"message_bytes", memory.messages},
        {"transfer_bytes", memory.transfers},
        {"grammar_bytes", memory.grammars},
        {"state_bytes", memory.state},
        {"park_bytes", memory.parked},
        {"kept_state_bytes", memory.kept},
        {"state_room_bytes", memory.state_room},
        {"total_bytes", memory.Total()},
        {"request_bytes", memory.Request()}}},
      {"disk",
       {{"folder", memory.options.state_dir},
        {"kept_state_bytes", memory.options.state_dir.empty() ? 0 : memory.options.state_disk}}},
      {"cpu",
       {{"cpus", plan.resources.cpus},
        {"source", plan.resources.cpus_source},
        {"threads", plan.threads}}},
      {"flags",
       {{"max_running", memory.options.max_running},
        {"max_context", memory.options.max_context},
        {"max_batch_tokens", memory.options.max_batch_tokens},
        {"state_bytes", memory.options.state_bytes},
        {"cache_sequences", memory.options.cache_sequences},
        {"max_sessions", plan.sessions.max_sessions},
        {"max_session_tokens", plan.sessions.max_tokens},
        {"park_memory", memory.options.park_memory},
        {"state_host_memory", memory.options.state_host_memory},
        {"threads", plan.threads}}}};
  auto rows = nlohmann::ordered_json::array();
  for (const Capacity& row : Rows(plan)) {
    rows.push_back({{"tokens", row.tokens},
                    {"sequence_bytes", row.sequence_bytes},
                    {"sequences", row.sequences},
                    {"kept_states", row.kept.all()},
                    {"kept_states_in_memory", row.kept.memory},
                    {"kept_states_on_disk", row.kept.disk},
                    {"idle_sessions", row.idle_sessions}});
  }
  json["capacity"] = std::move(rows);
  return json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

std::string DescribeText(const ServerOptions& options, const ServerPlan& plan,
                         const absl::Status& status) {
  const MemoryPlan& memory = plan.memory;
  if (!memory.layout.has_value()) return absl::StrCat(status.message(), "\n");
  std::string text = absl::StrCat(options.model_dir, "\n");
  const auto line = [&](const char* name, int64_t bytes, const std::string& remark) {
    absl::StrAppendFormat(&text, "  %-20s %9s  %s\n", name, MiB(bytes), remark);
  };
  line("weights", memory.weights, "");
  line("scratch", memory.scratch, "--max_batch_tokens, --max_running, --threads");
  line("rest of the process", memory.process, "with the calls of --max_queue and --max_streams");
  line("messages", memory.messages,
       "that have not come whole: a sixteenth of the limit, or two of --max_message_bytes");
  line("sessions on the move", memory.transfers, "saved and loaded: a quarter of these");
  line("grammars", memory.grammars,
       "of structured output: automata, masks, the tokenizer's pieces");
  line("state", memory.state, absl::StrCat("--state_bytes; at most ", MiB(memory.state_room)));
  line("parked states", memory.parked, "of requests that make way: --park_memory");
  line("kept states", memory.kept, "beside those: --state_host_memory");
  line("together", memory.Total(), "");
  line("limit", memory.limit, memory.limit_source);
  if (!status.ok()) return absl::StrCat(text, "Does not fit: ", status.message(), "\n");
  if (!memory.options.state_dir.empty()) {
    absl::StrAppend(&text, "On disk, in ", memory.options.state_dir, ": ",
                    MiB(memory.options.state_disk), " of kept states (--state_disk).\n");
  }
  absl::StrAppend(
      &text, "A container asks for ", MiB(memory.Request()), " of memory and ", plan.threads,
      plan.threads == 1 ? " CPU" : " CPUs", " (--threads).\n\n",
      "     tokens   a sequence takes   sequences at once   states kept   in memory   on disk   "
      "idle sessions\n");
  for (const Capacity& row : Rows(plan)) {
    absl::StrAppendFormat(&text, "  %9d %14.2f MiB %19d %13d %11d %9d %15d\n", row.tokens,
                          static_cast<double>(row.sequence_bytes) / (1 << 20), row.sequences,
                          row.kept.all(), row.kept.memory, row.kept.disk, row.idle_sessions);
  }
  absl::StrAppend(
      &text,
      "At most --max_running sequences run at once. Of so many texts the state is kept "
      "while nothing\nruns, some of them beside the pool, in memory and on disk: who comes "
      "back to them computes new tokens\nalone. Sessions beyond those are texts, which "
      "their next turn computes anew (--max_sessions,\n--max_session_tokens).\n");
  return text;
}

}  // namespace

ModelOptions ToModelOptions(const ServerOptions& options) {
  ModelOptions model;
  model.max_batch_tokens = options.engine.max_batch_tokens;
  // A row for each sequence. If there are few, some more for texts that are scored.
  constexpr int kRowsOfScores = 64;
  model.max_logit_rows = std::max(options.engine.max_running,
                                  std::min(options.engine.max_batch_tokens, kRowsOfScores));
  model.max_context = options.engine.max_context;
  model.threads = options.threads;
  model.activations = ActivationTypeOf(options.activations).value();
  PACKRAT_CHECK(SetWeightFormats(options.weights, options.output_weights, &model).ok());
  model.choices.rat_plus_dials = ParseRatPlusDials(options.rat_plus_dial).value();
  model.choices.rat_plus_unadapted = options.rat_plus_unadapted;
  return model;
}

Resources ResourcesOf(const ServerOptions& options, const Resources& machine) {
  Resources resources = machine;
  if (options.memory_limit == 0) return resources;
  // A plan is often for another machine, which may have more memory.
  constexpr int64_t kAny = std::numeric_limits<int64_t>::max();
  if (!options.plan.empty()) resources.memory_limit = resources.memory_available = kAny;
  resources.LimitMemory(options.memory_limit, "--memory_limit");
  return resources;
}

SessionOptions SessionsOf(const ServerOptions& options, const Resources& resources) {
  SessionOptions sessions = options.sessions;
  if (sessions.max_tokens == 0) {
    sessions.max_tokens = std::min<int64_t>(
        resources.memory_limit / 64 / SessionOptions::kTokenBytes, int64_t{4} << 20);
  }
  return sessions;
}

absl::Status PlanServer(const ServerOptions& options, const Resources& machine, ServerPlan* plan) {
  plan->resources = ResourcesOf(options, machine);
  plan->sessions = SessionsOf(options, plan->resources);
  ModelOptions model_options = ToModelOptions(options);
  if (model_options.threads == 0) model_options.threads = machine.DefaultThreads();
  plan->threads = model_options.threads;
  auto model = MeasureModel(options.model_dir, model_options);
  if (!model.ok()) return model.status();
  const int64_t sessions = plan->sessions.Bytes() + StoreBytes(options, *model);
  return PlanMemory(*model, model_options, options.engine,
                    {OpenCalls(options), options.max_message_bytes, sessions}, plan->resources,
                    &plan->memory);
}

int ExitCode(const ServerPlan& plan, const absl::Status& status) {
  if (status.ok()) return 0;
  // If there is a layout, the model's files are good.
  return absl::IsInvalidArgument(status) && plan.memory.layout.has_value() ? 2 : 1;
}

std::string DescribePlan(const ServerOptions& options, const ServerPlan& plan,
                         const absl::Status& status, bool json) {
  return json ? DescribeJson(options, plan, status) : DescribeText(options, plan, status);
}

}  // namespace packrat
