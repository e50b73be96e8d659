// packrat_tools: the commands of `packrat` that work on a model on this machine. A program of its
// own, so that the client has no model in it; the client starts it.
#include <cstdio>
#include <new>
#include <string>
#include <vector>

#include "server/standard_output.h"
#include "server/tools/convert_command.h"
#include "server/tools/info_command.h"
#include "server/tools/logits_command.h"
#include "server/tools/perplexity_command.h"
#include "server/tools/plan_command.h"
#include "server/tools/quantize_command.h"

namespace {

int Run(const std::string& command, const std::vector<std::string>& arguments) {
  if (command == "logits") return packrat::LogitsCommand(arguments);
  if (command == "perplexity") return packrat::PerplexityCommand(arguments);
  if (command == "convert") return packrat::ConvertCommand(arguments);
  if (command == "info") return packrat::InfoCommand(arguments);
  if (command == "plan") return packrat::PlanCommand(arguments);
  if (command == "quantize") return packrat::QuantizeCommand(arguments);
  std::fputs(
      "packrat_tools: which command? info, logits, perplexity, plan, quantize or convert; see "
      "packrat logits --help\n",
      stderr);
  return 2;
}

}  // namespace

int main(int argc, char** argv) {
  packrat::FillStandardDescriptors();
  const std::string command = argc > 1 ? argv[1] : "";
  const std::vector<std::string> arguments(argv + (argc > 1 ? 2 : 1), argv + argc);
  try {
    return Run(command, arguments);
  } catch (const std::bad_alloc&) {  // A model may be larger than memory.
    std::fprintf(stderr, "packrat %s: the system has no memory left\n", command.c_str());
    return 1;
  }
}
