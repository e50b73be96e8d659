// `packrat logits`: the logits of given token ids, computed in this process, without a server.
#ifndef PACKRAT_SERVER_TOOLS_LOGITS_COMMAND_H_
#define PACKRAT_SERVER_TOOLS_LOGITS_COMMAND_H_

#include <string>
#include <vector>

namespace packrat {

// `args`: what follows the word `logits`. Returns the exit code: 0, 1 for a failure, 2 for usage.
int LogitsCommand(const std::vector<std::string>& args);

}  // namespace packrat

#endif  // PACKRAT_SERVER_TOOLS_LOGITS_COMMAND_H_
