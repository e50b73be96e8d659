#include "server/tools/logits_command.h"

#include "models/tools/logits.h"
#include "server/tools/local_flags.h"

namespace packrat {
namespace {

constexpr char kUsage[] =
    "usage: packrat logits --model DIR --tokens IN.safetensors --output OUT.safetensors\n"
    "                      [--layers OUT.safetensors] [--piece N] [--cg_tolerance X]\n"
    "                      [--cg_max_steps N] [--threads N] [--cpu_target "
    "auto|sse4|avx2|avx512|amx]\n"
    "                      [--activations auto|float32|bfloat16] [--weights stored|int8|int4]\n"
    "                      [--output_weights auto|stored|int8|int4]\n"
    "\n"
    "Reads input_ids [B, T] int32 and writes logits [B, T, vocab] float32.\n"
    "  --layers        also write the residual stream [B, T, width] float32: embeddings, and of\n"
    "                  each layer i layers.{i}.mixer (after its mixer) and layers.{i} (after its\n"
    "                  feed-forward)\n"
    "  --piece         tokens fed at a time, 1 to 65536; 1 is pure decoding (default 256)\n"
    "  --cg_tolerance  relative residual of the Mesa solves, 1e-7 to 0.1 (default 1e-4)\n"
    "  --cg_max_steps  limit of steps of a solve, 1 to 1024 (default 64)\n"
    "  --threads       0 to 1024; 0: one per CPU that it may use (default 0)\n"
    "  --activations   what products multiply in; a server's default is auto, which is bfloat16\n"
    "                  where weights are stored so and it is quicker here (default float32)\n"
    "  --weights, --output_weights\n"
    "                  formats of the layers' matrices and of the output matrix, quantised while\n"
    "                  they are read (default stored; auto: int8 where --weights quantises)\n"
    "The bytes written do not depend on --piece or --threads.\n";

}  // namespace

int LogitsCommand(const std::vector<std::string>& args) {
  LogitsOptions options;
  LocalFlags flags("packrat logits", kUsage);
  flags.Feed(&options);
  flags.Text("tokens", &options.tokens, /*required=*/true);
  flags.Text("output", &options.output, /*required=*/true);
  flags.Text("layers", &options.layers);
  if (const auto done = flags.Parse(args)) return *done;
  absl::Status status = CheckOptions(options);
  if (!status.ok()) return flags.UsageError(std::string(status.message()));
  status = WriteLogits(options);
  return status.ok() ? 0 : flags.Failed(status);
}

}  // namespace packrat
