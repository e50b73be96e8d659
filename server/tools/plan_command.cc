#include "server/tools/plan_command.h"

#include <cstdio>

#include "absl/flags/flag.h"
#include "kernels/resources.h"
#include "models/bounds.h"
#include "models/load.h"
#include "server/byte_size.h"
#include "server/flags.h"
#include "server/plan.h"
#include "server/standard_output.h"

ABSL_FLAG(packrat::ByteSize, memory, {},
          "Memory of the machine or container that the plan is for, e.g. 16GiB; range [1, "
          "70368744177664]. Default: --memory_limit, or what this machine allows.");
ABSL_FLAG(bool, json, false, "Print one JSON object.");

namespace packrat {
namespace {

constexpr char kProgram[] = "packrat plan";
constexpr char kUsage[] =
    "How many sequences of what length, states and sessions fit into a memory, and what a "
    "container "
    "asks\nfor. Reads the model's config.json and the shapes of its weights, and computes on no "
    "device.\n\n"
    "  packrat plan --model DIR [--memory 16GiB] [--json] [flags of packrat_server]\n\n"
    "It is the plan of a server on the CPU that is started with these flags and has so much memory "
    "to\nitself. Exit codes: 0 it starts, 1 it does not, 2 a mistake in the command.\n\n"
    "Examples:\n"
    "  packrat plan --model models/demo\n"
    "  packrat plan --model models/demo --memory 2GiB --max_running 16 --max_context 2048\n"
    "  packrat plan --model models/demo --memory 16GiB --weights int8 --json";
constexpr Bound kMemory = {"memory", 1, static_cast<double>(int64_t{1} << 46)};

int Mistake(const absl::Status& status) {
  std::fprintf(stderr, "%s: %s\n", kProgram, std::string(status.message()).c_str());
  return 2;
}

}  // namespace

int PlanCommand(const std::vector<std::string>& args) {
  std::vector<std::string> words = {kProgram};
  words.insert(words.end(), args.begin(), args.end());
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  ServerOptions options =
      OptionsFromCommandLine(static_cast<int>(words.size()), argv.data(), kProgram, kUsage);
  if (options.device == "cuda") {
    return Mistake(absl::InvalidArgumentError(
        "--device is \"cuda\"; a plan is of a model on the CPU: auto or cpu"));
  }
  if (options.device == "auto" && GpuUsable().ok()) {
    return Mistake(
        absl::InvalidArgumentError("--device is \"auto\", by which a server takes the GPU that is "
                                   "here; a plan is of a model on "
                                   "the CPU: say --device=cpu"));
  }
  const int64_t memory = absl::GetFlag(FLAGS_memory).bytes;
  if (memory != 0) {
    const absl::Status status = kMemory.Check("--memory", static_cast<double>(memory));
    if (!status.ok()) return Mistake(status);
    options.memory_limit = memory;
  }
  const bool json = absl::GetFlag(FLAGS_json);
  options.plan = json ? "json" : "text";
  ServerPlan plan;
  const absl::Status status = PlanServer(options, ReadResources(), &plan);
  Print(DescribePlan(options, plan, status, json));
  return ExitCode(plan, status);
}

}  // namespace packrat
