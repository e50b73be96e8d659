// What gcc calls in code that it compiles with -fsanitize=thread. ThreadSanitizer's own runtime,
// which has the same names, is not linked: it knows threads of the system, and one clock for each
// would take longer than a kernel.
#include <dlfcn.h>
#include <link.h>

#include <cstdio>
#include <cstdlib>

#include "tests/emulation/races.h"

namespace emulation {

std::string CodePlace(const void* place) {
  Dl_info info = {};
  char text[512];
  if (dladdr(place, &info) == 0) {
    std::snprintf(text, sizeof text, "%p", place);
    return text;
  }
  // The instruction before, by its address in the file.
  const auto* header = static_cast<const ElfW(Ehdr)*>(info.dli_fbase);
  auto address = reinterpret_cast<uintptr_t>(place) - 1;
  if (header->e_type == ET_DYN) address -= reinterpret_cast<uintptr_t>(info.dli_fbase);
  std::snprintf(text, sizeof text, "addr2line -i -e '%s' %zx 2>/dev/null", info.dli_fname,
                static_cast<size_t>(address));
  std::string lines;
  if (FILE* command = popen(text, "r"); command != nullptr) {
    while (std::fgets(text, sizeof text, command) != nullptr) {
      std::string line(text);
      line.erase(line.find_last_not_of("\n") + 1);
      if (line.rfind("??", 0) == 0) continue;
      constexpr char kSandbox[] = "/proc/self/cwd/";
      if (line.rfind(kSandbox, 0) == 0) line.erase(0, sizeof kSandbox - 1);
      if (line.rfind("./", 0) == 0) line.erase(0, 2);
      lines += (lines.empty() ? "" : " from ") + line.substr(0, line.find(" (discriminator"));
    }
    pclose(command);
  }
  if (!lines.empty()) return lines;
  std::snprintf(text, sizeof text, "%s+0x%zx", info.dli_fname, static_cast<size_t>(address));
  return text;
}

}  // namespace emulation

// In a build for ThreadSanitizer these are its own.
#ifndef __SANITIZE_THREAD__

#define PACKRAT_HOOK(name, bytes, write)                                      \
  extern "C" void __tsan_##name(void* memory) {                               \
    emulation::RaceAccess(memory, bytes, write, __builtin_return_address(0)); \
  }
#define PACKRAT_HOOKS(bytes)                        \
  PACKRAT_HOOK(read##bytes, bytes, false)           \
  PACKRAT_HOOK(write##bytes, bytes, true)           \
  PACKRAT_HOOK(unaligned_read##bytes, bytes, false) \
  PACKRAT_HOOK(unaligned_write##bytes, bytes, true)
PACKRAT_HOOKS(1)
PACKRAT_HOOKS(2)
PACKRAT_HOOKS(4)
PACKRAT_HOOKS(8)
PACKRAT_HOOKS(16)

extern "C" void __tsan_read_range(void* memory, size_t bytes) {
  emulation::RaceAccess(memory, bytes, false, __builtin_return_address(0));
}
extern "C" void __tsan_write_range(void* memory, size_t bytes) {
  emulation::RaceAccess(memory, bytes, true, __builtin_return_address(0));
}

// By a constructor of each instrumented file.
extern "C" void __tsan_init() { emulation::EnableRaces(); }

// The rest is of the host's code beside the kernels, which does not race here.
extern "C" void __tsan_func_entry(void*) {}
extern "C" void __tsan_func_exit() {}
extern "C" void __tsan_vptr_read(void*) {}
extern "C" void __tsan_vptr_update(void*, void*) {}

// NOLINTBEGIN(bugprone-macro-parentheses): types have none.
#define PACKRAT_ATOMIC_HOOKS(bits, T)                                                           \
  extern "C" T __tsan_atomic##bits##_load(const volatile T* a, int) {                           \
    return __atomic_load_n(a, __ATOMIC_SEQ_CST);                                                \
  }                                                                                             \
  extern "C" void __tsan_atomic##bits##_store(volatile T* a, T v, int) {                        \
    __atomic_store_n(a, v, __ATOMIC_SEQ_CST);                                                   \
  }                                                                                             \
  extern "C" T __tsan_atomic##bits##_exchange(volatile T* a, T v, int) {                        \
    return __atomic_exchange_n(a, v, __ATOMIC_SEQ_CST);                                         \
  }                                                                                             \
  extern "C" T __tsan_atomic##bits##_fetch_add(volatile T* a, T v, int) {                       \
    return __atomic_fetch_add(a, v, __ATOMIC_SEQ_CST);                                          \
  }                                                                                             \
  extern "C" T __tsan_atomic##bits##_fetch_sub(volatile T* a, T v, int) {                       \
    return __atomic_fetch_sub(a, v, __ATOMIC_SEQ_CST);                                          \
  }                                                                                             \
  extern "C" int __tsan_atomic##bits##_compare_exchange_strong(volatile T* a, T* was, T v, int, \
                                                               int) {                           \
    return __atomic_compare_exchange_n(a, was, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);   \
  }                                                                                             \
  extern "C" int __tsan_atomic##bits##_compare_exchange_weak(volatile T* a, T* was, T v, int,   \
                                                             int) {                             \
    return __atomic_compare_exchange_n(a, was, v, true, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);    \
  }
// NOLINTEND(bugprone-macro-parentheses)
PACKRAT_ATOMIC_HOOKS(8, uint8_t)
PACKRAT_ATOMIC_HOOKS(32, uint32_t)
PACKRAT_ATOMIC_HOOKS(64, uint64_t)

#endif
