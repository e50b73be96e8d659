#include "runtime/memory_plan.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "models/host_model.h"
#include "runtime/grammar_cache.h"

namespace packrat {
namespace {

constexpr int64_t kMiB = int64_t{1} << 20;
constexpr int64_t kMostMessageBytes = 512 * kMiB;
// Before the model is loaded a process holds about 10 MiB, and 90 where cuBLASLt is linked in; with
// the ports open, the tokenizer and some tens of streams, 20 more. In large steps, so that a plan
// made before the start and the start itself agree.
constexpr int64_t kProcessGrowth = 20 * kMiB, kProcessStep = 32 * kMiB;
// Code and read-only data that a running server uses. The kernel can take these pages away and read
// them again, which makes everything slow.
constexpr int64_t kCodeBytes = 24 * kMiB;

int64_t ProcessBytes(int64_t held, const CallLimits& calls) {
  const int64_t steps = (held + kProcessGrowth + kProcessStep - 1) / kProcessStep;
  return steps * kProcessStep + kCallBytes * calls.calls + calls.session_bytes;
}

std::string Parts(const MemoryPlan& plan) {
  return absl::StrCat("weights ", MiB(plan.weights), ", scratch ", MiB(plan.scratch),
                      ", the rest of the process ", MiB(plan.process), ", messages ",
                      MiB(plan.messages), ", sessions on the move ", MiB(plan.transfers),
                      plan.parked > 0 ? absl::StrCat(", parked states ", MiB(plan.parked)) : "",
                      plan.kept > 0 ? absl::StrCat(", kept states ", MiB(plan.kept)) : "");
}

// The smallest limit that leaves `bytes` beside its MessageBytes() and TransferBytes(), which are
// five parts to 59 of the rest where messages are a sixteenth of the limit.
int64_t SmallestLimit(int64_t bytes, int64_t largest_message) {
  const int64_t messages =
      std::max(2 * largest_message, std::min(bytes / 59 * 4 + 4, kMostMessageBytes));
  return bytes + messages + TransferBytes(messages);
}

// What is left for state is too little for one sequence of the greatest length.
absl::Status TooLittleForState(const StateLayout& layout, const MemoryPlan& plan) {
  const int context = plan.options.max_context;
  const auto one = static_cast<int64_t>(layout.BytesOfAny(context));
  const int64_t fits = layout.TokensIn(plan.state_room, context);
  return absl::ResourceExhaustedError(absl::StrCat(
      "too little memory: ", Parts(plan), "; of ", MiB(plan.limit), " (", plan.limit_source,
      ") that leaves ", MiB(plan.state_room), " for state, and one sequence of ", context,
      " tokens takes ", MiB(one), ". ",
      fits > 1 ? absl::StrCat("--max_context=", fits, " would fit")
               : absl::StrCat(
                     "It takes ",
                     MiB(SmallestLimit(plan.Total() - plan.messages - plan.transfers + one + kMiB,
                                       plan.calls.largest_message)),
                     " at least")));
}

}  // namespace

int64_t StateHostMemory(const EngineOptions& options, const Resources& resources, bool on_gpu) {
  if (!options.prefix_cache) return 0;
  if (options.state_host_memory != EngineOptions::kAutoHostMemory) return options.state_host_memory;
  if (on_gpu) return std::min<int64_t>(resources.memory_limit / 8, 4096 * kMiB);
  return options.state_dir.empty() ? 0 : std::min<int64_t>(resources.memory_limit / 16, 256 * kMiB);
}

int64_t MessageBytes(int64_t limit, int64_t largest_message) {
  return std::max(2 * largest_message, std::min(limit / 16, kMostMessageBytes));
}

int64_t TransferBytes(int64_t message_bytes) { return message_bytes / 4; }

int64_t MemoryPlan::Request() const {
  const int64_t limit =
      SmallestLimit(Total() - messages - transfers + kCodeBytes, calls.largest_message);
  return (limit + kMiB - 1) / kMiB * kMiB;
}

absl::Status PlanMemory(const ModelMemory& model, const ModelOptions& model_options,
                        const EngineOptions& options, const CallLimits& calls,
                        const Resources& resources, MemoryPlan* plan) {
  const StateLayout& layout = plan->layout.emplace(model.config, model.state_types);
  plan->limit = resources.memory_limit;
  plan->limit_source = resources.memory_limit_source;
  plan->weights = static_cast<int64_t>(model.weight_bytes);
  plan->scratch = static_cast<int64_t>(model.scratch_bytes);
  plan->calls = calls;
  plan->options = options;
  plan->options.state_host_memory = StateHostMemory(options, resources, /*on_gpu=*/false);
  plan->kept = plan->options.state_host_memory;
  if (options.max_context == 0) plan->options.max_context = model.config.max_context;
  plan->process = ProcessBytes(resources.memory_held, calls) +
                  kRememberedTokenBytes * RememberedTokens(plan->options);
  plan->messages = MessageBytes(plan->limit, calls.largest_message);
  plan->transfers = TransferBytes(plan->messages);
  plan->grammars = GrammarBytes(model.config.vocab_size);
  const int64_t model_bytes = plan->weights + plan->scratch;
  const bool auto_park = options.park_memory == EngineOptions::kAutoParkMemory;
  if (!auto_park) plan->parked = std::max<int64_t>(options.park_memory, 0);
  const int64_t beside = plan->parked + plan->kept;
  const int64_t room = HostStateRoom(
      resources,
      model_bytes + plan->process + plan->messages + plan->transfers + plan->grammars + beside,
      model_bytes + beside);
  plan->state_room = room;
  if (auto_park && options.state_bytes == 0) {
    // Beside it, unless not even one sequence is left room then.
    const int context = plan->options.max_context;
    const int64_t rest = room - AutoParkMemory(layout, room / 9 * 8, context);
    if (rest >= static_cast<int64_t>(layout.BytesOfAny(context))) plan->state_room = rest;
  }
  absl::Status status =
      ResolveEngineOptions(model.config, model_options, layout, plan->state_room, &plan->options);
  if (!status.ok()) return status;
  const EngineOptions& resolved = plan->options;
  StatePoolOptions pool;
  pool.max_running = resolved.max_running;
  pool.max_context = resolved.max_context;
  pool.state_bytes = resolved.state_bytes;
  pool.cache_sequences = resolved.cache_sequences;
  auto parts = PlanParts(layout, pool);
  if (!parts.ok()) {
    return options.state_bytes > 0 ? parts.status() : TooLittleForState(layout, *plan);
  }
  plan->parts = *std::move(parts);
  plan->state = static_cast<int64_t>(PoolBytes(layout, plan->parts));
  // Nothing that was asked for is refused for its sake.
  if (auto_park) {
    plan->parked = std::min(std::max<int64_t>(room - plan->state, 0),
                            AutoParkMemory(layout, plan->state, resolved.max_context));
  }
  plan->options.park_memory = plan->parked;
  const int64_t free = resources.memory_available - resources.memory_held;
  const int64_t now = model_bytes + plan->state + plan->parked + plan->kept;
  if (plan->Total() <= plan->limit && now <= free) return absl::OkStatus();
  const bool too_large = plan->Total() > plan->limit;
  return absl::ResourceExhaustedError(
      absl::StrCat("too little memory: ", Parts(*plan), ", state ", MiB(plan->state),
                   " (--state_bytes), together ", MiB(plan->Total()), "; this process may hold ",
                   MiB(plan->limit), " (", plan->limit_source, ")",
                   too_large ? ""
                             : absl::StrCat(" and can have ", MiB(free), " of it now (",
                                            resources.memory_available_source, ")"),
                   ". --state_bytes of at most ", plan->state_room, " would fit"));
}

}  // namespace packrat
