#include "models/text/grammar/token_trie.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "absl/strings/match.h"
#include "models/text/grammar/special_token.h"

namespace packrat {
namespace {

std::vector<std::string> PiecesOf(const Tokenizer& tokenizer) {
  std::vector<std::string> pieces(tokenizer.num_pieces());
  for (int32_t id = 0; id < tokenizer.num_pieces(); ++id) {
    if (tokenizer.IsSpecial(id)) {
      pieces[id] = SpecialTokenBytes(id);
      continue;
    }
    // A byte that is in no text must not pass for the beginning of a special token.
    const std::string piece = tokenizer.PieceText(id);
    if (!absl::StrContains(piece, kSpecialTokenMark)) pieces[id] = piece;
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
  text_.shrink_to_fit();
  std::vector<int32_t> tokens(pieces.size());
  std::iota(tokens.begin(), tokens.end(), 0);
  const auto is_empty = [this](int32_t id) { return piece(id).empty(); };
  tokens.erase(std::remove_if(tokens.begin(), tokens.end(), is_empty), tokens.end());
  std::sort(tokens.begin(), tokens.end(), [this](int32_t a, int32_t b) {
    const int order = piece(a).compare(piece(b));
    return order != 0 ? order < 0 : a < b;
  });
  for (int32_t id : tokens) depth_ = std::max(depth_, static_cast<int>(piece(id).size()));
  all_ = MakeTree(std::move(tokens));
}

TokenTrie::Tree TokenTrie::MakeTree(std::vector<int32_t> tokens) const {
  Tree tree;
  tree.tokens = std::move(tokens);
  tree.tokens.shrink_to_fit();
  std::vector<uint32_t> open;  // The nodes of the last piece, from its first byte on.
  const auto close = [&](size_t keep) {
    for (; open.size() > keep; open.pop_back()) {
      tree.nodes[open.back()].end = static_cast<uint32_t>(tree.nodes.size());
    }
  };
  absl::string_view last;
  for (size_t i = 0; i < tree.tokens.size(); ++i) {
    const absl::string_view piece = this->piece(tree.tokens[i]);
    size_t common = 0;
    while (common < last.size() && common < piece.size() && last[common] == piece[common]) ++common;
    close(common);
    // A piece's tokens are its last node's: the nodes before it begin where it does.
    for (size_t at = common; at < piece.size(); ++at) {
      open.push_back(static_cast<uint32_t>(tree.nodes.size()));
      tree.nodes.push_back({0, static_cast<uint32_t>(i), static_cast<uint16_t>(at + 1),
                            static_cast<uint8_t>(piece[at])});
    }
    last = piece;
  }
  close(0);
  tree.nodes.shrink_to_fit();
  return tree;
}

size_t TokenTrie::bytes() const {
  return all_.bytes() + text_.capacity() + begins_.capacity() * sizeof(uint32_t);
}

}  // namespace packrat
