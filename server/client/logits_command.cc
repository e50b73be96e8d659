#include "server/client/logits_command.h"

#include <cstdio>
#include <functional>
#include <map>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "kernels/cpu_target.h"
#include "models/logits.h"

namespace packrat {
namespace {

constexpr char kUsage[] =
    "usage: packrat logits --model DIR --tokens IN.safetensors --output OUT.safetensors\n"
    "                      [--piece N] [--cg_tolerance X] [--cg_max_steps N] [--threads N]\n"
    "                      [--cpu_target auto|sse4|avx2|avx512]\n"
    "\n"
    "Reads input_ids [B, T] int32 and writes logits [B, T, vocab] float32.\n"
    "  --piece         tokens fed at a time, 1 to 65536; 1 is pure decoding (default 256)\n"
    "  --cg_tolerance  relative residual of the Mesa solves, 1e-7 to 0.1 (default 1e-4)\n"
    "  --cg_max_steps  limit of steps of a solve, 1 to 1024 (default 64)\n"
    "  --threads       0: one per core (default 0)\n"
    "The bytes written do not depend on --piece or --threads.\n";

int UsageError(const std::string& message) {
  std::fprintf(stderr, "packrat logits: %s\n%s", message.c_str(), kUsage);
  return 2;
}

}  // namespace

int LogitsCommand(const std::vector<std::string>& args) {
  LogitsOptions options;
  std::string cpu_target = "auto";
  const auto text = [](std::string* target) {
    return [target](const std::string& value) {
      *target = value;
      return true;
    };
  };
  const auto integer = [](int* target) {
    return [target](const std::string& value) { return absl::SimpleAtoi(value, target); };
  };
  const std::map<std::string, std::function<bool(const std::string&)>> flags = {
      {"model", text(&options.model)},
      {"tokens", text(&options.tokens)},
      {"output", text(&options.output)},
      {"cpu_target", text(&cpu_target)},
      {"piece", integer(&options.piece)},
      {"cg_max_steps", integer(&options.cg_max_steps)},
      {"threads", integer(&options.threads)},
      {"cg_tolerance",
       [&](const std::string& value) { return absl::SimpleAtof(value, &options.cg_tolerance); }},
  };
  for (size_t i = 0; i < args.size(); ++i) {
    if (args[i] == "--help") {
      std::fputs(kUsage, stdout);
      return 0;
    }
    if (!absl::StartsWith(args[i], "--")) return UsageError("unexpected argument " + args[i]);
    std::string name = args[i].substr(2), value;
    if (const size_t equals = name.find('='); equals != std::string::npos) {
      value = name.substr(equals + 1);
      name = name.substr(0, equals);
    } else if (i + 1 < args.size()) {
      value = args[++i];
    } else {
      return UsageError("--" + name + " needs a value");
    }
    const auto flag = flags.find(name);
    if (flag == flags.end()) return UsageError("unknown flag --" + name);
    if (!flag->second(value)) return UsageError("--" + name + ": not a number: " + value);
  }
  for (const auto& [name, value] :
       {std::pair<const char*, const std::string&>{"model", options.model},
        {"tokens", options.tokens},
        {"output", options.output}}) {
    if (value.empty()) return UsageError(absl::StrCat("--", name, " is required"));
  }
  absl::Status status = SetCpuTarget(cpu_target);
  if (status.ok()) status = WriteLogits(options);
  if (status.ok()) return 0;
  std::fprintf(stderr, "packrat logits: %s\n", std::string(status.message()).c_str());
  return 1;
}

}  // namespace packrat
