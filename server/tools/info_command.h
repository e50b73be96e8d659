// packrat info --model: what a folder holds, and what of it would be refused.
#ifndef PACKRAT_SERVER_TOOLS_INFO_COMMAND_H_
#define PACKRAT_SERVER_TOOLS_INFO_COMMAND_H_

#include <string>
#include <vector>

namespace packrat {

// `packrat info --model DIR`: what a folder holds, and why it would be refused. Returns the exit
// code.
int InfoCommand(const std::vector<std::string>& args);

}  // namespace packrat

#endif  // PACKRAT_SERVER_TOOLS_INFO_COMMAND_H_
