#include "server/client/command_help.h"

#include <algorithm>
#include <cstring>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "server/command_line.h"

namespace packrat {
namespace {

constexpr char kCommands[] =
    "packrat: client of a Packrat server\n\n"
    "  packrat complete [TEXT]     continue TEXT (or standard input), streamed as it comes\n"
    "  packrat chat                turn by turn, at a terminal or from standard input\n"
    "  packrat run MODEL           serve the model in this folder and chat with it; flags of the\n"
    "                              server stand at the end, after --\n"
    "  packrat score TEXT [CANDIDATE...]\n"
    "                              log-probabilities of what may follow TEXT, or of TEXT itself\n"
    "  packrat sessions WHAT       texts that the server keeps: create, list; with a HANDLE show,\n"
    "                              fork, rewind, delete (complete, chat, score take --session)\n"
    "  packrat save --session=HANDLE --output=FILE\n"
    "                              a session with its state as a file\n"
    "  packrat load --input=FILE   makes a session of it, at this server or another one of the "
    "same\n"
    "                              model, and prints its handle\n"
    "  packrat tokenize [TEXT]     ids and pieces of TEXT\n"
    "  packrat detokenize          text of --token_ids\n"
    "  packrat info                what the server serves; with --model DIR what a folder holds,\n"
    "                              without a server\n"
    "  packrat bench               many calls at once, and what they took\n"
    "  packrat health              whether the server takes requests: exit code 0 if so\n"
    "  packrat logits              logits of a model on this machine, without a server\n"
    "  packrat perplexity          how well a model predicts a text, without a server\n"
    "  packrat plan                how many sequences, states and sessions fit into a memory\n"
    "  packrat quantize            a model's folder once more, in 8 or 4 bits a weight\n"
    "  packrat convert             a GGUF file as a model's folder\n"
    "  packrat key NAME            a new API key, and its line for the server's file of keys\n"
    "  packrat help [COMMAND]\n\n"
    "packrat COMMAND --help tells what a command does, its flags, and examples.\n\n"
    "Put -- before a text that begins with a dash. Ctrl-C cancels the call; in a chat at a "
    "terminal\n"
    "it stops the answer. Exit codes: 0 done, 1 the server refused or the call failed, 2 a "
    "mistake\n"
    "in the command, 3 no server answers, 4 --deadline has passed, 130 interrupted.";

// Names of flags, in the order in which they are told.
constexpr char kOfAll[] =
    "address deadline api_key_file tls tls_ca tls_certificate tls_key tls_server_name affinity "
    "caller request_id";
#define PACKRAT_GENERATION                                                                   \
  "max_tokens min_tokens ignore_eos stop temperature top_k top_p min_p repetition_penalty "  \
  "presence_penalty frequency_penalty seed grammar regex json_schema add_bos parse_special " \
  "skip_special_tokens use_cache cache_salt rat_plus_dial priority"

struct Page {
  const char *name, *arguments, *what, *flags, *examples;
};
constexpr Page kPages[] = {
    {"complete", "[TEXT]",
     "Continues TEXT, or standard input where there is none, and streams what comes. In place of\n"
     "a text it takes a conversation (--chat) or ids (--token_ids).",
     "session ttl chat token_ids num_choices logprobs echo stats json " PACKRAT_GENERATION,
     "  packrat complete --max_tokens=40 \"Once upon a time\"\n"
     "  echo \"Once upon a time\" | packrat complete --temperature=0 --session=new\n"},
    {"chat", "",
     "Asks turn by turn: at a terminal, where /help tells more, or a line of standard input each.",
     "session ttl system user_label reply_label history stats " PACKRAT_GENERATION,
     "  packrat chat --session=new\n"
     "  echo \"Hello\" | packrat chat --max_tokens=40\n"},
    {"run", "MODEL [FLAGS] [-- FLAGS OF THE SERVER]",
     "Serves the model in the folder MODEL for as long as you chat with it.",
     "session ttl system user_label reply_label history stats " PACKRAT_GENERATION,
     "  packrat run models/demo --max_tokens=100 -- --threads=2\n"},
    {"score", "TEXT [CANDIDATE...]",
     "Tells how likely each CANDIDATE is after TEXT; without candidates, how likely the tokens of\n"
     "TEXT are. After a session, a conversation or ids, all arguments are candidates.",
     "candidates session chat token_ids logprobs json add_bos parse_special use_cache cache_salt "
     "rat_plus_dial priority",
     "  packrat score \"The little dog\" \" barked.\" \" flew to the moon.\"\n"
     "  packrat score --logprobs=3 \"The little dog barked.\"\n"},
    {"sessions", "create | list | show HANDLE | fork HANDLE | rewind HANDLE | delete HANDLE",
     "Texts that the server keeps between calls. create and fork print the handle of a new one.",
     "ttl keep_turns keep_tokens limit json",
     "  H=$(packrat sessions create --ttl=30m)\n"
     "  packrat complete --session=$H --max_tokens=20 \"Once upon a time\"\n"
     "  packrat sessions show $H\n"
     "  packrat sessions rewind $H --keep_turns=0\n"},
    {"save", "--session=HANDLE --output=FILE",
     "Writes a session, with its state where that is kept, as a file that is yours alone.",
     "session output cache_salt json",
     "  H=$(packrat sessions create)\n"
     "  packrat complete --session=$H --max_tokens=20 \"Once upon a time\"\n"
     "  packrat save --session=$H --output=story.session\n"},
    {"load", "--input=FILE",
     "Makes a new session of a file that save has written, at this server or another one of the\n"
     "same model, and prints its handle.",
     "input ttl cache_salt json", "  packrat load --input=story.session --ttl=30m\n"},
    {"tokenize", "[TEXT]",
     "Prints ids and pieces of TEXT, or of standard input where there is none.",
     "chat add_bos parse_special json", "  packrat tokenize \"Once upon a time\"\n"},
    {"detokenize", "--token_ids=IDS", "Prints the text of ids.",
     "token_ids skip_special_tokens json", "  packrat detokenize --token_ids=5,6,7\n"},
    {"info", "[--model DIR]",
     "Prints what the server serves, and its limits. With --model DIR: what a folder holds, and\n"
     "whether it would be served, without a server (packrat info --model DIR --help).",
     "json", "  packrat info\n"},
    {"bench", "",
     "Makes many calls at once with prompts of random tokens, and prints what they took.",
     "requests concurrency rate prompt_tokens max_prompt_tokens json " PACKRAT_GENERATION,
     "  packrat bench --requests=20 --concurrency=4 --prompt_tokens=32 --max_tokens=16\n"},
    {"health", "", "Ends with 0 where the server takes requests, with 1 where it loads or drains.",
     "live json", "  packrat health && echo \"It takes requests.\"\n"},
};
#undef PACKRAT_GENERATION

std::vector<std::string> Names(const char* flags) { return absl::StrSplit(flags, ' '); }

}  // namespace

std::vector<std::string> CommandsWithHelp() {
  std::vector<std::string> names;
  for (const Page& page : kPages) names.emplace_back(page.name);
  return names;
}

std::string CommandIn(int argc, char** argv) {
  for (int i = 1; i < argc && std::strcmp(argv[i], "--") != 0; ++i) {
    for (const Page& page : kPages) {
      if (std::strcmp(argv[i], page.name) == 0) return page.name;
    }
  }
  return "";
}

std::string HelpFor(const std::string& command) {
  const auto* const page = std::find_if(std::begin(kPages), std::end(kPages),
                                        [&](const Page& p) { return p.name == command; });
  if (page == std::end(kPages)) {
    return absl::StrCat(kCommands, "\n\nFlags of all that talk to a server:\n",
                        FlagsHelp(Names(kOfAll)));
  }
  return absl::StrCat("usage: packrat ", page->name, " ", page->arguments,
                      *page->arguments == '\0' ? "" : " ", "[FLAGS]\n\n", page->what,
                      "\n\nExamples:\n", page->examples, "\nFlags:\n",
                      FlagsHelp(Names(page->flags)),
                      "\nand those of all commands, such as --address (packrat --help)\n");
}

}  // namespace packrat
