#include "server/process_stats.h"

#include <dirent.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <fstream>
#include <iterator>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"

namespace packrat {
namespace {

std::string ReadFile(const char* path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

// The fields of /proc/self/stat, numbered as in proc(5), from the third on. Before them are the
// number of the process and its name in brackets, which may contain anything.
class ProcStat {
 public:
  ProcStat() {
    const std::string text = ReadFile("/proc/self/stat");
    const size_t end_of_name = text.rfind(')');
    if (end_of_name != std::string::npos) {
      fields_ = absl::StrSplit(text.substr(end_of_name + 1), ' ', absl::SkipWhitespace());
    }
  }
  double Field(size_t number) const {
    double value = 0;
    if (number - 3 < fields_.size()) (void)absl::SimpleAtod(fields_[number - 3], &value);
    return value;
  }

 private:
  std::vector<std::string> fields_;
};

constexpr size_t kNumThreads = 20, kStartTime = 22, kVirtualSize = 23, kResidentPages = 24;

double BootTime() {
  for (absl::string_view line : absl::StrSplit(ReadFile("/proc/stat"), '\n')) {
    double seconds = 0;
    const std::vector<absl::string_view> words = absl::StrSplit(line, ' ');
    if (words.size() == 2 && words[0] == "btime" && absl::SimpleAtod(words[1], &seconds)) {
      return seconds;
    }
  }
  return 0;
}

double StartTime() {
  return BootTime() + ProcStat().Field(kStartTime) / static_cast<double>(sysconf(_SC_CLK_TCK));
}

double CpuSeconds() {
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

double MaxFds() {
  rlimit limit = {};
  getrlimit(RLIMIT_NOFILE, &limit);
  return limit.rlim_cur == RLIM_INFINITY ? std::numeric_limits<double>::infinity()
                                         : static_cast<double>(limit.rlim_cur);
}

double OpenFds() {
  DIR* folder = opendir("/proc/self/fd");
  // Listing them needs a descriptor. If none is left, all are in use.
  if (folder == nullptr) return errno == EMFILE ? MaxFds() : 0;
  int entries = 0;
  while (readdir(folder) != nullptr) ++entries;
  closedir(folder);
  return entries - 3;  // Without ".", ".." and the descriptor of the listing.
}

}  // namespace

ProcessStats ReadProcessStats() {
  // It is read once. The kernel's time of boot changes when the wall clock is set, and a start time
  // that changes would look like a restart.
  static const double start_time = StartTime();
  const ProcStat stat;
  ProcessStats stats;
  stats.cpu_seconds = CpuSeconds();
  stats.resident_bytes = stat.Field(kResidentPages) * static_cast<double>(sysconf(_SC_PAGESIZE));
  stats.virtual_bytes = stat.Field(kVirtualSize);
  stats.threads = stat.Field(kNumThreads);
  stats.open_fds = OpenFds();
  stats.max_fds = MaxFds();
  stats.start_time_seconds = start_time;
  return stats;
}

}  // namespace packrat
