#include "tests/bench/fleet/fleet.h"

#include <algorithm>
#include <memory>
#include <queue>
#include <unordered_map>
#include <utility>
#include <vector>

#include "kernels/check.h"

namespace packrat {
namespace {

struct Event {
  double time;
  uint64_t number;  // Equal times: in the order in which they were made.
  int replica;      // Its step ends; -1: a conversation begins, or its next turn comes.
  std::shared_ptr<SimulatedCall> turn;        // The next turn; null: a new conversation.
  bool operator<(const Event& other) const {  // The earliest is at the top of the heap.
    return time != other.time ? time > other.time : number > other.number;
  }
};

class Fleet {
 public:
  Fleet(const Workload& workload, const StepTimes& times, const StateLayout& layout,
        const FleetOptions& options)
      : workload_(workload), options_(options), random_(options.seed) {
    for (int i = 0; i < options.replicas; ++i) {
      replicas_.push_back(std::make_unique<Replica>(&layout, options.replica, &times));
    }
  }

  FleetResult Run() {
    const double start = options_.begin, counted = start + options_.warm_up;
    const double end = counted + options_.seconds;
    Push(NextConversation(start), -1, nullptr);
    bool warm = options_.warm_up == 0;
    while (events_.top().time < end) {
      const Event event = events_.top();
      events_.pop();
      if (!warm && event.time >= counted) {
        warm = true;
        result_.counts = FleetCounts();
      }
      if (event.replica >= 0) {
        EndStep(event.time, event.replica);
      } else if (event.turn != nullptr) {
        Arrive(event.time, *event.turn);
      } else {
        Begin(event.time);
        Push(NextConversation(event.time), -1, nullptr);
      }
    }
    const double capacity = options_.seconds * options_.replicas;
    result_.utilisation = result_.counts.busy / capacity;
    if (result_.counts.busy > 0) result_.state = result_.counts.state / result_.counts.busy;
    for (const auto& replica : replicas_) result_.in_flight += replica->outstanding();
    return std::move(result_);
  }

 private:
  void Push(double time, int replica, std::shared_ptr<SimulatedCall> turn) {
    events_.push({time, next_event_++, replica, std::move(turn)});
  }

  // By thinning: candidates at the highest rate, of which the present rate's share is taken.
  double NextConversation(double now) {
    std::exponential_distribution<double> gap(workload_.HighestRate());
    std::uniform_real_distribution<double> uniform(0, workload_.HighestRate());
    do {
      now += gap(random_);
    } while (uniform(random_) > workload_.RateAt(now));
    return now;
  }

  void Begin(double now) {
    SimulatedCall call;
    call.conversation = next_conversation_++;
    turns_left_[call.conversation] = workload_.turns(&random_);
    call.prompt_tokens = workload_.first_prompt(&random_);
    call.reply_tokens = workload_.reply(&random_);
    Arrive(now, call);
  }

  // Of equals the next one after the last choice.
  int Least() {
    int best = (last_ + 1) % options_.replicas;
    for (int i = 2; i <= options_.replicas; ++i) {
      const int next = (last_ + i) % options_.replicas;
      if (replicas_[next]->outstanding() < replicas_[best]->outstanding()) best = next;
    }
    return last_ = best;
  }

  int Choose(int64_t conversation) {
    if (options_.balancing == Balancing::kTwoChoices) {
      std::uniform_int_distribution<int> any(0, options_.replicas - 1);
      const int a = any(random_), b = any(random_);
      return replicas_[b]->outstanding() < replicas_[a]->outstanding() ? b : a;
    }
    if (options_.balancing == Balancing::kAffinity) {
      const auto home = home_.find(conversation);
      const double mean = static_cast<double>(outstanding_) / options_.replicas;
      if (home != home_.end() && replicas_[home->second]->outstanding() <= 1.25 * mean + 2) {
        return home->second;
      }
    }
    return Least();
  }

  void Arrive(double now, SimulatedCall call) {
    ++result_.arrivals;
    call.arrived = now;
    const int chosen = Choose(call.conversation);
    home_[call.conversation] = chosen;
    if (!replicas_[chosen]->Submit(std::make_unique<SimulatedCall>(call))) {
      ++result_.refused;
      Forget(call.conversation);
      return;
    }
    ++outstanding_;
    StartStep(now, chosen);
  }

  void StartStep(double now, int replica) {
    if (replicas_[replica]->in_step()) return;
    replicas_[replica]->StartStep(now, &result_.counts);
    if (replicas_[replica]->in_step()) Push(replicas_[replica]->step_end(), replica, nullptr);
  }

  void EndStep(double now, int replica) {
    ended_.clear();
    replicas_[replica]->EndStep(&result_.counts, &ended_);
    for (const auto& call : ended_) {
      ++result_.finished;
      result_.finished_tokens += call->reply_tokens;
      --outstanding_;
      NextTurn(now, *call);
    }
    StartStep(now, replica);
  }

  void NextTurn(double now, const SimulatedCall& last) {
    int& left = turns_left_[last.conversation];
    SimulatedCall call;
    call.conversation = last.conversation;
    call.turn = last.turn + 1;
    call.known_tokens = last.prompt_tokens + last.reply_tokens;
    call.prompt_tokens = call.known_tokens + workload_.message(&random_);
    call.reply_tokens = workload_.reply(&random_);
    if (--left == 0 || call.prompt_tokens + call.reply_tokens > options_.max_context) {
      Forget(last.conversation);
      return;
    }
    std::exponential_distribution<double> think(1 / workload_.think);
    Push(now + think(random_), -1, std::make_shared<SimulatedCall>(call));
  }

  void Forget(int64_t conversation) {
    turns_left_.erase(conversation);
    home_.erase(conversation);
  }

  const Workload& workload_;
  const FleetOptions& options_;
  Random random_;
  std::vector<std::unique_ptr<Replica>> replicas_;
  std::priority_queue<Event> events_;
  int last_ = 0;
  uint64_t next_event_ = 0;
  int64_t next_conversation_ = 0, outstanding_ = 0;
  std::unordered_map<int64_t, int> turns_left_, home_;
  std::vector<std::unique_ptr<SimulatedCall>> ended_;
  FleetResult result_;
};

}  // namespace

FleetResult Simulate(const Workload& workload, const StepTimes& times, const StateLayout& layout,
                     const FleetOptions& options) {
  PACKRAT_CHECK(options.replicas >= 1);
  return Fleet(workload, times, layout, options).Run();
}

}  // namespace packrat
