#include "models/text/grammar/token_trie.h"

#include <algorithm>
#include <numeric>

namespace packrat {
namespace {

std::vector<std::string> PiecesOf(const Tokenizer& tokenizer) {
  std::vector<std::string> pieces(tokenizer.num_pieces());
  for (int32_t id = 0; id < tokenizer.num_pieces(); ++id) {
    if (!tokenizer.IsSpecial(id)) pieces[id] = tokenizer.PieceText(id);
  }
  return pieces;
}

}  // namespace

TokenTrie::TokenTrie(const Tokenizer& tokenizer) { Build(PiecesOf(tokenizer)); }

TokenTrie::TokenTrie(const std::vector<std::string>& pieces) { Build(pieces); }

void TokenTrie::Build(const std::vector<std::string>& pieces) {
  begins_.push_back(0);
  for (const std::string& piece : pieces) {
    if (piece.size() <= kMaxPieceBytes) text_ += piece;
    begins_.push_back(static_cast<uint32_t>(text_.size()));
  }
  tokens_.resize(pieces.size());
  std::iota(tokens_.begin(), tokens_.end(), 0);
  const auto is_empty = [this](int32_t id) { return piece(id).empty(); };
  tokens_.erase(std::remove_if(tokens_.begin(), tokens_.end(), is_empty), tokens_.end());
  std::sort(tokens_.begin(), tokens_.end(), [this](int32_t a, int32_t b) {
    const int order = piece(a).compare(piece(b));
    return order != 0 ? order < 0 : a < b;
  });
  std::vector<uint32_t> open;  // The nodes of the last piece, from its first byte on.
  const auto close = [&](size_t keep) {
    for (; open.size() > keep; open.pop_back()) {
      nodes_[open.back()].end = static_cast<uint32_t>(nodes_.size());
    }
  };
  absl::string_view last;
  for (size_t i = 0; i < tokens_.size(); ++i) {
    const absl::string_view piece = this->piece(tokens_[i]);
    size_t common = 0;
    while (common < last.size() && common < piece.size() && last[common] == piece[common]) ++common;
    close(common);
    for (size_t at = common; at < piece.size(); ++at) {
      open.push_back(static_cast<uint32_t>(nodes_.size()));
      nodes_.push_back({0, static_cast<uint32_t>(i), static_cast<uint16_t>(at + 1),
                        static_cast<uint8_t>(piece[at])});
    }
    depth_ = std::max(depth_, static_cast<int>(piece.size()));
    last = piece;
  }
  close(0);
  // A piece's tokens are its last node's: the nodes before it begin where it does.
  nodes_.shrink_to_fit();
  text_.shrink_to_fit();
}

size_t TokenTrie::bytes() const {
  return nodes_.capacity() * sizeof(Node) + tokens_.capacity() * sizeof(int32_t) +
         text_.capacity() + begins_.capacity() * sizeof(uint32_t);
}

}  // namespace packrat
