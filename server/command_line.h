// How the server and the client parse their command lines.
#ifndef PACKRAT_SERVER_COMMAND_LINE_H_
#define PACKRAT_SERVER_COMMAND_LINE_H_

#include <string>
#include <vector>

namespace packrat {

// Parses Abseil's flags (--flagfile too) and returns the other arguments. --help prints `usage` and
// the flags that are defined in this project, --version the version; both exit with 0. A wrong flag
// is reported on standard error, and the exit code is 2.
std::vector<std::string> ParseCommandLine(int argc, char** argv, const std::string& program,
                                          const std::string& usage);

}  // namespace packrat

#endif  // PACKRAT_SERVER_COMMAND_LINE_H_
