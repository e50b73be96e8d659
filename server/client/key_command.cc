#include "server/client/key_command.h"

#include <cstdio>
#include <string>

#include "absl/strings/str_cat.h"
#include "server/api_keys.h"
#include "server/standard_output.h"

namespace packrat {
namespace {

constexpr char kUsage[] =
    "usage: packrat key NAME [LIMIT=VALUE ...]\n"
    "\n"
    "Makes an API key. Prints two lines: the key, which only its owner should have, and the line\n"
    "for the server's file of keys (--api_keys), which has its SHA-256 instead.\n"
    "  NAME               who is called so in logs and metrics\n"
    "  streams            open Generate calls (default: half of --max_streams)\n"
    "  tokens_per_minute  of prompts and output (default: as many as they like)\n"
    "  queue_share        of the places in the queue, above 0 and at most 1 (default 0.5)\n"
    "  session_share      of --max_sessions and --max_session_tokens, as above (default 0.5)\n"
    "  weight             share of the turns beside others, 0.01 to 100 (default 1)\n"
    "  priority           LOW..HIGH, of requests (default -100..100)\n";

}  // namespace

int KeyCommand(const std::vector<std::string>& args) {
  if (args.size() == 1 && (args[0] == "--help" || args[0] == "-h")) {
    Print(kUsage);
    return 0;
  }
  const auto usage_error = [](absl::string_view message) {
    std::fprintf(stderr, "packrat key: %s\n%s", std::string(message).c_str(), kUsage);
    return 2;
  };
  if (args.empty()) return usage_error("whose key?");
  if (absl::Status status = CheckTenantName(args[0]); !status.ok()) {
    return usage_error(status.message());
  }
  const std::string key = MakeApiKey();
  std::string line = ApiKeyLine(args[0], key);
  for (size_t i = 1; i < args.size(); ++i) absl::StrAppend(&line, " ", args[i]);
  if (const auto entries = ParseApiKeys(line); !entries.ok()) {
    return usage_error(entries.status().message());
  }
  Print(absl::StrCat(key, "\n", line, "\n"));
  return 0;
}

}  // namespace packrat
