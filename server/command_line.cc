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
#include "absl/strings/strip.h"
#include "absl/time/time.h"
#include "server/standard_output.h"
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

std::string Wrapped(const std::string& text) {
  std::string all, line;
  for (absl::string_view word : absl::StrSplit(text, ' ')) {
    if (line.size() + word.size() > 90) {
      absl::StrAppend(&all, "      ", line, "\n");
      line.clear();
    }
    absl::StrAppend(&line, line.empty() ? "" : " ", word);
  }
  return absl::StrCat(all, "      ", line, "\n");
}

std::string Help(const std::string& usage) {
  std::string help = absl::StrCat(usage, "\n\nFlags:\n");
  std::map<std::string, absl::CommandLineFlag*> ours;
  for (const auto& [name, flag] : absl::GetAllFlags()) {
    if (absl::StartsWith(flag->Filename(), "server/")) ours.emplace(std::string(name), flag);
  }
  for (const auto& [name, flag] : ours) {
    const std::string value = flag->DefaultValue();
    absl::StrAppend(&help, "  --", name, " (default: ", value.empty() ? "none" : value, ")\n",
                    Wrapped(flag->Help()));
  }
  return help;
}

// Abseil says of a duration without a unit only that it is illegal. Everything else is left to it.
void CheckDurations(int argc, char** argv, const std::string& program) {
  for (int i = 1; i < argc && std::strcmp(argv[i], "--") != 0; ++i) {
    absl::string_view argument = argv[i];
    if (!absl::ConsumePrefix(&argument, "-")) continue;
    absl::ConsumePrefix(&argument, "-");
    const size_t equals = argument.find('=');
    const absl::CommandLineFlag* flag = absl::FindCommandLineFlag(argument.substr(0, equals));
    if (flag == nullptr || !flag->IsOfType<absl::Duration>()) continue;
    if (equals == absl::string_view::npos && i + 1 == argc) continue;
    const std::string value(equals == absl::string_view::npos ? argv[++i]
                                                              : argument.substr(equals + 1));
    absl::Duration duration;
    if (absl::ParseDuration(value, &duration)) continue;
    std::fprintf(stderr, "%s: --%s is \"%s\"; a duration has a unit, e.g. 300ms, 5s, 1m or 1h30m\n",
                 program.c_str(), std::string(flag->Name()).c_str(), value.c_str());
    std::exit(2);
  }
}

}  // namespace

std::vector<std::string> ParseCommandLine(int argc, char** argv, const std::string& program,
                                          const std::string& usage) {
  for (int i = 1; i < argc && std::strcmp(argv[i], "--") != 0; ++i) {
    if (std::strcmp(argv[i], "--help") == 0 || std::strcmp(argv[i], "-h") == 0) {
      Print(Help(usage));
      std::exit(0);
    }
    if (std::strcmp(argv[i], "--version") == 0) {
      Print(absl::StrCat(program, " ", kVersion, "\n"));
      std::exit(0);
    }
  }
  CheckDurations(argc, argv, program);
  std::atexit(TurnParseErrorIntoTwo);
  g_parsing = true;
  const std::vector<char*> rest = absl::ParseCommandLine(argc, argv);
  g_parsing = false;
  return std::vector<std::string>(rest.begin() + 1, rest.end());
}

}  // namespace packrat
