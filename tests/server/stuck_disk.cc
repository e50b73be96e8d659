// To be preloaded: a tensor of a checkpoint is never read to its end. Its header is, which begins
// within the first eight bytes.
#include <dlfcn.h>
#include <sys/types.h>
#include <unistd.h>

extern "C" ssize_t pread(int fd, void* to, size_t bytes, off_t offset) {
  using Function = ssize_t (*)(int, void*, size_t, off_t);
  static const auto real = reinterpret_cast<Function>(dlsym(RTLD_NEXT, "pread"));
  if (offset > 8) {
    for (;;) pause();
  }
  return real(fd, to, bytes, offset);
}
