// A compiled grammar: a network over bytes for each rule, which may call rules. It never changes;
// automaton.h walks it.
#ifndef PACKRAT_MODELS_TEXT_GRAMMAR_GRAMMAR_H_
#define PACKRAT_MODELS_TEXT_GRAMMAR_GRAMMAR_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "models/text/grammar/grammar_rules.h"

namespace packrat {

// Of the network.
inline constexpr int kMaxGrammarNodes = 1 << 16;
// Rules called in each other. A call at the end of a rule takes no level.
inline constexpr int kMaxGrammarDepth = 1024;

class Grammar {
 public:
  struct Node {
    enum class Kind : uint8_t {
      kReturn,  // The rule ends.
      kBytes,   // One of first to last, then `next`.
      kSplit,   // `next` or `other`.
      kCall,    // The rule that begins at node `other`, then `next`.
    };
    Kind kind = Kind::kReturn;
    uint8_t first = 0, last = 0;
    // Levels that the least nested way from here to the rule's end takes; kNoWay: there is none.
    uint16_t height = kNoWay;
    int32_t next = -1;
    int32_t other = -1;
  };
  static constexpr uint16_t kNoWay = 0xffff;
  static constexpr int32_t kReturnNode = 0;  // The only one.

  // INVALID_ARGUMENT if no text matches, or the empty text alone; if a rule can begin with itself
  // (it is named); if nothing matches that nests at most kMaxGrammarDepth deep; if it takes more
  // than kMaxGrammarNodes.
  static absl::StatusOr<Grammar> Compile(const GrammarRules& rules);

  const std::vector<Node>& nodes() const { return nodes_; }
  int32_t start() const { return start_; }
  // Bytes of one class are alike in every node.
  int num_classes() const { return static_cast<int>(class_bytes_.size()); }
  int ClassOf(uint8_t byte) const { return classes_[byte]; }
  size_t bytes() const { return nodes_.capacity() * sizeof(Node); }  // Of memory.
  uint8_t ByteOf(int byte_class) const { return class_bytes_[byte_class]; }

 private:
  Grammar() = default;
  void FindClasses();

  std::vector<Node> nodes_;
  int32_t start_ = -1;
  std::array<uint8_t, 256> classes_ = {};
  std::vector<uint8_t> class_bytes_;  // One of each class.
};

}  // namespace packrat

#endif  // PACKRAT_MODELS_TEXT_GRAMMAR_GRAMMAR_H_
