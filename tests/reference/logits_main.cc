// The client's commands that need no server, so that these tests do not wait for gRPC to compile.
#include <string>
#include <vector>

#include "server/client/logits_command.h"
#include "server/client/perplexity_command.h"

int main(int argc, char** argv) {
  std::vector<std::string> args(argv + 1, argv + argc);
  if (!args.empty() && args[0] == "perplexity") {
    return packrat::PerplexityCommand({args.begin() + 1, args.end()});
  }
  return packrat::LogitsCommand(args);
}
