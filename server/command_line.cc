#include "server/command_line.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include "absl/flags/parse.h"
#include "absl/flags/reflection.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "absl/time/time.h"
#include "kernels/check.h"
#include "server/standard_output.h"
#include "server/version.h"

namespace packrat {
namespace {

bool g_parsing = false;

// Abseil exits with 1 on a wrong flag. Our commands exit with 2 for a mistake in the command, and
// with 1 if the work fails.
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

std::string FlagHelp(const absl::CommandLineFlag& flag) {
  const std::string value = flag.DefaultValue();
  return absl::StrCat("  --", flag.Name(), " (default: ", value.empty() ? "none" : value, ")\n",
                      Wrapped(flag.Help()));
}

[[noreturn]] void Refuse(const std::string& program, const std::string& message) {
  std::fprintf(stderr, "%s: %s\n", program.c_str(), message.c_str());
  std::exit(2);
}

void CheckDuration(const std::string& program, absl::string_view name, const std::string& value) {
  absl::Duration duration;
  if (absl::ParseDuration(value, &duration)) return;
  Refuse(program, absl::StrCat("--", name, " is \"", value,
                               "\"; a duration has a unit, e.g. 300ms, 5s, 1m or 1h30m"));
}

using Arguments = std::vector<std::string>;

void CheckArguments(const std::string& program, const Arguments& arguments, int depth);

void CheckFlagFile(const std::string& program, const std::string& path, int depth) {
  constexpr int kDeepest = 16;
  struct stat file = {};
  if (stat(path.c_str(), &file) != 0) return;  // Abseil will report it.
  if (S_ISDIR(file.st_mode)) Refuse(program, absl::StrCat("--flagfile: ", path, " is a folder"));
  if (!S_ISREG(file.st_mode)) return;  // A pipe, for example, can be read only once.
  if (depth == kDeepest) {
    Refuse(program, absl::StrCat("--flagfile: ", path, " is the last of ", kDeepest,
                                 " files that include each other"));
  }
  std::ifstream lines(path);
  Arguments arguments;
  for (std::string line; std::getline(lines, line);) {
    arguments.emplace_back(absl::StripAsciiWhitespace(line));
  }
  CheckArguments(program, arguments, depth + 1);
}

// Checks what Abseil does not handle well: it calls a duration without a unit just illegal, takes a
// folder for an empty file of flags, and never stops reading files that include each other.
void CheckArguments(const std::string& program, const Arguments& arguments, int depth) {
  for (size_t i = 0; i < arguments.size() && arguments[i] != "--"; ++i) {
    absl::string_view argument = arguments[i];
    if (!absl::ConsumePrefix(&argument, "-")) continue;
    absl::ConsumePrefix(&argument, "-");
    const size_t equals = argument.find('=');
    const absl::string_view name = argument.substr(0, equals);
    const absl::CommandLineFlag* flag = absl::FindCommandLineFlag(name);
    const bool is_file = name == "flagfile";
    if (flag == nullptr || (!is_file && !flag->IsOfType<absl::Duration>())) continue;
    if (equals == absl::string_view::npos && i + 1 == arguments.size()) continue;
    const std::string value(equals == absl::string_view::npos ? arguments[++i]
                                                              : argument.substr(equals + 1));
    if (!is_file) {
      CheckDuration(program, name, value);
      continue;
    }
    for (const std::string& path : Arguments(absl::StrSplit(value, ','))) {
      CheckFlagFile(program, path, depth);
    }
  }
}

}  // namespace

std::vector<std::string> ParseCommandLine(int argc, char** argv, const std::string& program,
                                          const std::function<std::string()>& help) {
  for (int i = 1; i < argc && std::strcmp(argv[i], "--") != 0; ++i) {
    if (std::strcmp(argv[i], "--help") == 0 || std::strcmp(argv[i], "-h") == 0) {
      Print(help());
      std::exit(0);
    }
    if (std::strcmp(argv[i], "--version") == 0) {
      Print(absl::StrCat(program, " ", kVersion, "\n"));
      std::exit(0);
    }
  }
  CheckArguments(program, Arguments(argv + 1, argv + argc), /*depth=*/0);
  std::atexit(TurnParseErrorIntoTwo);
  g_parsing = true;
  const std::vector<char*> rest = absl::ParseCommandLine(argc, argv);
  g_parsing = false;
  return std::vector<std::string>(rest.begin() + 1, rest.end());
}

std::string FlagsHelp() {
  std::vector<std::string> ours;
  for (const auto& [name, flag] : absl::GetAllFlags()) {
    if (absl::StartsWith(flag->Filename(), "server/")) ours.emplace_back(name);
  }
  std::sort(ours.begin(), ours.end());
  return FlagsHelp(ours);
}

std::string FlagsHelp(const std::vector<std::string>& names) {
  std::string help;
  for (const std::string& name : names) {
    const absl::CommandLineFlag* const flag = absl::FindCommandLineFlag(name);
    PACKRAT_CHECK(flag != nullptr) << name;
    absl::StrAppend(&help, FlagHelp(*flag));
  }
  return help;
}

}  // namespace packrat
