#include "server/command_line.h"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "absl/flags/parse.h"
#include "absl/flags/reflection.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "server/version.h"

namespace packrat {
namespace {

bool g_parsing = false;

// Abseil exits with 1 on a flag that it cannot take; for the caller of a command 2 is a mistake in
// the command and 1 a failure of the work.
void TurnParseErrorIntoTwo() {
  if (!g_parsing) return;
  std::fflush(nullptr);
  _exit(2);
}

void PrintWrapped(const std::string& text) {
  std::string line;
  for (absl::string_view word : absl::StrSplit(text, ' ')) {
    if (line.size() + word.size() > 90) {
      std::printf("      %s\n", line.c_str());
      line.clear();
    }
    absl::StrAppend(&line, line.empty() ? "" : " ", word);
  }
  std::printf("      %s\n", line.c_str());
}

void PrintHelp(const std::string& usage) {
  std::printf("%s\n\nFlags:\n", usage.c_str());
  std::map<std::string, absl::CommandLineFlag*> ours;
  for (const auto& [name, flag] : absl::GetAllFlags()) {
    if (absl::StartsWith(flag->Filename(), "server/")) ours.emplace(std::string(name), flag);
  }
  for (const auto& [name, flag] : ours) {
    const std::string value = flag->DefaultValue();
    std::printf("  --%s (default: %s)\n", name.c_str(), value.empty() ? "none" : value.c_str());
    PrintWrapped(flag->Help());
  }
}

}  // namespace

std::vector<std::string> ParseCommandLine(int argc, char** argv, const std::string& program,
                                          const std::string& usage) {
  for (int i = 1; i < argc && std::strcmp(argv[i], "--") != 0; ++i) {
    if (std::strcmp(argv[i], "--help") == 0 || std::strcmp(argv[i], "-h") == 0) {
      PrintHelp(usage);
      std::exit(0);
    }
    if (std::strcmp(argv[i], "--version") == 0) {
      std::printf("%s %s\n", program.c_str(), kVersion);
      std::exit(0);
    }
  }
  std::atexit(TurnParseErrorIntoTwo);
  g_parsing = true;
  const std::vector<char*> rest = absl::ParseCommandLine(argc, argv);
  g_parsing = false;
  return std::vector<std::string>(rest.begin() + 1, rest.end());
}

}  // namespace packrat
