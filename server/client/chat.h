// packrat chat: turn by turn, from a terminal or from standard input.
#ifndef PACKRAT_SERVER_CLIENT_CHAT_H_
#define PACKRAT_SERVER_CLIENT_CHAT_H_

#include <string>
#include <vector>

#include "server/client/connection.h"
#include "server/client/signals.h"

namespace packrat {

// Returns the exit code. `arguments`: those after the command's name that are not flags.
int ChatCommand(Connection* connection, Signals* signals,
                const std::vector<std::string>& arguments);

}  // namespace packrat

#endif  // PACKRAT_SERVER_CLIENT_CHAT_H_
