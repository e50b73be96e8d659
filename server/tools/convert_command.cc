#include "server/tools/convert_command.h"

#include "absl/strings/str_cat.h"
#include "models/tools/convert_gguf.h"
#include "server/tools/local_flags.h"

namespace packrat {
namespace {

std::string Usage() {
  return absl::StrCat(
      "usage: packrat convert --gguf FILE --output DIR\n"
      "\n"
      "Turns a GGUF file into a folder that all commands load. Architectures:\n"
      "  ",
      GgufFamilyNames(),
      ".\n"
      "F32, F16, BF16, Q8_0, Q4_0 and Q4_1 lose nothing; of Q4_K the scales are rounded to\n"
      "float16, Q6_K is quantised once more, in int8.\n"
      "  --output  a folder that is made; if it is there, it must be empty\n");
}

}  // namespace

int ConvertCommand(const std::vector<std::string>& args) {
  ConvertOptions options;
  const std::string usage = Usage();
  LocalFlags flags("packrat convert", usage.c_str());
  flags.Text("gguf", &options.gguf, /*required=*/true);
  flags.Text("output", &options.output, /*required=*/true);
  if (const auto done = flags.Parse(args)) return *done;
  options.progress = flags.Progress();
  const absl::Status status = ConvertGguf(options);
  return status.ok() ? 0 : flags.Failed(status);
}

}  // namespace packrat
