// Every flag of the client that describes a request, and every field of a request that has a flag.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <set>
#include <string>
#include <vector>

#include "absl/flags/reflection.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "proto/packrat/v1/inference.pb.h"
#include "server/client/command_help.h"
#include "server/client/connection.h"
#include "server/client/request_flags.h"
#include "tests/server/wire_fields.h"

namespace packrat {
namespace {

void Set(const std::string& flag, const std::string& value) {
  std::string error;
  absl::CommandLineFlag* found = absl::FindCommandLineFlag(flag);
  ASSERT_NE(found, nullptr) << flag;
  ASSERT_TRUE(found->ParseFrom(value, &error)) << flag << ": " << error;
}

// `request`: what the flag adds to a request, as text.
const struct {
  const char* flag;
  const char* value;
  const char* request;
} kRequestFlags[] = {
    {"add_bos", "false", "add_bos: false"},
    {"parse_special", "true", "parse_special: true"},
    {"skip_special_tokens", "false", "skip_special_tokens: false"},
    {"priority", "-7", "priority: -7"},
    {"num_choices", "3", "num_choices: 3"},
    {"session", "a-1_", "session: 'a-1_'"},
    {"grammar", "root ::= 'a'", R"(grammar: "root ::= 'a'")"},
    {"regex", "a+", "regex: 'a+'"},
    {"json_schema", "{}", "json_schema: '{}'"},
    {"use_cache", "false", "use_cache: false"},
    {"cache_salt", "pepper", R"(cache_salt: "pepper")"},
    {"rat_plus_dial", "64", "rat_plus_dial: '64'"},
    {"max_tokens", "9", "stop { max_tokens: 9 }"},
    {"min_tokens", "4", "stop { min_tokens: 4 }"},
    {"ignore_eos", "true", "stop { ignore_eos: true }"},
    {"stop", "one,t\\nwo", R"(stop { strings: "one" strings: "t\nwo" })"},
    {"temperature", "0.5", "sampling { temperature: 0.5 }"},
    {"top_k", "40", "sampling { top_k: 40 }"},
    {"top_p", "0.75", "sampling { top_p: 0.75 }"},
    {"min_p", "0.125", "sampling { min_p: 0.125 }"},
    {"repetition_penalty", "1.5", "sampling { repetition_penalty: 1.5 }"},
    {"presence_penalty", "0.25", "sampling { presence_penalty: 0.25 }"},
    {"frequency_penalty", "-0.25", "sampling { frequency_penalty: -0.25 }"},
    {"seed", "18446744073709551615", "sampling { seed: 18446744073709551615 }"},
    {"logprobs", "3", "sampling { num_logprobs: 3 }"},
};

TEST(ClientFlags, EachOneSetsItsOwnFieldAndNoOther) {
  const v1::GenerateRequest nothing = RequestFromFlags();
  EXPECT_EQ(nothing.SerializeAsString(),
            RequestFromText("stop {} sampling {}").SerializeAsString());
  for (const auto& row : kRequestFlags) {
    absl::FlagSaver saver;
    Set(row.flag, row.value);
    v1::GenerateRequest wanted = nothing;
    wanted.MergeFrom(RequestFromText(row.request));
    EXPECT_EQ(RequestFromFlags().DebugString(), wanted.DebugString()) << row.flag;
  }
}

// An empty text is a text, which the server takes or refuses by name; an empty number is a mistake.
TEST(ClientFlags, AnEmptyValueIsNotAFlagThatIsNotGiven) {
  for (const auto& [flag, request] : {std::pair("regex", "regex: ''"),
                                      {"grammar", "grammar: ''"},
                                      {"json_schema", "json_schema: ''"},
                                      {"cache_salt", "cache_salt: ''"}}) {
    absl::FlagSaver saver;
    v1::GenerateRequest wanted = RequestFromFlags();
    wanted.MergeFrom(RequestFromText(request));
    Set(flag, "");
    EXPECT_EQ(RequestFromFlags().DebugString(), wanted.DebugString()) << flag;
  }
  for (const char* flag : {"max_tokens", "temperature", "seed", "use_cache", "ttl", "keep_turns"}) {
    std::string error;
    EXPECT_FALSE(absl::FindCommandLineFlag(flag)->ParseFrom("", &error)) << flag;
  }
}

TEST(ClientFlags, EveryFlagOfARequestIsInTheTable) {
  // They describe the connection, the prompt, or what the client prints; tested below, in
  // client_command_test and in chat_terminal_test.
  std::set<std::string> known = {"address",       "api_key_file",
                                 "deadline",      "caller",
                                 "request_id",    "json",
                                 "stats",         "echo",
                                 "token_ids",     "user_label",
                                 "chat",          "requests",
                                 "prompt_tokens", "reply_label",
                                 "concurrency",   "live",
                                 "affinity",      "ttl",
                                 "keep_turns",    "keep_tokens",
                                 "limit",         "candidates",
                                 "output",        "input",
                                 "rate",          "max_prompt_tokens",
                                 "history",       "system"};
  for (const auto& row : kRequestFlags) known.insert(row.flag);
  int flags = 0;
  for (const auto& [name, flag] : absl::GetAllFlags()) {
    if (!absl::EndsWith(flag->Filename(), "server/client/request_flags.cc")) continue;
    ++flags;
    EXPECT_EQ(known.count(std::string(name)), 1u) << "give --" << name << " a row in this test";
  }
  EXPECT_GE(flags, 20);
}

// Of a command that takes it, or of all.
TEST(ClientFlags, EveryFlagIsInAHelp) {
  std::vector<std::string> commands = CommandsWithHelp();
  commands.emplace_back();
  std::string all;
  for (const std::string& command : commands) absl::StrAppend(&all, HelpFor(command));
  int flags = 0;
  for (const auto& [name, flag] : absl::GetAllFlags()) {
    if (!absl::StrContains(flag->Filename(), "server/client/")) continue;
    ++flags;
    EXPECT_TRUE(absl::StrContains(all, absl::StrCat("\n  --", name, " (default: "))) << name;
    // A flag that says of which commands it is, is in their help.
    const std::string before = flag->Help().substr(0, flag->Help().find(':'));
    for (const std::string& command : CommandsWithHelp()) {
      const std::vector<std::string> named = absl::StrSplit(before, ", ");
      if (std::find(named.begin(), named.end(), command) == named.end()) continue;
      EXPECT_TRUE(absl::StrContains(HelpFor(command), absl::StrCat("  --", name, " ("))) << name;
    }
  }
  EXPECT_GE(flags, 50);
}

TEST(ClientFlags, HelpIsOfTheCommandThatIsAskedFor) {
  const auto asked = [](std::vector<std::string> words) {
    std::vector<char*> argv = {nullptr};
    for (std::string& word : words) argv.push_back(word.data());
    return CommandIn(static_cast<int>(argv.size()), argv.data());
  };
  EXPECT_EQ(asked({"complete", "--help"}), "complete");
  EXPECT_EQ(asked({"--address=x:1", "--help", "sessions", "list"}), "sessions");
  EXPECT_EQ(asked({"--help"}), "");
  EXPECT_EQ(asked({"nothing", "--help", "--", "chat"}), "");
}

void AddFieldsThatAreSet(const google::protobuf::Message& message, const std::string& prefix,
                         std::set<std::string>* out) {
  std::vector<const google::protobuf::FieldDescriptor*> fields;
  message.GetReflection()->ListFields(message, &fields);
  for (const google::protobuf::FieldDescriptor* field : fields) {
    const std::string path = prefix + field->name();
    if (field->message_type() == nullptr) {
      out->insert(path);
    } else {
      AddFieldsThatAreSet(message.GetReflection()->GetMessage(message, field), path + ".", out);
    }
  }
}

TEST(ClientFlags, AFieldWithoutAFlagIsOneOnPurpose) {
  std::set<std::string> set, without;
  for (const auto& row : kRequestFlags) AddFieldsThatAreSet(RequestFromText(row.request), "", &set);
  for (const std::string& path : FieldsOfARequest()) {
    if (set.count(path) == 0) without.insert(path);
  }
  EXPECT_EQ(
      without,
      (std::set<std::string>{
          "text", "tokens.ids",  // The prompt.
          "chat.messages.role", "chat.messages.content", "chat.messages.name",
          "chat.messages.tool_calls_json", "chat.messages.tool_call_id",
          "chat.messages.reasoning_content", "chat.tools_json", "chat.add_generation_prompt",
          "chat.template_kwargs_json", "chat.answer_prefix", "sampling.logit_bias.token_id",
          "sampling.logit_bias.bias", "sampling.allowed_token_ids", "sampling.banned_token_ids",
          "stop.token_ids", "solver.cg_tolerance", "solver.cg_max_steps",
          // Refused by the server.
          "fork_from", "snapshot", "echo_prompt"}));
}

TEST(ClientFlags, TheConnectionAndTheOtherCallsHaveTheirs) {
  absl::FlagSaver saver;
  Set("address", ":77");
  Set("deadline", "1m30s");
  Set("caller", "a@b");
  Set("request_id", "r-1");
  Set("affinity", "user-1");
  const std::string key_file = testing::TempDir() + "/key";
  std::ofstream(key_file) << "pk-1 \nnot this\n";
  Set("api_key_file", key_file);
  Set("priority", "-7");
  Set("logprobs", "3");
  Set("add_bos", "false");
  Set("parse_special", "true");
  Set("skip_special_tokens", "false");
  Set("token_ids", "3, 1,2");
  ASSERT_TRUE(CheckFlags().ok()) << CheckFlags();
  const Connection::Options options = ConnectionFromFlags();
  EXPECT_EQ(options.address, "localhost:77");
  EXPECT_EQ(options.deadline, absl::Seconds(90));
  EXPECT_EQ(options.caller, "a@b");
  EXPECT_EQ(options.request_id, "r-1");
  EXPECT_EQ(options.affinity, "user-1");
  EXPECT_EQ(options.api_key, "pk-1");
  v1::TokenizeRequest tokenize;
  FillFromFlags(&tokenize);
  EXPECT_EQ(tokenize.ShortDebugString(), "add_bos: false parse_special: true");
  v1::DetokenizeRequest detokenize;
  FillFromFlags(&detokenize);
  EXPECT_EQ(detokenize.ShortDebugString(), "skip_special_tokens: false");
  const auto ids = TokenIdsFromFlags();
  ASSERT_TRUE(ids.ok());
  EXPECT_EQ(*ids, (std::vector<int32_t>{3, 1, 2}));
  const v1::ScoreRequest score = ScoreFromFlags();
  EXPECT_EQ(score.ShortDebugString(),
            "add_bos: false parse_special: true num_logprobs: 3 priority: -7");
  Set("session", "s");
  Set("use_cache", "false");
  Set("cache_salt", "pepper");
  Set("ttl", "0s");
  EXPECT_EQ(ScoreFromFlags().ShortDebugString(),
            score.ShortDebugString() + " session: \"s\" use_cache: false cache_salt: \"pepper\"");
  EXPECT_EQ(SaveFromFlags().ShortDebugString(), "session: \"s\" cache_salt: \"pepper\"");
  EXPECT_EQ(LoadFromFlags().ShortDebugString(), "cache_salt: \"pepper\" ttl_seconds: 0");
}

TEST(ClientFlags, TheKeyComesFromTheEnvironmentOrAFile) {
  absl::FlagSaver saver;
  EXPECT_EQ(ConnectionFromFlags().api_key, "");
  setenv("PACKRAT_API_KEY", "pk-2", 1);
  EXPECT_EQ(ConnectionFromFlags().api_key, "pk-2");
  setenv("PACKRAT_API_KEY", "two words", 1);
  EXPECT_TRUE(absl::StrContains(CheckFlags().message(), "PACKRAT_API_KEY holds no key"));
  const std::string key_file = testing::TempDir() + "/key";
  Set("api_key_file", key_file + ".missing");
  EXPECT_TRUE(absl::StrContains(CheckFlags().message(), "key.missing cannot be read"));
  std::ofstream(key_file) << "\n";
  Set("api_key_file", key_file);
  EXPECT_TRUE(absl::StrContains(CheckFlags().message(), "holds no key"));
  std::ofstream(key_file) << "pk-3";
  EXPECT_TRUE(CheckFlags().ok());
  EXPECT_EQ(ConnectionFromFlags().api_key, "pk-3");
  unsetenv("PACKRAT_API_KEY");
}

TEST(ClientFlags, AChatComesFromAFile) {
  EXPECT_EQ(ChatFromFlags()->messages_size(), 0);
  const std::string path = absl::StrCat(std::getenv("TEST_TMPDIR"), "/chat.json");
  const auto read = [&path](const std::string& json) {
    std::ofstream(path) << json;
    Set("chat", path);
    const auto chat = ChatFromFlags();
    Set("chat", "");
    return chat.ok() ? chat->ShortDebugString() : std::string(chat.status().message());
  };
  const std::string chat = R"(messages { role: "user" content: "a" })";
  EXPECT_EQ(read(R"( [{"role": "user", "content": "a"}])"), chat);
  EXPECT_EQ(read(R"({"messages": [{"role": "user", "content": "a"}], "tools_json": "[]"})"),
            chat + R"( tools_json: "[]")");
  EXPECT_EQ(read("[]"), absl::StrCat("--chat: ", path, " has no messages"));
  EXPECT_TRUE(absl::StrContains(read(R"([{"rule": "user"}])"), "rule"));
  Set("chat", path + ".none");
  EXPECT_EQ(ChatFromFlags().status().message(),
            absl::StrCat("--chat: cannot read ", path, ".none"));
  Set("chat", "");
}

}  // namespace
}  // namespace packrat
