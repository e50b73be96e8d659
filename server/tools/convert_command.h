// `packrat convert`: a GGUF file as a folder.
#ifndef PACKRAT_SERVER_TOOLS_CONVERT_COMMAND_H_
#define PACKRAT_SERVER_TOOLS_CONVERT_COMMAND_H_

#include <string>
#include <vector>

namespace packrat {

// The process's exit code. `args`: what follows the command.
int ConvertCommand(const std::vector<std::string>& args);

}  // namespace packrat

#endif  // PACKRAT_SERVER_TOOLS_CONVERT_COMMAND_H_
