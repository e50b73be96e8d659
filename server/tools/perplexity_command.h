// `packrat perplexity`: how well a model predicts a text, computed in this process.
#ifndef PACKRAT_SERVER_TOOLS_PERPLEXITY_COMMAND_H_
#define PACKRAT_SERVER_TOOLS_PERPLEXITY_COMMAND_H_

#include <string>
#include <vector>

namespace packrat {

// `args`: what follows the word `perplexity`. Returns the exit code: 0, 1 for a failure, 2 for
// usage.
int PerplexityCommand(const std::vector<std::string>& args);

}  // namespace packrat

#endif  // PACKRAT_SERVER_TOOLS_PERPLEXITY_COMMAND_H_
