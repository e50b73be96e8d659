#include "server/tools/local_flags.h"

#include <cstdio>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "kernels/cpu_target.h"
#include "server/standard_output.h"

namespace packrat {

void LocalFlags::Text(const std::string& name, std::string* target, bool required) {
  flags_[name] = [target](const std::string& value) {
    *target = value;
    return true;
  };
  if (required) required_.emplace_back(name, target);
}

void LocalFlags::Integer(const std::string& name, int* target) {
  flags_[name] = [target](const std::string& value) { return absl::SimpleAtoi(value, target); };
}

void LocalFlags::Number(const std::string& name, float* target) {
  flags_[name] = [target](const std::string& value) { return absl::SimpleAtof(value, target); };
}

void LocalFlags::Switch(const std::string& name, bool* target) { switches_[name] = target; }

void LocalFlags::Feed(FeedOptions* options) {
  Text("model", &options->model, /*required=*/true);
  Integer("piece", &options->piece);
  Number("cg_tolerance", &options->solver.cg_tolerance);
  Integer("cg_max_steps", &options->solver.cg_max_steps);
  Integer("threads", &options->threads);
  Text("cpu_target", &cpu_target_);
  Text("activations", &options->activations);
  Text("weights", &options->weights);
  Text("output_weights", &options->output_weights);
}

std::optional<int> LocalFlags::Parse(const std::vector<std::string>& args) {
  for (size_t i = 0; i < args.size(); ++i) {
    if (args[i] == "--help") {
      Print(usage_);
      return 0;
    }
    if (!absl::StartsWith(args[i], "--")) return UsageError("unexpected argument " + args[i]);
    std::string name = args[i].substr(2), value;
    if (const auto found = switches_.find(name); found != switches_.end()) {
      *found->second = true;
      continue;
    }
    if (const size_t equals = name.find('='); equals != std::string::npos) {
      value = name.substr(equals + 1);
      name = name.substr(0, equals);
    } else if (i + 1 < args.size()) {
      value = args[++i];
    } else {
      return UsageError("--" + name + " needs a value");
    }
    const auto flag = flags_.find(name);
    if (flag == flags_.end()) return UsageError("unknown flag --" + name);
    if (!flag->second(value)) return UsageError("--" + name + ": not a number: " + value);
  }
  for (const auto& [name, value] : required_) {
    if (value->empty()) return UsageError("--" + name + " is required");
  }
  const absl::Status status = SetCpuTarget(cpu_target_);
  if (!status.ok()) return UsageError(std::string(status.message()));
  return std::nullopt;
}

std::function<void(size_t, size_t)> LocalFlags::Progress() const {
  return [this, told = absl::Now(), tenths = size_t{0}](size_t done, size_t total) mutable {
    const size_t now = total == 0 ? 10 : 10 * done / total;
    if (now == tenths || absl::Now() - told < absl::Seconds(1)) return;
    tenths = now;
    told = absl::Now();
    std::fprintf(stderr, "%s: %zu %%\n", command_, 10 * tenths);
  };
}

int LocalFlags::UsageError(const std::string& message) const {
  std::fprintf(stderr, "%s: %s\n%s", command_, message.c_str(), usage_);
  return 2;
}

int LocalFlags::Failed(const absl::Status& status) const {
  std::fprintf(stderr, "%s: %s\n", command_, std::string(status.message()).c_str());
  return 1;
}

}  // namespace packrat
