#include "server/client/tools_program.h"

#include <errno.h>
#include <limits.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <string>

namespace packrat {

int BecomeTools(char** argv) {
  char self[PATH_MAX];
  const ssize_t size = readlink("/proc/self/exe", self, sizeof(self));
  const std::string path(self, size > 0 ? size : 0);
  const std::string folder = path.substr(0, path.rfind('/') + 1);
  int error = ENOENT;
  for (const char* place : {"packrat_tools", "../lib/packrat/packrat_tools"}) {
    execv((folder + place).c_str(), argv);
    if (errno != ENOENT) error = errno;
  }
  std::fprintf(
      stderr,
      "packrat: %s is done by packrat_tools, beside this program or in ../lib/packrat: %s\n",
      argv[1], std::strerror(error));
  return 1;
}

}  // namespace packrat
