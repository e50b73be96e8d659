// Flags of the commands that run a model in this process, without a server.
#ifndef PACKRAT_SERVER_TOOLS_LOCAL_FLAGS_H_
#define PACKRAT_SERVER_TOOLS_LOCAL_FLAGS_H_

#include <cstddef>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "models/tools/text_feed.h"

namespace packrat {

// Declare the flags, then Parse().
class LocalFlags {
 public:
  // `command` begins every message; `usage` is what --help prints. Both outlive the flags.
  LocalFlags(const char* command, const char* usage) : command_(command), usage_(usage) {}

  // `target` holds the default, and the value after Parse(). Of `required` ones it must not be
  // empty.
  void Text(const std::string& name, std::string* target, bool required = false);
  void Integer(const std::string& name, int* target);
  void Number(const std::string& name, float* target);
  void Switch(const std::string& name, bool* target);  // `--name` alone.
  // What the commands share, --cpu_target too, which Parse() sets.
  void Feed(FeedOptions* options);

  // `--name value` or `--name=value`. The exit code where the process ends here: 0 after --help, 2
  // after a mistake, which has been told.
  std::optional<int> Parse(const std::vector<std::string>& args);

  // Tells each tenth of a long work on standard error, if a second has gone by since the last.
  std::function<void(size_t done, size_t total)> Progress() const;

  int UsageError(const std::string& message) const;  // Tells it and returns 2.
  int Failed(const absl::Status& status) const;      // Tells it and returns 1.

 private:
  const char* const command_;
  const char* const usage_;
  std::map<std::string, std::function<bool(const std::string&)>> flags_;
  std::map<std::string, bool*> switches_;
  std::vector<std::pair<std::string, const std::string*>> required_;
  std::string cpu_target_ = "auto";
};

}  // namespace packrat

#endif  // PACKRAT_SERVER_TOOLS_LOCAL_FLAGS_H_
