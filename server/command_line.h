// How the server and the client parse their command lines.
#ifndef PACKRAT_SERVER_COMMAND_LINE_H_
#define PACKRAT_SERVER_COMMAND_LINE_H_

#include <functional>
#include <string>
#include <vector>

namespace packrat {

// Parses Abseil's flags (--flagfile too) and returns the other arguments. --help prints `help`,
// --version the version; both exit with 0. A wrong flag is reported on standard error, and the exit
// code is 2.
std::vector<std::string> ParseCommandLine(int argc, char** argv, const std::string& program,
                                          const std::function<std::string()>& help);

// What help says of flags: of all that are defined in this project, or of those with these names.
std::string FlagsHelp();
std::string FlagsHelp(const std::vector<std::string>& names);

}  // namespace packrat

#endif  // PACKRAT_SERVER_COMMAND_LINE_H_
