// A server of this user's own, for as long as a command runs.
#ifndef PACKRAT_SERVER_CLIENT_LOCAL_SERVER_H_
#define PACKRAT_SERVER_CLIENT_LOCAL_SERVER_H_

#include <sys/types.h>

#include <memory>
#include <string>
#include <vector>

#include "server/client/signals.h"

namespace packrat {

class LocalServer {
 public:
  // Starts packrat_server, from the folder of this program or the one above it, on the model in
  // `folder` with `flags`, and waits until it is ready. Its port is a socket in a new folder that
  // this user alone can enter, its log a file beside it. `signals`: Ctrl-C ends the wait.
  // Null: it did not start; what its log says, or that it was interrupted, is on standard error,
  // and `exit_code` is set.
  static std::unique_ptr<LocalServer> Start(const std::string& folder,
                                            const std::vector<std::string>& flags, Signals* signals,
                                            int* exit_code);
  // Stops it. The folder goes too, unless the server has failed, which is then said.
  ~LocalServer();

  std::string address() const;  // For --address.

 private:
  LocalServer() = default;
  bool Spawn(const std::string& model, const std::vector<std::string>& flags);
  int AwaitReady(Signals* signals);
  bool HasEnded();
  void ShowLog() const;
  std::string log() const { return folder_ + "/log"; }

  std::string folder_;
  int notices_ = -1;  // What it tells a service manager comes here.
  pid_t pid_ = -1;    // -1: it does not run.
  int status_ = 0;    // Then: how it ended, as waitpid() tells.
};

}  // namespace packrat

#endif  // PACKRAT_SERVER_CLIENT_LOCAL_SERVER_H_
