// The program beside the client that has a model in it.
#ifndef PACKRAT_SERVER_CLIENT_TOOLS_PROGRAM_H_
#define PACKRAT_SERVER_CLIENT_TOOLS_PROGRAM_H_

namespace packrat {

// Becomes packrat_tools, with the same arguments: the file of that name in the folder of this
// program or, where programs are installed, in ../lib/packrat. Returns only if none can be run: the
// exit code, 1, after a message on standard error.
int BecomeTools(char** argv);

}  // namespace packrat

#endif  // PACKRAT_SERVER_CLIENT_TOOLS_PROGRAM_H_
