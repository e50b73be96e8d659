// A real redis-server, for tests.
#ifndef PACKRAT_TESTS_SERVER_REDIS_PROCESS_H_
#define PACKRAT_TESTS_SERVER_REDIS_PROCESS_H_

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <string>

#include "absl/time/clock.h"
#include "runtime/steady_clock.h"
#include "server/store/redis_connection.h"

namespace packrat {

// A redis-server that keeps nothing on disk.
class RedisProcess {
 public:
  explicit RedisProcess(const std::string& password = "") : password_(password) {
    std::string name = "/tmp/packrat-redisXXXXXX";
    folder_ = mkdtemp(name.data());
    Start();
  }
  ~RedisProcess() {
    Kill();
    std::filesystem::remove_all(folder_);
  }
  void Start() {
    pid_ = fork();
    if (pid_ == 0) {
      const std::string socket = Path();
      const char* arguments[] = {"redis-server",    "--port",    "0",         "--unixsocket",
                                 socket.c_str(),    "--save",    "",          "--dir",
                                 folder_.c_str(),   "--logfile", "redis.log", "--requirepass",
                                 password_.c_str(), nullptr};
      if (password_.empty()) arguments[11] = nullptr;
      execvp(arguments[0], const_cast<char**>(arguments));
      _exit(127);
    }
    RedisAddress address;
    address.path = Path();
    address.password = password_;
    while (!RedisConnection::Open(address, SteadyNow() + absl::Seconds(5)).ok()) {
      ASSERT_EQ(waitpid(pid_, nullptr, WNOHANG), 0) << "is redis-server installed?";
      absl::SleepFor(absl::Milliseconds(20));
    }
  }
  void Kill() {
    if (pid_ > 0) kill(pid_, SIGKILL), waitpid(pid_, nullptr, 0);
    pid_ = 0;
  }
  void Signal(int signal) { kill(pid_, signal); }
  std::string Path() const { return folder_ + "/socket"; }

 private:
  const std::string password_;
  std::string folder_;
  pid_t pid_ = 0;
};

}  // namespace packrat

#endif  // PACKRAT_TESTS_SERVER_REDIS_PROCESS_H_
