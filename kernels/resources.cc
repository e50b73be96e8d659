#include "kernels/resources.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <map>
#include <optional>
#include <sstream>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace packrat {
namespace {

std::string ReadText(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  if (file) text << file.rdbuf();
  return text.str();
}

// The lines of a table by their first word: "Name: value", or "name value" as in memory.stat.
std::map<std::string, std::string> ReadTable(const std::string& path, const char* separator) {
  std::map<std::string, std::string> table;
  for (absl::string_view line : absl::StrSplit(ReadText(path), '\n')) {
    const std::pair<absl::string_view, absl::string_view> row =
        absl::StrSplit(line, absl::MaxSplits(separator, 1));
    table[std::string(row.first)] = std::string(absl::StripAsciiWhitespace(row.second));
  }
  return table;
}

// The number that `text` begins with; none for "max", "unlimited" and what is not there.
std::optional<int64_t> Number(absl::string_view text) {
  int64_t value = 0;
  text = absl::StripAsciiWhitespace(text);
  text = text.substr(0, text.find_first_of(" \t\n"));
  // What is above int64_t is no limit either.
  if (!absl::SimpleAtoi(text, &value) || value < 0) return std::nullopt;
  return value;
}

std::optional<int64_t> Field(const std::map<std::string, std::string>& table, const char* name) {
  const auto found = table.find(name);
  return found == table.end() ? std::nullopt : Number(found->second);
}

// The folders of this process's group and of the groups above it, as far as the process sees them,
// the innermost first.
struct Groups {
  bool v2 = false;
  std::vector<std::string> folders;  // Below the root.
  std::vector<std::string> names;    // As the mount shows them: "/a/b".
};

bool IsBelow(const std::string& path, const std::string& folder) {
  if (folder == "/") return true;
  return path == folder || path.compare(0, folder.size() + 1, folder + "/") == 0;
}

// Walks from `path` up to the mount point. `mount_root` is the folder of the hierarchy that is
// mounted. In a container that is often its own group, and `path` may name folders that it cannot
// see.
void Walk(const std::string& root, const std::string& mount_root, const std::string& mount_point,
          std::string path, Groups* groups) {
  if (!IsBelow(path, mount_root)) {
    path.clear();
  } else if (mount_root != "/") {
    path = path.substr(mount_root.size());
  }
  if (path == "/") path.clear();
  while (true) {
    groups->folders.push_back(absl::StrCat(root, mount_point, path));
    groups->names.push_back(path.empty() ? "/" : path);
    if (path.empty()) return;
    path = path.substr(0, path.rfind('/'));
  }
}

// The groups of `controller`: "memory" or "cpu". A machine may have both hierarchies; the
// controller is in one of them.
std::vector<Groups> FindGroups(const std::string& root, const std::string& controller) {
  std::map<std::string, std::string> v1_paths;  // By controller.
  std::optional<std::string> v2_path;
  for (absl::string_view line : absl::StrSplit(ReadText(root + "/proc/self/cgroup"), '\n')) {
    const std::vector<std::string> parts = absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (parts.size() != 3) continue;
    if (parts[0] == "0" && parts[1].empty()) v2_path = parts[2];
    for (absl::string_view name : absl::StrSplit(parts[1], ',')) {
      v1_paths[std::string(name)] = parts[2];
    }
  }
  std::vector<Groups> found;
  for (absl::string_view line : absl::StrSplit(ReadText(root + "/proc/self/mountinfo"), '\n')) {
    // id parent device root mount_point options optional... - type source super_options
    const std::vector<std::string> fields = absl::StrSplit(line, ' ');
    const auto dash = std::find(fields.begin(), fields.end(), "-");
    if (fields.size() < 6 || fields.end() - dash < 4) continue;
    Groups groups;
    groups.v2 = *(dash + 1) == "cgroup2";
    std::optional<std::string> path = groups.v2 ? v2_path : std::nullopt;
    if (*(dash + 1) == "cgroup") {
      const std::vector<std::string> options = absl::StrSplit(*(dash + 3), ',');
      const auto v1_path = v1_paths.find(controller);
      const bool has = std::find(options.begin(), options.end(), controller) != options.end();
      if (has && v1_path != v1_paths.end()) path = v1_path->second;
    }
    if (!path.has_value()) continue;
    Walk(root, fields[3], fields[4], *path, &groups);
    found.push_back(std::move(groups));
  }
  return found;
}

// Takes limits of memory one after the other and keeps the tightest.
class MemoryBounds {
 public:
  explicit MemoryBounds(Resources* to) : to_(to) {
    to_->memory_limit = to_->memory_available = std::numeric_limits<int64_t>::max();
  }
  // Of `limit`, `used` is taken, by this process or by others.
  void Add(int64_t limit, int64_t used, const std::string& source, bool own) {
    if (limit < to_->memory_limit) {
      to_->memory_limit = limit;
      to_->memory_limit_source = source;
      to_->memory_limit_is_own = own;
    }
    const int64_t available =
        std::clamp<int64_t>(limit - std::max(used - to_->memory_held, int64_t{0}), 0, limit);
    if (available < to_->memory_available) {
      to_->memory_available = available;
      to_->memory_available_source = source;
    }
  }

 private:
  Resources* to_;
};

void AddMachine(const std::string& root, MemoryBounds* bounds) {
  const auto table = ReadTable(root + "/proc/meminfo", ":");
  const auto total = Field(table, "MemTotal"), available = Field(table, "MemAvailable");
  const int64_t bytes =
      total.has_value() ? *total << 10 : int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGESIZE);
  const int64_t free = available.has_value() ? *available << 10 : bytes;
  bounds->Add(bytes, bytes - free, "memory of the machine", false);
}

void AddMemoryGroups(const Groups& groups, MemoryBounds* bounds) {
  for (size_t i = 0; i < groups.folders.size(); ++i) {
    const std::string& folder = groups.folders[i];
    const auto stat = ReadTable(folder + "/memory.stat", " ");
    const auto used =
        Number(ReadText(folder + (groups.v2 ? "/memory.current" : "/memory.usage_in_bytes")));
    // The system takes back the page cache of files when it needs the memory.
    const char* const prefix = groups.v2 ? "" : "total_";
    const int64_t cache = Field(stat, absl::StrCat(prefix, "active_file").c_str()).value_or(0) +
                          Field(stat, absl::StrCat(prefix, "inactive_file").c_str()).value_or(0);
    const auto add = [&](std::optional<int64_t> limit, const char* name) {
      if (!limit.has_value()) return;
      bounds->Add(*limit, used.value_or(0) - cache,
                  absl::StrCat(name, " of cgroup ", groups.names[i]), true);
    };
    if (groups.v2) {
      add(Number(ReadText(folder + "/memory.max")), "memory.max");
      add(Number(ReadText(folder + "/memory.high")), "memory.high");
    } else {
      add(Number(ReadText(folder + "/memory.limit_in_bytes")), "memory.limit_in_bytes");
      // This one includes the limits of groups above that are not mounted here.
      add(Field(stat, "hierarchical_memory_limit"), "hierarchical_memory_limit");
    }
  }
}

// These limits count address space, and a process takes more of that than of memory: every thread
// reserves 8 MiB for its stack and 64 MiB for its heap. A server under load was seen to take 150
// MiB for threads that were started later.
constexpr int64_t kThreadSpace = int64_t{256} << 20;

void AddResourceLimits(const std::string& root, const std::map<std::string, std::string>& status,
                       MemoryBounds* bounds) {
  const std::string limits = ReadText(root + "/proc/self/limits");
  const auto add = [&](absl::string_view row, const char* used, int64_t more, const char* name) {
    const size_t at = limits.find(std::string(row));
    if (at == std::string::npos) return;
    const auto limit = Number(absl::string_view(limits).substr(at + row.size()));
    if (!limit.has_value()) return;
    bounds->Add(*limit, (Field(status, used).value_or(0) << 10) + more, name, true);
  };
  add("Max address space", "VmSize", kThreadSpace, "RLIMIT_AS (ulimit -v)");
  add("Max data size", "VmData", 0, "RLIMIT_DATA (ulimit -d)");
}

// "0-3,7" has 5.
int CountList(absl::string_view list) {
  int count = 0;
  for (absl::string_view range : absl::StrSplit(list, ',')) {
    const std::pair<absl::string_view, absl::string_view> ends = absl::StrSplit(range, '-');
    const auto first = Number(ends.first), last = Number(ends.second);
    if (first.has_value()) count += static_cast<int>(last.value_or(*first) - *first + 1);
  }
  return count;
}

void ReadCpus(const std::string& root, const std::map<std::string, std::string>& status,
              Resources* to) {
  const auto allowed = status.find("Cpus_allowed_list");
  int cpus = allowed == status.end() ? 0 : CountList(allowed->second);
  if (cpus <= 0) cpus = static_cast<int>(std::thread::hardware_concurrency());
  to->cpus = std::max(cpus, 1);
  to->cpus_source = "the CPUs that this process may run on";
  for (const Groups& groups : FindGroups(root, "cpu")) {
    for (size_t i = 0; i < groups.folders.size(); ++i) {
      const std::string& folder = groups.folders[i];
      std::optional<int64_t> quota, period;
      if (groups.v2) {  // "50000 100000", or "max 100000".
        const std::string text = ReadText(folder + "/cpu.max");
        quota = Number(text);
        period = Number(absl::string_view(text).substr(std::min(text.find(' '), text.size())));
      } else {
        quota = Number(ReadText(folder + "/cpu.cfs_quota_us"));
        period = Number(ReadText(folder + "/cpu.cfs_period_us"));
      }
      if (quota.value_or(0) <= 0 || period.value_or(0) <= 0) continue;
      const double share = static_cast<double>(*quota) / static_cast<double>(*period);
      if (share >= to->cpus) continue;
      to->cpus = share;
      to->cpus_source =
          absl::StrCat(groups.v2 ? "cpu.max" : "cpu.cfs_quota_us", " of cgroup ", groups.names[i]);
    }
  }
}

}  // namespace

int Resources::DefaultThreads() const {
  return std::max(1, static_cast<int>(std::floor(cpus + 0.5)));
}

void Resources::LimitMemory(int64_t bytes, const std::string& source) {
  if (bytes < memory_limit) {
    memory_limit = bytes;
    memory_limit_source = source;
    memory_limit_is_own = true;
  }
  if (bytes < memory_available) {
    memory_available = bytes;
    memory_available_source = source;
  }
}

absl::Status Resources::CheckAvailable(int64_t bytes, const std::string& what) const {
  const int64_t free = std::max(memory_available - memory_held, int64_t{0});
  if (bytes <= free) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat(what, " ", MiB(bytes),
                                                   ", and this process can have ", MiB(free),
                                                   " more (", memory_available_source, ")"));
}

Resources ReadResources(const std::string& root) {
  Resources resources;
  const auto status = ReadTable(root + "/proc/self/status", ":");
  // Memory of its own: pages of files are counted as page cache.
  resources.memory_held = Field(status, "RssAnon").value_or(0) << 10;
  MemoryBounds bounds(&resources);
  AddMachine(root, &bounds);
  for (const Groups& groups : FindGroups(root, "memory")) AddMemoryGroups(groups, &bounds);
  AddResourceLimits(root, status, &bounds);
  ReadCpus(root, status, &resources);
  const std::string huge_pages = ReadText(root + "/sys/kernel/mm/transparent_hugepage/enabled");
  resources.huge_pages = !absl::StrContains(huge_pages, "[never]");
  return resources;
}

std::string MiB(int64_t bytes) { return absl::StrCat((bytes + (1 << 19)) >> 20, " MiB"); }

}  // namespace packrat
