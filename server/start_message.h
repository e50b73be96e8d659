// What the server tells the person who has started it at a terminal.
#ifndef PACKRAT_SERVER_START_MESSAGE_H_
#define PACKRAT_SERVER_START_MESSAGE_H_

#include <string>

#include "server/options.h"

namespace packrat {

// What to open and what to type next. `grpc_port`, `http_port`: where they were opened; 0: a socket
// of the file system, or no port. `client`: what is typed for the client, e.g. "packrat".
std::string StartMessage(const ServerOptions& options, int grpc_port, int http_port,
                         const std::string& client);

}  // namespace packrat

#endif  // PACKRAT_SERVER_START_MESSAGE_H_
