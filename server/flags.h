// The command line of packrat_server.
#ifndef PACKRAT_SERVER_FLAGS_H_
#define PACKRAT_SERVER_FLAGS_H_

#include "server/options.h"

namespace packrat {

// Parses the command line (--flagfile too). Answers --help and --version itself and exits with 0;
// anything wrong is said on standard error and exits with 2.
ServerOptions OptionsFromCommandLine(int argc, char** argv);

}  // namespace packrat

#endif  // PACKRAT_SERVER_FLAGS_H_
