// The command line of packrat_server, and of what tells its plan.
#ifndef PACKRAT_SERVER_FLAGS_H_
#define PACKRAT_SERVER_FLAGS_H_

#include <string>

#include "server/options.h"

namespace packrat {

// Parses the command line of `program` (--flagfile too), of which `usage` tells. For --help and
// --version it prints them and exits with 0. For an error it prints a message on standard error and
// exits with 2.
ServerOptions OptionsFromCommandLine(int argc, char** argv, const std::string& program,
                                     const std::string& usage);

}  // namespace packrat

#endif  // PACKRAT_SERVER_FLAGS_H_
