#include "server/tools/perplexity_command.h"

#include <string>

#include "absl/strings/str_format.h"
#include "models/tools/perplexity.h"
#include "server/standard_output.h"
#include "server/tools/local_flags.h"

namespace packrat {
namespace {

constexpr char kUsage[] =
    "usage: packrat perplexity --model DIR --file TEXT\n"
    "                          [--length N] [--bos true|false] [--piece N] [--cg_tolerance X]\n"
    "                          [--cg_max_steps N] [--threads N] [--cpu_target "
    "auto|sse4|avx2|avx512|amx]\n"
    "                          [--activations auto|float32|bfloat16] [--weights stored|int8|int4]\n"
    "                          [--output_weights auto|stored|int8|int4]\n"
    "\n"
    "Bits per byte and perplexity (per token) of the documents of TEXT, which is UTF-8; a line\n"
    "<|endoftext|> ends a document. Each is scored on its own, spaces at the ends of lines\n"
    "apart; short ones have less than 4,000 characters.\n"
    "  --length        tokens scored at a time; what a document has more begins anew (default\n"
    "                  4095, or the model's context where that is shorter)\n"
    "  --bos           whether each stretch begins with the BOS token; without it, its first "
    "token\n"
    "                  is not scored (default: as the server would put it before a text)\n"
    "  --piece         tokens fed at a time, 1 to 65536 (default 256)\n"
    "  --cg_tolerance  relative residual of the Mesa solves, 1e-7 to 0.1 (default 1e-4)\n"
    "  --cg_max_steps  limit of steps of a solve, 1 to 1024 (default 64)\n"
    "  --threads       0 to 1024; 0: one per CPU that it may use (default 0)\n"
    "  --activations   what products multiply in; a server's default is auto, which is bfloat16\n"
    "                  where weights are stored so and it is quicker here (default float32)\n"
    "  --weights, --output_weights\n"
    "                  formats of the layers' matrices and of the output matrix, quantised while\n"
    "                  they are read (default stored; auto: int8 where --weights quantises)\n";

void PrintScore(const char* name, const TextScore& score) {
  if (score.documents == 0) return;
  Print(
      absl::StrFormat("%s: %d documents, %d bytes, %d tokens, %.4f bits per byte, "
                      "%.4f nats per token, perplexity %.4f\n",
                      name, score.documents, score.bytes, score.tokens, score.bits_per_byte(),
                      score.nats_per_token(), score.perplexity()));
}

}  // namespace

int PerplexityCommand(const std::vector<std::string>& args) {
  PerplexityOptions options;
  LocalFlags flags("packrat perplexity", kUsage);
  flags.Feed(&options);
  flags.Text("file", &options.file, /*required=*/true);
  flags.Integer("length", &options.length);
  flags.Text("bos", &options.bos);
  if (const auto done = flags.Parse(args)) return *done;
  absl::Status status = CheckOptions(options);
  if (!status.ok()) return flags.UsageError(std::string(status.message()));
  const auto scores = MeasurePerplexity(options);
  if (!scores.ok()) return flags.Failed(scores.status());
  PrintScore("short", scores->short_ones);
  PrintScore("long", scores->long_ones);
  PrintScore("all", scores->all());
  return 0;
}

}  // namespace packrat
