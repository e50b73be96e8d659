// The pieces of a tokenizer in the order of their bytes, each beginning there once: what a walk
// over all tokens needs.
#ifndef PACKRAT_MODELS_TEXT_GRAMMAR_TOKEN_TRIE_H_
#define PACKRAT_MODELS_TEXT_GRAMMAR_TOKEN_TRIE_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "models/text/tokenizer.h"

namespace packrat {

class TokenTrie {
 public:
  // In the order of a walk: a node comes before those below it.
  struct Node {
    uint32_t end;          // The first node that is not below this one.
    uint32_t first_token;  // Of the tree's tokens; up to the next node's.
    uint16_t depth;        // Bytes from the beginning, this one included: from 1.
    uint8_t byte;
  };
  struct Tree {
    std::vector<Node> nodes;
    std::vector<int32_t> tokens;
    // Those whose text ends at a node.
    absl::Span<const int32_t> TokensOf(size_t node) const {
      const uint32_t begin = nodes[node].first_token;
      const size_t end = node + 1 < nodes.size() ? nodes[node + 1].first_token : tokens.size();
      return absl::MakeConstSpan(tokens).subspan(begin, end - begin);
    }
    size_t bytes() const {
      return nodes.capacity() * sizeof(Node) + tokens.capacity() * sizeof(int32_t);
    }
  };
  // Longer pieces are left out, and are never allowed.
  static constexpr size_t kMaxPieceBytes = 0xffff;

  // Special tokens are there by the bytes that stand for them (special_token.h); those without text
  // and padding are left out.
  explicit TokenTrie(const Tokenizer& tokenizer);
  // `pieces`: by id; those that are empty are left out.
  explicit TokenTrie(const std::vector<std::string>& pieces);

  int num_ids() const { return static_cast<int>(begins_.size()) - 1; }
  const Tree& all() const { return all_; }
  int depth() const { return depth_; }  // Of the longest piece.
  // Of a token; empty where it was left out.
  absl::string_view piece(int32_t id) const {
    return absl::string_view(text_).substr(begins_[id], begins_[id + 1] - begins_[id]);
  }
  // Of tokens that have a text, in the order of their texts.
  Tree MakeTree(std::vector<int32_t> tokens) const;
  size_t bytes() const;  // Of memory.

 private:
  void Build(const std::vector<std::string>& pieces);

  Tree all_;
  std::string text_;              // All pieces, by id.
  std::vector<uint32_t> begins_;  // (ids + 1)
  int depth_ = 0;
};

}  // namespace packrat

#endif  // PACKRAT_MODELS_TEXT_GRAMMAR_TOKEN_TRIE_H_
