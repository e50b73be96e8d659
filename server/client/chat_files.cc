#include "server/client/chat_files.h"

#include <sys/stat.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "absl/flags/flag.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "server/client/request_flags.h"

namespace packrat {

std::string HistoryFile() {
  const std::string flag = absl::GetFlag(FLAGS_history);
  if (flag != "auto") return flag;
  const char* state = std::getenv("XDG_STATE_HOME");
  const char* home = std::getenv("HOME");
  std::string path;
  if (state != nullptr && *state == '/') {
    path = state;
  } else if (home != nullptr && *home == '/') {
    path = absl::StrCat(home, "/.local/state");
  } else {
    return "";
  }
  path += "/packrat";
  for (size_t slash = path.find('/', 1); slash != path.npos; slash = path.find('/', slash + 1)) {
    mkdir(path.substr(0, slash).c_str(), 0700);
  }
  mkdir(path.c_str(), 0700);
  return path + "/history";
}

std::string WithHome(const std::string& path) {
  const char* home = std::getenv("HOME");
  if (home == nullptr || (path != "~" && !absl::StartsWith(path, "~/"))) return path;
  return home + path.substr(1);
}

absl::Status SaveText(const std::string& path, bool over, const std::string& text) {
  std::FILE* file = std::fopen(path.c_str(), over ? "w" : "wx");
  if (file == nullptr && errno == EEXIST) return absl::AlreadyExistsError("it is there");
  if (file == nullptr) return absl::UnknownError(std::strerror(errno));
  bool written = std::fwrite(text.data(), 1, text.size(), file) == text.size();
  int error = errno;
  if (std::fclose(file) != 0 && written) {
    written = false;
    error = errno;
  }
  return written ? absl::OkStatus() : absl::UnknownError(std::strerror(error));
}

}  // namespace packrat
