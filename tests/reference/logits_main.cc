// `packrat logits` alone, so that these tests do not wait for gRPC to compile.
#include <string>
#include <vector>

#include "server/client/logits_command.h"

int main(int argc, char** argv) {
  return packrat::LogitsCommand(std::vector<std::string>(argv + 1, argv + argc));
}
