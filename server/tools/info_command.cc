#include "server/tools/info_command.h"

#include "models/tools/describe.h"
#include "server/options.h"
#include "server/plan.h"
#include "server/standard_output.h"
#include "server/tools/local_flags.h"

namespace packrat {
namespace {

constexpr char kUsage[] =
    "usage: packrat info --model DIR [--json]\n"
    "\n"
    "What a model's folder holds, without a server: family, layers, parameters, weights as they "
    "are\n"
    "stored, the state of a sequence on the CPU with the server's default options, tokenizer and "
    "chat\n"
    "template; and all reasons to refuse it that show in config.json, in names and shapes of "
    "tensors\n"
    "and in the tokenizer. Weights are not read. Without --model, what a server serves.\n"
    "Exit codes: 0 it can be served, 1 it is refused, 2 a mistake in the command.\n";

}  // namespace

int InfoCommand(const std::vector<std::string>& args) {
  std::string model;
  bool json = false;
  LocalFlags flags("packrat info", kUsage);
  flags.Text("model", &model, /*required=*/true);
  flags.Switch("json", &json);
  if (const auto done = flags.Parse(args)) return *done;
  const ModelReport report = DescribeModel(model, ToModelOptions(ServerOptions()));
  Print(json ? ReportJson(report) : ReportText(report));
  return report.refused.empty() ? 0 : 1;
}

}  // namespace packrat
