// What Ctrl-C and its like do to a command. A thread waits for them, so nothing runs in a handler.
#ifndef PACKRAT_SERVER_CLIENT_SIGNALS_H_
#define PACKRAT_SERVER_CLIENT_SIGNALS_H_

#include "runtime/mutex.h"
#include "server/client/connection.h"

namespace packrat {

class Signals {
 public:
  // What becomes of Ctrl-C.
  enum class Mode {
    kEnd,       // It ends the calls, so that the server frees their memory, and then the process.
    kStopCall,  // It ends the calls; Connection::Resume() lets others begin. So does one of
                // which kTell has told and nobody has heard.
    kTell,      // descriptor() tells of it, and of a terminal that has another size or comes back.
  };

  // Takes the signals from this thread and from all that it starts later, so comes before gRPC's.
  // Lives to the end of the process.
  Signals();

  void SetMode(Mode mode) { Set(mode, nullptr); }
  // `connection`: whose calls end from here on; lives to the end of the process.
  void SetConnection(Connection* connection) { Set(Mode::kEnd, connection); }

  // Readable: a byte for each signal, its number. SIGTERM is told in every mode; a second after
  // it the process ends, by quick_exit(). So it does when its terminal goes (SIGHUP), which is
  // told as SIGTERM.
  int descriptor() const { return pipe_[0]; }
  // The next of them; 0: there is none.
  int Take();

 private:
  void Set(Mode mode, Connection* connection);
  void Wait();
  void Tell(int number);

  int pipe_[2] = {-1, -1};
  Mutex mutex_;
  Mode mode_ ABSL_GUARDED_BY(mutex_) = Mode::kEnd;
  Connection* connection_ ABSL_GUARDED_BY(mutex_) = nullptr;
};

}  // namespace packrat

#endif  // PACKRAT_SERVER_CLIENT_SIGNALS_H_
