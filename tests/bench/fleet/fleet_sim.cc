// How many replicas a number of conversations a day needs, and how they then feel: the tables of
// docs/capacity.md.
//   fleet_sim [--machine=cpu-350m|h200-1.3b-predicted] [--steps=FILE] [--tables=FOLDER] [--day]
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "models/config.h"
#include "models/state_layout.h"
#include "runtime/state_pool.h"
#include "tests/bench/fleet/fleet.h"

ABSL_FLAG(std::string, machine, "cpu-350m", "cpu-350m or h200-1.3b-predicted.");
ABSL_FLAG(std::string, tables, "tests/bench/fleet/steps", "Folder of the machines' step times.");
ABSL_FLAG(std::string, steps, "", "Table of step times in place of the machine's.");
ABSL_FLAG(bool, day, false, "Also simulate a whole day of the smallest load.");

namespace packrat {
namespace {

constexpr double kDay = 86400;

// A machine with its model, its options, and what its users are promised.
struct Machine {
  ModelConfig config;
  StateTypes types;
  ReplicaOptions replica;
  int64_t state_bytes;
  double first_token;  // 99 of 100 calls have their first token by then: seconds.
  double gap;          // 99 of 100 tokens come after so long: seconds.
  int cell;            // Replicas that are simulated together in place of more.
  double warm_up, seconds;
};

Machine Cpu350m() {
  Machine machine;
  machine.config.hidden_size = 1024;
  for (int i = 0; i < 8; ++i) {
    machine.config.mixers.push_back(RatSpec{16, 16, 64, 16});
    machine.config.mixers.push_back(AttentionSpec{16, 16, 64, 512});
    machine.config.mixers.push_back(MesaSpec{16, 64, 4, 0.25f, true});
  }
  machine.replica.max_running = 64;
  machine.replica.max_batch_tokens = 128;  // A step of at most 0.45 s.
  machine.state_bytes = int64_t{4} << 30;
  machine.first_token = 30;  // A prompt of 4,096 tokens takes 14 s alone.
  machine.gap = 0.5;
  machine.cell = 50;
  machine.warm_up = 900;
  machine.seconds = 2400;
  return machine;
}

Machine H200() {
  Machine machine;
  machine.config.hidden_size = 2048;
  machine.config.mixers.assign(24, RatSpec{16, 16, 128, 16});
  machine.types = {DType::kBF16, DType::kF32};
  machine.replica.max_running = 1024;
  machine.replica.max_batch_tokens = 2048;
  machine.state_bytes = 100'000'000'000;
  machine.first_token = 1;
  machine.gap = 0.05;
  machine.cell = 4;  // Each has thousands of calls.
  machine.warm_up = 240;
  machine.seconds = 120;
  return machine;
}

constexpr int kMaxContext = 4096;

Workload Conversations(double per_second) {
  Workload workload;
  workload.per_second = per_second;
  workload.turns = Geometric(4);
  workload.first_prompt = LogNormal(200, 0.8, 2000);
  workload.message = LogNormal(50, 0.8, 1000);
  workload.reply = LogNormal(150, 0.7, 1000);
  workload.think = 30;
  return workload;
}
constexpr double kSwing = 0.6;
// Fleets are sized for more than the load: this share of what would break the promise.
constexpr double kPlanned = 0.85;
// More conversations than any replica has at once: their state is kept beside the pool.
constexpr int kAllKept = 100000;

class Planner {
 public:
  Planner(Machine machine, const StepTimes& times)
      : machine_(std::move(machine)), times_(times), layout_(machine_.config, machine_.types) {}

  absl::Status Init() {
    StatePoolOptions pool;
    pool.max_running = machine_.replica.max_running;
    pool.max_context = kMaxContext;
    pool.state_bytes = machine_.state_bytes;
    auto parts = PlanParts(layout_, pool);
    if (!parts.ok()) return parts.status();
    machine_.replica.parts = *std::move(parts);
    return absl::OkStatus();
  }

  const Machine& machine() const { return machine_; }

  // The load of the peak, for its whole time.
  FleetResult Run(int replicas, double per_second, Balancing balancing, int kept = 0) const {
    FleetOptions options = Options(replicas, balancing, kept);
    options.warm_up = machine_.warm_up;
    options.seconds = machine_.seconds;
    return Simulate(Conversations(per_second), times_, layout_, options);
  }

  FleetResult Day(int replicas, double per_day) const {
    Workload workload = Conversations(per_day / kDay);
    workload.swing = kSwing;
    FleetOptions options = Options(replicas, Balancing::kLeast, 0);
    options.seconds = kDay;
    return Simulate(workload, times_, layout_, options);
  }

  bool Good(const FleetResult& result) const {
    return result.refused == 0 &&
           result.counts.first_token.Percentile(0.99) <= machine_.first_token &&
           result.counts.gap.Percentile(0.99) <= machine_.gap;
  }

  // Conversations a second that a replica of a whole cell carries, to 2 %.
  double Capacity(Balancing balancing, int kept) const {
    double low = 0, high = 1.0 / 64;
    const auto good = [&](double rate) {
      return Good(Run(machine_.cell, rate * machine_.cell, balancing, kept));
    };
    while (good(high)) low = high, high *= 2;
    while (high - low > 0.02 * low) {
      const double middle = (low + high) / 2;
      (good(middle) ? low : high) = middle;
    }
    return low;
  }

 private:
  FleetOptions Options(int replicas, Balancing balancing, int kept) const {
    FleetOptions options;
    options.replicas = replicas;
    options.balancing = balancing;
    options.replica = machine_.replica;
    options.replica.cached_conversations = kept;
    options.max_context = kMaxContext;
    return options;
  }

  Machine machine_;
  const StepTimes times_;
  const StateLayout layout_;
};

std::string Time(double seconds) {
  return seconds < 1 ? absl::StrFormat("%.3g ms", 1e3 * seconds)
                     : absl::StrFormat("%.3g s", seconds);
}

void PrintRow(const std::string& name, int replicas, const FleetResult& result) {
  const FleetCounts& counts = result.counts;
  std::printf("| %s | %d | %.0f %% | %.0f %% | %s | %s | %s | %s | %.2g %% |\n", name.c_str(),
              replicas, 100 * result.utilisation, 100 * result.state,
              Time(counts.first_token.Percentile(0.5)).c_str(),
              Time(counts.first_token.Percentile(0.99)).c_str(),
              Time(counts.gap.Percentile(0.5)).c_str(), Time(counts.gap.Percentile(0.99)).c_str(),
              100.0 * static_cast<double>(result.refused) / static_cast<double>(result.arrivals));
  std::fflush(stdout);
}

const std::pair<const char*, Balancing> kBalancings[] = {
    {"least outstanding", Balancing::kLeast},
    {"better of two", Balancing::kTwoChoices},
    {"affinity", Balancing::kAffinity},
};

// The fewest replicas that would keep the promise at more than the peak of `per_day`.
int Replicas(const Planner& planner, double per_day, double capacity) {
  const double planned = per_day / kDay * (1 + kSwing) / kPlanned;
  int replicas = std::max(1, static_cast<int>(std::ceil(planned / capacity)));
  if (replicas > planner.machine().cell) return replicas;
  // Few replicas share less well than a cell.
  replicas = std::max(1, replicas - 1);
  while (!planner.Good(planner.Run(replicas, planned, Balancing::kLeast))) ++replicas;
  return replicas;
}

void PrintLoad(const Planner& planner, double per_day, double capacity) {
  const double peak = per_day / kDay * (1 + kSwing);
  const int replicas = Replicas(planner, per_day, capacity);
  // A part of a large fleet, with its part of the load.
  const int simulated = std::min(replicas, planner.machine().cell);
  const double rate = peak * simulated / replicas;
  std::printf("\n### %.0e conversations a day, %.3g a second at the peak: %d replicas\n\n", per_day,
              peak, replicas);
  std::printf(
      "| balancing | simulated | busy | state | first token p50 | p99 | gap p50 | p99 | refused |\n"
      "| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n");
  for (const auto& [name, balancing] : kBalancings) {
    PrintRow(name, simulated, planner.Run(simulated, rate, balancing));
  }
  if (simulated > 1) {
    PrintRow("least, one of them lost", simulated - 1,
             planner.Run(simulated - 1, rate, Balancing::kLeast));
  }
  PrintRow("least, twice the load", simulated, planner.Run(simulated, 2 * rate, Balancing::kLeast));
  PrintRow("affinity, state kept", simulated,
           planner.Run(simulated, rate, Balancing::kAffinity, kAllKept));
}

absl::Status Main() {
  const std::string name = absl::GetFlag(FLAGS_machine);
  if (name != "cpu-350m" && name != "h200-1.3b-predicted") {
    return absl::InvalidArgumentError("--machine is cpu-350m or h200-1.3b-predicted");
  }
  std::string path = absl::GetFlag(FLAGS_steps);
  if (path.empty()) path = absl::StrCat(absl::GetFlag(FLAGS_tables), "/", name, ".tsv");
  std::ifstream file(path);
  if (!file) return absl::NotFoundError(path + ": cannot read");
  const auto times = StepTimes::Parse({std::istreambuf_iterator<char>(file), {}});
  if (!times.ok()) return times.status();
  Planner planner(name == "cpu-350m" ? Cpu350m() : H200(), *times);
  const absl::Status status = planner.Init();
  if (!status.ok()) return status;
  const Machine& machine = planner.machine();
  std::printf("%s: first token within %s, gaps of at most %s, for 99 of 100\n\n", name.c_str(),
              Time(machine.first_token).c_str(), Time(machine.gap).c_str());

  const double capacity = planner.Capacity(Balancing::kLeast, 0);
  const double kept = planner.Capacity(Balancing::kAffinity, kAllKept);
  std::printf(
      "A replica of a fleet of %d carries %.3g conversations a second, %.3g a day with that peak;\n"
      "with affinity and every conversation's state kept: %.3g a second.\n",
      machine.cell, capacity, capacity * kDay / (1 + kSwing), kept);
  for (const double per_day : {1e4, 1e6, 1e8}) PrintLoad(planner, per_day, capacity);
  if (absl::GetFlag(FLAGS_day)) {
    const int replicas = Replicas(planner, 1e4, capacity);
    std::printf("\n### A whole day of 1e4 conversations\n\n");
    PrintRow("least outstanding", replicas, planner.Day(replicas, 1e4));
  }
  return absl::OkStatus();
}

}  // namespace
}  // namespace packrat

int main(int argc, char** argv) {
  absl::SetProgramUsageMessage("replicas for a number of conversations a day, by simulation");
  absl::ParseCommandLine(argc, argv);
  const absl::Status status = packrat::Main();
  if (!status.ok()) std::fprintf(stderr, "fleet_sim: %s\n", std::string(status.message()).c_str());
  return status.ok() ? 0 : 1;
}
