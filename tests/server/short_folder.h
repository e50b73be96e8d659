#ifndef PACKRAT_TESTS_SERVER_SHORT_FOLDER_H_
#define PACKRAT_TESTS_SERVER_SHORT_FOLDER_H_

#include <stdlib.h>

#include <string>

#include "kernels/check.h"

namespace packrat {

// A new folder whose name leaves room for that of a socket. The tests' own is too long.
inline std::string ShortFolder() {
  std::string folder = "/tmp/packrat-XXXXXX";
  PACKRAT_CHECK(mkdtemp(folder.data()) != nullptr);
  return folder;
}

}  // namespace packrat

#endif  // PACKRAT_TESTS_SERVER_SHORT_FOLDER_H_
