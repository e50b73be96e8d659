#include "tests/bench/fleet/replica.h"

#include <algorithm>
#include <cstddef>
#include <utility>

#include "kernels/check.h"

namespace packrat {
namespace {

void AddTo(const PartCounts& from, int sign, PartCounts* to) {
  to->slots += sign * from.slots;
  to->tails += sign * from.tails;
  for (size_t c = 0; c < from.pages.size(); ++c) to->pages[c] += sign * from.pages[c];
}

}  // namespace

Replica::Replica(const StateLayout* layout, const ReplicaOptions& options, const StepTimes* times)
    : layout_(layout), options_(options), times_(times), free_(options.parts) {
  plan_.Reserve(options.max_running, static_cast<int>(options.parts.pages.size()));
}

bool Replica::Submit(std::unique_ptr<SimulatedCall> call) {
  if (static_cast<int>(waiting_.size()) >= options_.max_queue) return false;
  call->need = SequenceNeeds(*layout_, call->prompt_tokens + call->reply_tokens);
  const int computed = TakeCached(call->conversation) ? call->prompt_tokens - call->known_tokens
                                                      : call->prompt_tokens;
  call->computed_prompt = std::max(1, computed);
  WaitingItem item;
  item.arrival = next_arrival_++;
  item.arrived = absl::UnixEpoch() + absl::Seconds(call->arrived);
  item.deadline = absl::InfiniteFuture();
  item.prompt_left = call->computed_prompt;
  item.cost = call->computed_prompt + call->reply_tokens;
  item.need = &call->need;
  waiting_.push_back(item);
  waiting_calls_.push_back(std::move(call));
  return true;
}

// Moves what the plan admits from the queue to the running calls, in the plan's order.
void Replica::Admit(double now, FleetCounts* counts) {
  const int admitted = static_cast<int>(plan_.admit.size());
  for (const StepPlan::Overtaken& entry : plan_.overtaken) {
    waiting_[entry.index.item].overtaken += admitted - entry.admitted_before;
  }
  for (const WaitingIndex index : plan_.admit) {
    const WaitingItem& item = waiting_[index.item];
    std::unique_ptr<SimulatedCall>& call = waiting_calls_[index.item];
    counts->wait.Add(now - call->arrived);
    counts->prompt_tokens += call->computed_prompt;
    counts->cached_tokens += call->prompt_tokens - call->computed_prompt;
    AddTo(call->need, -1, &free_);
    running_.push_back({{0, item.arrival}, 0, item.deadline, 0, call->computed_prompt});
    running_calls_.push_back(std::move(call));
  }
  for (auto i = plan_.admit.rbegin(); i != plan_.admit.rend(); ++i) {
    waiting_.erase(waiting_.begin() + i->item);
    waiting_calls_.erase(waiting_calls_.begin() + i->item);
  }
}

void Replica::StartStep(double now, FleetCounts* counts) {
  PACKRAT_CHECK(!in_step());
  ScheduleInput input;
  // All are of one tenant and one priority.
  const TenantShare tenant;
  Flow flow = {/*tenant=*/0, /*priority=*/0};
  flow.waiting = waiting_;
  input.tenants = {&tenant, 1};
  input.flows = {&flow, waiting_.empty() ? size_t{0} : size_t{1}};
  input.running = running_;
  input.free = &free_;
  input.max_running = options_.max_running;
  input.max_batch_tokens = options_.max_batch_tokens;
  input.now = absl::UnixEpoch() + absl::Seconds(now);
  input.earliest_waiting_deadline = absl::InfiniteFuture();
  PlanStep(input, &plan_);
  const int already = static_cast<int>(running_.size());
  Admit(now, counts);
  first_pieces_.clear();
  decoding_.clear();
  int prompt_tokens = 0;
  for (const Piece& piece : plan_.pieces) {
    const int index = piece.admitted ? already + piece.index : piece.index;
    RunningItem& item = running_[index];
    item.position += piece.num_tokens;
    if (item.prompt_left == 0) {
      decoding_.push_back(index);
      continue;
    }
    prompt_tokens += piece.num_tokens;
    item.prompt_left -= piece.num_tokens;
    if (item.prompt_left == 0) first_pieces_.push_back(index);
  }
  if (plan_.pieces.empty()) return;  // Nobody is there.
  const double seconds = times_->Seconds(static_cast<int>(decoding_.size()), prompt_tokens);
  step_end_ = now + seconds;
  counts->busy += seconds;
  counts->state += seconds * StateShare();
}

double Replica::StateShare() const {
  const auto share = [](int free, int total) {
    return total == 0 ? 0 : 1 - static_cast<double>(free) / total;
  };
  double fullest =
      std::max(share(free_.slots, options_.parts.slots), share(free_.tails, options_.parts.tails));
  for (size_t c = 0; c < free_.pages.size(); ++c) {
    fullest = std::max(fullest, share(free_.pages[c], options_.parts.pages[c]));
  }
  return fullest;
}

void Replica::Token(size_t index, FleetCounts* counts) {
  SimulatedCall& call = *running_calls_[index];
  if (call.done_tokens++ == 0) {
    counts->first_token.Add(step_end_ - call.arrived);
  } else {
    counts->gap.Add(step_end_ - call.last_token);
  }
  call.last_token = step_end_;
  ++counts->reply_tokens;
}

void Replica::EndStep(FleetCounts* counts, std::vector<std::unique_ptr<SimulatedCall>>* ended) {
  for (const int index : first_pieces_) Token(index, counts);
  for (const int index : decoding_) Token(index, counts);
  for (size_t i = running_.size(); i-- > 0;) {
    if (running_calls_[i]->done_tokens < running_calls_[i]->reply_tokens) continue;
    AddTo(running_calls_[i]->need, 1, &free_);
    Keep(running_calls_[i]->conversation);
    ended->push_back(std::move(running_calls_[i]));
    running_calls_.erase(running_calls_.begin() + static_cast<std::ptrdiff_t>(i));
    running_.erase(running_.begin() + static_cast<std::ptrdiff_t>(i));
  }
  step_end_ = -1;
}

bool Replica::TakeCached(int64_t conversation) {
  const auto found = kept_at_.find(conversation);
  if (found == kept_at_.end()) return false;
  kept_.erase(found->second);
  kept_at_.erase(found);
  return true;
}

void Replica::Keep(int64_t conversation) {
  if (options_.cached_conversations == 0) return;
  kept_at_[conversation] = kept_.insert(kept_.end(), conversation);
  if (static_cast<int>(kept_.size()) <= options_.cached_conversations) return;
  kept_at_.erase(kept_.front());
  kept_.pop_front();
}

}  // namespace packrat
