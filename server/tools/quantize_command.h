// `packrat quantize`: a model's folder once more, with its matrices in 8 or 4 bits.
#ifndef PACKRAT_SERVER_TOOLS_QUANTIZE_COMMAND_H_
#define PACKRAT_SERVER_TOOLS_QUANTIZE_COMMAND_H_

#include <string>
#include <vector>

namespace packrat {

// The process's exit code. `args`: what follows the command.
int QuantizeCommand(const std::vector<std::string>& args);

}  // namespace packrat

#endif  // PACKRAT_SERVER_TOOLS_QUANTIZE_COMMAND_H_
