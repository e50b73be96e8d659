// The program beside the client that contains the model.
#ifndef PACKRAT_SERVER_CLIENT_TOOLS_PROGRAM_H_
#define PACKRAT_SERVER_CLIENT_TOOLS_PROGRAM_H_

namespace packrat {

// Replaces this process by packrat_tools, with the same arguments. The program is in the folder of
// this one or, if installed, in ../lib/packrat. Returns only if it cannot be run: 1, the exit code,
// after a message on standard error.
int BecomeTools(char** argv);

}  // namespace packrat

#endif  // PACKRAT_SERVER_CLIENT_TOOLS_PROGRAM_H_
