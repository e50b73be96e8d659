// packrat plan: what a server takes of memory, and how much fits into it.
#ifndef PACKRAT_SERVER_TOOLS_PLAN_COMMAND_H_
#define PACKRAT_SERVER_TOOLS_PLAN_COMMAND_H_

#include <string>
#include <vector>

namespace packrat {

// `args` are what follows the command's name. The exit code: 0 if such a server starts, 1 if it
// does not, 2 after a mistake.
int PlanCommand(const std::vector<std::string>& args);

}  // namespace packrat

#endif  // PACKRAT_SERVER_TOOLS_PLAN_COMMAND_H_
