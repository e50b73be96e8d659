#include "server/tools/quantize_command.h"

#include "models/tools/quantize.h"
#include "server/tools/local_flags.h"

namespace packrat {
namespace {

constexpr char kUsage[] =
    "usage: packrat quantize --model DIR --output DIR --weights int8|int4\n"
    "                        [--output_weights auto|stored|int8|int4]\n"
    "\n"
    "Writes the model's folder once more with the layers' matrices quantised, in groups of 32\n"
    "inputs: int8 takes 8.5 bits a weight, int4 5 bits. Loading it takes no time for that,\n"
    "but for an output matrix that is the embedding.\n"
    "  --output          a folder that is made; if it is there, it must be empty\n"
    "  --output_weights  format of the output matrix (default auto: int8). One that is tied to\n"
    "                    the embedding stays as it is stored\n";

}  // namespace

int QuantizeCommand(const std::vector<std::string>& args) {
  QuantizeOptions options;
  LocalFlags flags("packrat quantize", kUsage);
  flags.Text("model", &options.model, /*required=*/true);
  flags.Text("output", &options.output, /*required=*/true);
  flags.Text("weights", &options.weights, /*required=*/true);
  flags.Text("output_weights", &options.output_weights);
  if (const auto done = flags.Parse(args)) return *done;
  options.progress = flags.Progress();
  const absl::Status status = QuantizeModel(options);
  return status.ok() ? 0 : flags.Failed(status);
}

}  // namespace packrat
