// Every flag of the server arrives in its own option, and in no other.
#include <gtest/gtest.h>

#include <fstream>
#include <functional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/flags/reflection.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "server/byte_size.h"
#include "server/flags.h"

namespace packrat {
namespace {

using Options = ServerOptions;

const std::vector<std::string> kTls = {"--tls_certificate=1", "--tls_key=2", "--tls_client_ca=3"};

const struct Row {
  const char* flag;
  const char* value;  // Not the default; as `read` shows it.
  std::function<std::string(const Options&)> read;
  std::vector<std::string> with = {};  // Flags without which it is refused.
} kRows[] = {
    {"model", "some/folder", [](const Options& o) { return o.model_dir; }},
    {"model_name", "a-name", [](const Options& o) { return o.model_name; }},
    {"listen", "127.0.0.2:1", [](const Options& o) { return o.listen; }},
    {"http_listen", "127.0.0.3:2", [](const Options& o) { return o.http_listen; }},
    {"api_keys", "some/keys", [](const Options& o) { return o.api_keys; }},
    {"metrics_need_key",
     "true",
     [](const Options& o) { return o.metrics_need_key ? "true" : "false"; },
     {"--api_keys=a/file"}},
    {"http_page", "false", [](const Options& o) { return o.http_page ? "true" : "false"; }},
    {"http_cors_origin", "https://a.b", [](const Options& o) { return o.http_cors_origin; }},
    {"reflection", "false", [](const Options& o) { return o.reflection ? "true" : "false"; }},
    {"tls_certificate", "a.pem", [](const Options& o) { return o.tls_certificate; }, kTls},
    {"tls_key", "a.key", [](const Options& o) { return o.tls_key; }, kTls},
    {"tls_client_ca", "ca.pem", [](const Options& o) { return o.tls_client_ca; }, kTls},
    {"http_tls", "false", [](const Options& o) { return o.http_tls ? "true" : "false"; }},
    {"device", "cuda", [](const Options& o) { return o.device; }},
    {"deterministic", "true", [](const Options& o) { return o.deterministic ? "true" : "false"; }},
    {"overlap_kernels", "true",
     [](const Options& o) { return o.overlap_kernels ? "true" : "false"; }},
    {"state_type", "bfloat16", [](const Options& o) { return o.state_type; }},
    {"threads", "3", [](const Options& o) { return absl::StrCat(o.threads); }},
    {"cpu_target", "avx2", [](const Options& o) { return o.cpu_target; }},
    {"activations", "float32", [](const Options& o) { return o.activations; }},
    {"tool_format", "hermes", [](const Options& o) { return o.tool_format; }},
    {"weights", "int8", [](const Options& o) { return o.weights; }},
    {"output_weights", "int4", [](const Options& o) { return o.output_weights; }},
    {"rat_plus_dial", "16,256,4", [](const Options& o) { return o.rat_plus_dial; }},
    {"rat_plus_unadapted",
     "true",
     [](const Options& o) { return o.rat_plus_unadapted ? "true" : "false"; },
     {"--rat_plus_dial=4"}},
    {"max_running", "63", [](const Options& o) { return absl::StrCat(o.engine.max_running); }},
    {"max_queue", "1000", [](const Options& o) { return absl::StrCat(o.engine.max_queue); }},
    {"max_batch_tokens", "500",
     [](const Options& o) { return absl::StrCat(o.engine.max_batch_tokens); }},
    {"inter_token_time", "150ms",
     [](const Options& o) { return absl::FormatDuration(o.engine.inter_token_time); }},
    {"priority_step", "100ms",
     [](const Options& o) { return absl::FormatDuration(o.engine.priority_step); }},
    {"max_sessions", "4095",
     [](const Options& o) { return absl::StrCat(o.sessions.max_sessions); }},
    {"max_session_tokens", "6000000000",
     [](const Options& o) { return absl::StrCat(o.sessions.max_tokens); }},
    {"session_ttl", "57s", [](const Options& o) { return absl::FormatDuration(o.sessions.ttl); }},
    {"session_store", "redis://some", [](const Options& o) { return o.session_store; }},
    {"session_store_password_file",
     "a.password",
     [](const Options& o) { return o.session_store_password_file; },
     {"--session_store=redis://other"}},
    {"max_context", "400", [](const Options& o) { return absl::StrCat(o.engine.max_context); }},
    {"state_bytes", "8000000000",
     [](const Options& o) { return absl::StrCat(o.engine.state_bytes); }},
    {"prefix_cache", "false",
     [](const Options& o) { return o.engine.prefix_cache ? "true" : "false"; }},
    {"cache_sequences", "12",
     [](const Options& o) { return absl::StrCat(o.engine.cache_sequences); }},
    {"park_memory", "7000000000",
     [](const Options& o) { return absl::StrCat(o.engine.park_memory); }},
    {"state_host_memory", "7000000000",
     [](const Options& o) { return absl::StrCat(o.engine.state_host_memory); }},
    {"state_dir", "/some/states", [](const Options& o) { return o.engine.state_dir; }},
    {"state_disk", "6000000000",
     [](const Options& o) { return absl::StrCat(o.engine.state_disk); }},
    {"memory_limit", "9000000000", [](const Options& o) { return absl::StrCat(o.memory_limit); }},
    {"plan", "json", [](const Options& o) { return o.plan; }},
    {"cg_tolerance", "0.001", [](const Options& o) { return absl::StrCat(o.solver.cg_tolerance); }},
    {"cg_max_steps", "65", [](const Options& o) { return absl::StrCat(o.solver.cg_max_steps); }},
    {"drain_delay", "28s", [](const Options& o) { return absl::FormatDuration(o.drain_delay); }},
    {"stall_timeout", "27s",
     [](const Options& o) { return absl::FormatDuration(o.stall_timeout); }},
    {"drain_grace", "29s", [](const Options& o) { return absl::FormatDuration(o.drain_grace); }},
    {"stream_idle_timeout", "59s",
     [](const Options& o) { return absl::FormatDuration(o.stream_idle_timeout); }},
    {"max_message_bytes", "5000000",
     [](const Options& o) { return absl::StrCat(o.max_message_bytes); }},
    {"max_streams", "4095", [](const Options& o) { return absl::StrCat(o.max_streams); }},
    {"max_connections", "100", [](const Options& o) { return absl::StrCat(o.max_connections); }},
    {"max_connection_age", "4m",
     [](const Options& o) { return absl::FormatDuration(o.max_connection_age); }},
    {"max_connection_age_grace", "3m",
     [](const Options& o) { return absl::FormatDuration(o.max_connection_age_grace); }},
    {"message_timeout", "58s",
     [](const Options& o) { return absl::FormatDuration(o.message_timeout); }},
    {"max_connection_streams", "1000",
     [](const Options& o) { return absl::StrCat(o.max_connection_streams); }},
    {"max_text_queue", "255", [](const Options& o) { return absl::StrCat(o.max_text_queue); }},
    {"metrics_by_caller", "7", [](const Options& o) { return absl::StrCat(o.metrics_by_caller); }},
    {"log_format", "json", [](const Options& o) { return o.log_format; }},
};

// As from a command line; the flags are as before afterwards.
Options Parse(std::vector<std::string> arguments) {
  absl::FlagSaver saver;
  arguments.insert(arguments.begin(), {"packrat_server", "--model=default/model"});
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  return OptionsFromCommandLine(static_cast<int>(arguments.size()), argv.data(), "packrat_server",
                                "");
}

TEST(ServerFlags, EachOneArrivesInItsOptionAndInNoOther) {
  for (const Row& set : kRows) {
    // The last value of a flag is the one that counts.
    std::vector<std::string> arguments = set.with;
    const Options defaults = Parse(arguments);
    arguments.push_back(absl::StrCat("--", set.flag, "=", set.value));
    const Options options = Parse(arguments);
    EXPECT_EQ(set.read(options), set.value) << set.flag;
    EXPECT_NE(set.read(defaults), set.value)
        << set.flag << ": choose another value than the default";
    for (const Row& other : kRows) {
      if (&other == &set) continue;
      // A model without a name is called after its folder.
      const bool named =
          std::string(set.flag) == "model" && std::string(other.flag) == "model_name";
      EXPECT_EQ(other.read(options), named ? "folder" : other.read(defaults))
          << set.flag << " changes " << other.flag;
    }
  }
}

TEST(ServerFlags, TogetherTooAndEveryoneIsInTheTable) {
  std::vector<std::string> all;
  std::set<std::string> known;
  for (const Row& row : kRows) {
    all.push_back(absl::StrCat("--", row.flag, "=", row.value));
    known.insert(row.flag);
  }
  const Options options = Parse(all);
  for (const Row& row : kRows) EXPECT_EQ(row.read(options), row.value) << row.flag;
  for (const auto& [name, flag] : absl::GetAllFlags()) {
    if (!absl::EndsWith(flag->Filename(), "server/flags.cc")) continue;
    EXPECT_EQ(known.erase(std::string(name)), 1u)
        << "give --" << name << " a row in this test: is it read at all?";
  }
  EXPECT_TRUE(known.empty()) << "no such flag: " << *known.begin();
}

TEST(ServerFlags, ADurationWithoutAUnitIsAMistakeThatIsExplained) {
  EXPECT_EXIT(Parse({"--drain_grace=30"}), testing::ExitedWithCode(2),
              "packrat_server: --drain_grace is \"30\"; a duration has a unit, e.g. 300ms, 5s");
}

TEST(ServerFlags, FilesOfFlagsAreCheckedAsTheCommandLineIs) {
  const std::string path = testing::TempDir() + "server_flags";
  const auto write = [&](const std::string& lines) { std::ofstream(path) << lines; };
  const auto read = [&] { return Parse({"--flagfile=" + path}); };
  write("# What a service has.\n  --model=folder  \n--drain_grace=7s\n");
  EXPECT_EQ(read().drain_grace, absl::Seconds(7));
  write("--model=folder\n--drain_grace=7\n");
  EXPECT_EXIT(read(), testing::ExitedWithCode(2), "--drain_grace is \"7\"; a duration has a unit");
  write("--model=folder\n--flagfile=" + path + "\n");
  EXPECT_EXIT(read(), testing::ExitedWithCode(2), "files that include each other");
  EXPECT_EXIT(Parse({"--flagfile=" + testing::TempDir()}), testing::ExitedWithCode(2),
              "is a folder");
}

TEST(ServerFlags, BytesMayHaveAUnit) {
  const std::pair<const char*, int64_t> sizes[] = {
      {"2048", 2048},
      {"3KiB", int64_t{3} << 10},
      {"512MiB", int64_t{512} << 20},
      {"512Mi", int64_t{512} << 20},
      {"7Gi", int64_t{7} << 30},
      {"1TiB", int64_t{1} << 40},
  };
  for (const auto& [text, bytes] : sizes) {
    const Options options =
        Parse({absl::StrCat("--state_bytes=", text), absl::StrCat("--memory_limit=", text)});
    EXPECT_EQ(options.engine.state_bytes, bytes) << text;
    EXPECT_EQ(options.memory_limit, bytes) << text;
  }
  EXPECT_EQ(Parse({"--park_memory=auto"}).engine.park_memory, EngineOptions::kAutoParkMemory);
  EXPECT_EQ(Parse({"--park_memory=0"}).engine.park_memory, 0);
  EXPECT_EQ(Parse({"--park_memory=3KiB"}).engine.park_memory, 3 << 10);
  EXPECT_EQ(Parse({}).engine.cache_sequences, EngineOptions::kAutoCacheSequences);
  EXPECT_EQ(Parse({"--cache_sequences=0"}).engine.cache_sequences, 0);
  for (const char* text : {"-1", "x", "", "1.5"}) {
    AutoCount count;
    std::string error;
    EXPECT_FALSE(AbslParseFlag(text, &count, &error)) << text;
  }
  AutoByteSize none;
  std::string why;
  EXPECT_FALSE(AbslParseFlag("-1", &none, &why));
  EXPECT_EQ(AbslUnparseFlag(AutoByteSize()), "auto");
  for (const std::string text :
       {"", "x", "1.5GiB", "512M", "512MB", "MiB", "9999999999TiB", "1 GiB x"}) {
    ByteSize size;
    std::string error;
    EXPECT_FALSE(AbslParseFlag(text, &size, &error)) << text;
    EXPECT_NE(error.find("e.g. 536870912, 512MiB"), std::string::npos) << error;
  }
}

}  // namespace
}  // namespace packrat
