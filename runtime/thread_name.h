// Names of threads, as top -H, gdb and /proc show them.
#ifndef PACKRAT_RUNTIME_THREAD_NAME_H_
#define PACKRAT_RUNTIME_THREAD_NAME_H_

#include <pthread.h>

namespace packrat {

// Of the calling thread; at most 15 characters.
inline void SetThreadName(const char* name) { pthread_setname_np(pthread_self(), name); }

}  // namespace packrat

#endif  // PACKRAT_RUNTIME_THREAD_NAME_H_
