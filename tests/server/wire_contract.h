// The wire contract as lines of text, one for each thing that a client may rely on, and what of it
// has gone.
#ifndef PACKRAT_TESTS_SERVER_WIRE_CONTRACT_H_
#define PACKRAT_TESTS_SERVER_WIRE_CONTRACT_H_

#include <string>
#include <vector>

namespace google::protobuf {
class FileDescriptor;
}

namespace packrat {

// E.g. "field packrat.v1.StopParams.max_tokens = 4 optional int32".
std::vector<std::string> WireLines(const google::protobuf::FileDescriptor& file);

struct ContractChange {
  std::vector<std::string> gone;  // Removed, renumbered, renamed or retyped.
  std::vector<std::string> added;
};
ContractChange CompareContracts(const std::vector<std::string>& baseline,
                                const std::vector<std::string>& current);

}  // namespace packrat

#endif  // PACKRAT_TESTS_SERVER_WIRE_CONTRACT_H_
