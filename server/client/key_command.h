// packrat key: makes an API key.
#ifndef PACKRAT_SERVER_CLIENT_KEY_COMMAND_H_
#define PACKRAT_SERVER_CLIENT_KEY_COMMAND_H_

#include <string>
#include <vector>

namespace packrat {

// Returns the exit code. `args`: what follows "packrat key".
int KeyCommand(const std::vector<std::string>& args);

}  // namespace packrat

#endif  // PACKRAT_SERVER_CLIENT_KEY_COMMAND_H_
