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
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "runtime/steady_clock.h"
#include "server/store/redis_connection.h"

namespace packrat {

// A redis-server that keeps nothing on disk.
class RedisProcess {
 public:
  explicit RedisProcess(const std::string& password = "", std::vector<std::string> flags = {})
      : password_(password), flags_(std::move(flags)) {
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
      std::vector<std::string> words = {"redis-server", "--port",    "0",        "--unixsocket",
                                        Path(),         "--save",    "",         "--dir",
                                        folder_,        "--logfile", "redis.log"};
      if (!password_.empty()) words.insert(words.end(), {"--requirepass", password_});
      words.insert(words.end(), flags_.begin(), flags_.end());
      std::vector<char*> arguments;
      for (std::string& word : words) arguments.push_back(word.data());
      arguments.push_back(nullptr);
      execvp(arguments[0], arguments.data());
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
  const std::vector<std::string> flags_;
  std::string folder_;
  pid_t pid_ = 0;
};

}  // namespace packrat

#endif  // PACKRAT_TESTS_SERVER_REDIS_PROCESS_H_
