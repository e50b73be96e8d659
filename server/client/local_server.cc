#include "server/client/local_server.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "server/client/commands.h"
#include "server/client/terminal_text.h"

namespace packrat {
namespace {

// Longer than the server takes when it is told to stop at once.
constexpr absl::Duration kStopTime = absl::Seconds(10);
constexpr int kShownLines = 20;

void TellError(const std::string& what) {
  std::fprintf(stderr, "packrat: %s: %s\n", what.c_str(), std::strerror(errno));
}

// Empty: it is at neither place.
std::string ServerProgram() {
  char self[PATH_MAX];
  const ssize_t size = readlink("/proc/self/exe", self, sizeof(self));
  const std::string path(self, size > 0 ? size : 0);
  const std::string folder = path.substr(0, path.rfind('/') + 1);
  for (const char* place : {"packrat_server", "../packrat_server"}) {
    if (access((folder + place).c_str(), X_OK) == 0) return folder + place;
  }
  return "";
}

// Writes how far a start is over the line that tells so, where a terminal has one.
void ShowProgress(absl::string_view text) {
  static const bool shown = isatty(STDERR_FILENO) != 0 && TakesCommands();
  if (shown) std::fprintf(stderr, "\r\033[K%.*s", static_cast<int>(text.size()), text.data());
}

// A short path: the name of a socket has 107 bytes at most.
std::string MakeFolder() {
  const char* runtime = std::getenv("XDG_RUNTIME_DIR");
  for (const std::string& parent :
       {std::string(runtime == nullptr ? "" : runtime), std::string("/tmp")}) {
    std::string path = parent + "/packrat-XXXXXX";
    if (!parent.empty() && parent.size() < 64 && mkdtemp(path.data()) != nullptr) return path;
  }
  return "";
}

// A socket that receives what sd_notify(3) sends; -1: errno tells.
int ListenForNotices(const std::string& path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.c_str(), path.size());
  const int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd >= 0 && bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0) return fd;
  if (fd >= 0) close(fd);
  return -1;
}

// Whether the folder of a server has gone, with all that is in it.
bool Remove(const std::string& folder) {
  for (const char* name : {"/notices", "/socket", "/log"}) unlink((folder + name).c_str());
  return rmdir(folder.c_str()) == 0 || errno == ENOENT;
}

// The folder that goes where the process ends without ~LocalServer; null: none.
std::atomic<const std::string*> left_folder{nullptr};

void RemoveLeftFolder() {
  const std::string* const folder = left_folder.exchange(nullptr);
  // The server may be about to open its socket.
  for (int tries = 0; folder != nullptr && !Remove(*folder) && tries < 10; ++tries) {
    absl::SleepFor(absl::Milliseconds(10));
  }
}

}  // namespace

std::unique_ptr<LocalServer> LocalServer::Start(const std::string& folder,
                                                const std::vector<std::string>& flags,
                                                Signals* signals, int* exit_code) {
  std::unique_ptr<LocalServer> server(new LocalServer);
  *exit_code = kExitFailed;
  server->folder_ = MakeFolder();
  if (server->folder_.empty()) {
    TellError("no folder can be made in $XDG_RUNTIME_DIR or /tmp");
    return nullptr;
  }
  // Stays as long as the process, since a thread may just be reading it.
  left_folder = new std::string(server->folder_);
  std::at_quick_exit(RemoveLeftFolder);
  // Print() then ends the process, and not this.
  signal(SIGPIPE, SIG_IGN);
  server->notices_ = ListenForNotices(server->folder_ + "/notices");
  if (server->notices_ < 0) {
    TellError(server->folder_);
    return nullptr;
  }
  if (!server->Spawn(folder, flags)) return nullptr;
  *exit_code = server->AwaitReady(signals);
  if (*exit_code == kExitOk) return server;
  return nullptr;
}

std::string LocalServer::address() const { return absl::StrCat("unix:", folder_, "/socket"); }

bool LocalServer::Spawn(const std::string& model, const std::vector<std::string>& flags) {
  std::string program = ServerProgram();
  if (program.empty()) {
    std::fprintf(stderr, "packrat: packrat_server is neither beside this program nor above it\n");
    return false;
  }
  // Flags that are given come last, and the last one counts.
  std::vector<std::string> words = {program,          "--model=" + model, "--listen=" + address(),
                                    "--http_listen=", "--drain_delay=0s", "--drain_grace=0s"};
  words.insert(words.end(), flags.begin(), flags.end());
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  const int output = open(log().c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
  const int input = open("/dev/null", O_RDONLY | O_CLOEXEC);
  if (output < 0 || input < 0) {
    TellError(log());
    return false;
  }
  setenv("NOTIFY_SOCKET", (folder_ + "/notices").c_str(), 1);
  const pid_t parent = getpid();
  pid_ = fork();
  if (pid_ == 0) {
    // Ctrl-C at the terminal is for the client alone; if the client dies, the server stops too.
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent) _exit(1);
    sigset_t none;
    sigemptyset(&none);
    pthread_sigmask(SIG_SETMASK, &none, nullptr);
    dup2(input, STDIN_FILENO);
    dup2(output, STDOUT_FILENO);
    dup2(output, STDERR_FILENO);
    execv(program.c_str(), arguments.data());
    _exit(127);
  }
  close(output);
  close(input);
  if (pid_ < 0) TellError("fork");
  return pid_ > 0;
}

bool LocalServer::HasEnded() {
  if (pid_ > 0 && waitpid(pid_, &status_, WNOHANG) == pid_) pid_ = -1;
  return pid_ < 0;
}

void LocalServer::ShowLog() const {
  std::ifstream file(log());
  std::vector<std::string> lines;
  for (std::string line; std::getline(file, line);) lines.push_back(line);
  const size_t first = lines.size() > kShownLines ? lines.size() - kShownLines : 0;
  for (size_t i = first; i < lines.size(); ++i) std::fprintf(stderr, "%s\n", lines[i].c_str());
}

int LocalServer::AwaitReady(Signals* signals) {
  signals->SetMode(Signals::Mode::kTell);
  for (bool ready = false; !ready;) {
    // The time is that in which its end is seen.
    pollfd news[] = {{notices_, POLLIN, 0}, {signals->descriptor(), POLLIN, 0}};
    poll(news, 2, 50);
    char notice[512];
    for (ssize_t n; (n = recv(notices_, notice, sizeof(notice), 0)) > 0;) {
      const absl::string_view text(notice, n);
      const size_t status = text.find("STATUS=");
      if (status != text.npos) ShowProgress(text.substr(status + 7));
      ready = ready || absl::StrContains(text, "READY=1");
    }
    while (const int number = signals->Take()) {
      if (number != SIGINT && number != SIGTERM) continue;
      ShowProgress("");
      return kExitInterrupted;
    }
    if (!ready && HasEnded()) {
      ShowProgress("");
      std::fprintf(stderr, "packrat: the server did not start:\n");
      ShowLog();
      unlink(log().c_str());
      return kExitFailed;
    }
  }
  ShowProgress("");
  return kExitOk;
}

LocalServer::~LocalServer() {
  const bool started = pid_ > 0;
  if (!HasEnded()) {
    kill(pid_, SIGTERM);
    const absl::Time give_up = absl::Now() + kStopTime;
    while (!HasEnded() && absl::Now() < give_up) absl::SleepFor(absl::Milliseconds(10));
    if (pid_ > 0) {
      kill(pid_, SIGKILL);
      waitpid(pid_, &status_, 0);
    }
  }
  if (notices_ >= 0) close(notices_);
  if (folder_.empty()) return;
  // It does not stop before it is told, and then with 0.
  if (started && status_ != 0) {
    left_folder = nullptr;
    std::fprintf(stderr, "packrat: the server has failed; its log is %s\n", log().c_str());
    unlink((folder_ + "/notices").c_str());
    unlink((folder_ + "/socket").c_str());
    return;
  }
  Remove(folder_);
  left_folder = nullptr;
}

}  // namespace packrat
