// Puts the messages of libraries into the log, as lines in its format, without waiting for a
// reader.
#ifndef PACKRAT_SERVER_LIBRARY_LOG_H_
#define PACKRAT_SERVER_LIBRARY_LOG_H_

#include "server/log.h"

namespace packrat {

// From now on, messages of gRPC and of Protocol Buffers go to `log`, which lives to the end of the
// process. Call it once, before either is used.
void LogForLibraries(Logger* log);

}  // namespace packrat

#endif  // PACKRAT_SERVER_LIBRARY_LOG_H_
