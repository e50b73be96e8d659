// packrat: the command-line client.
#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "server/client/chat.h"
#include "server/client/command_help.h"
#include "server/client/commands.h"
#include "server/client/connection.h"
#include "server/client/key_command.h"
#include "server/client/local_server.h"
#include "server/client/request_flags.h"
#include "server/client/signals.h"
#include "server/client/tools_program.h"
#include "server/command_line.h"
#include "server/standard_output.h"

namespace packrat {
namespace {

int Chat(const std::vector<std::string>& arguments, Signals* signals) {
  // Outlives the thread that waits for signals.
  static Connection* const connection = new Connection(ConnectionFromFlags());
  signals->SetConnection(connection);
  return ChatCommand(connection, signals, arguments);
}

// packrat run MODEL [-- FLAGS OF THE SERVER]
int ServeAndChat(const std::vector<std::string>& arguments, Signals* signals) {
  if (arguments.empty()) return UsageError("run takes a model's folder");
  for (size_t i = 1; i < arguments.size(); ++i) {
    const absl::string_view flag = absl::StripPrefix(arguments[i], "-");
    if (flag == "-listen" || absl::StartsWith(flag, "-listen=") || flag == "listen" ||
        absl::StartsWith(flag, "listen=")) {
      return UsageError("run talks to its server at a socket of its own; --listen is of no use");
    }
    if (!absl::StartsWith(arguments[i], "-")) {
      return UsageError(
          absl::StrCat("run takes one folder; \"", arguments[i], "\" is no flag of the server"));
    }
  }
  int exit_code = kExitOk;
  const auto server = LocalServer::Start(arguments[0], {arguments.begin() + 1, arguments.end()},
                                         signals, &exit_code);
  if (server == nullptr) return exit_code;
  absl::SetFlag(&FLAGS_address, server->address());
  return Chat({}, signals);
}

bool HasFlag(char** begin, char** end, absl::string_view name) {
  return std::any_of(begin, end, [name](absl::string_view word) {
    return word == name || absl::StartsWith(word, absl::StrCat(name, "="));
  });
}

int Run(int argc, char** argv) {
  char help[] = "--help";
  if (argc == 3 && std::strcmp(argv[1], "help") == 0) {
    argv[1] = argv[2];
    argv[2] = help;
  }
  // These need no server and have flags of their own.
  const std::string first = argc > 1 ? argv[1] : "";
  for (const char* tool : {"logits", "perplexity", "plan", "quantize", "convert"}) {
    if (first == tool) return BecomeTools(argv);
  }
  if (first == "info" && HasFlag(argv + 2, argv + argc, "--model")) return BecomeTools(argv);
  if (first == "key") return KeyCommand(std::vector<std::string>(argv + 2, argv + argc));
  if (argc == 2 && first == "help") argv[1] = help;
  std::vector<std::string> arguments =
      ParseCommandLine(argc, argv, "packrat", [&] { return HelpFor(CommandIn(argc, argv)); });
  if (arguments.empty()) return UsageError("which command? complete, chat, info, ...");
  const std::string command = arguments[0];
  arguments.erase(arguments.begin());

  using Command = int (*)(Connection*, const std::vector<std::string>&);
  const std::pair<const char*, Command> commands[] = {
      {"complete", CompleteCommand},
      {"score", ScoreCommand},
      {"sessions", SessionsCommand},
      {"save", SaveCommand},
      {"load", LoadCommand},
      {"tokenize", TokenizeCommand},
      {"detokenize", DetokenizeCommand},
      {"info", InfoCommand},
      {"bench", BenchCommand},
      {"health", HealthCommand},
  };
  const absl::Status status = CheckFlags();
  if (!status.ok()) return UsageError(std::string(status.message()));
  // This comes before gRPC makes its threads.
  static Signals* const signals = new Signals;
  if (command == "chat") return Chat(arguments, signals);
  if (command == "run") return ServeAndChat(arguments, signals);
  for (const auto& [name, run] : commands) {
    if (command != name) continue;
    static Connection* const connection = new Connection(ConnectionFromFlags());
    signals->SetConnection(connection);
    return run(connection, arguments);
  }
  return UsageError(absl::StrCat("there is no command \"", command, "\""));
}

}  // namespace
}  // namespace packrat

int main(int argc, char** argv) {
  packrat::FillStandardDescriptors();
  return packrat::Run(argc, argv);
}
