// What `packrat --help` says, and `packrat COMMAND --help` of the commands that talk to a server.
#ifndef PACKRAT_SERVER_CLIENT_COMMAND_HELP_H_
#define PACKRAT_SERVER_CLIENT_COMMAND_HELP_H_

#include <string>
#include <vector>

namespace packrat {

std::vector<std::string> CommandsWithHelp();

// The command for which a command line asks help: the first word that is one of these. Empty: none
// is.
std::string CommandIn(int argc, char** argv);

// Of one of these commands what it does, its flags, and examples; of "" all commands, and the flags
// that all of these take.
std::string HelpFor(const std::string& command);

}  // namespace packrat

#endif  // PACKRAT_SERVER_CLIENT_COMMAND_HELP_H_
