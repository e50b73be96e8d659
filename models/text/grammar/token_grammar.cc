#include "models/text/grammar/token_grammar.h"

#include <algorithm>
#include <utility>

#include "kernels/check.h"

namespace packrat {
namespace {

void SetBit(int32_t id, std::vector<uint32_t>* mask) { (*mask)[id / 32] |= 1u << (id % 32); }

}  // namespace

absl::StatusOr<std::shared_ptr<TokenGrammar>> TokenGrammar::Create(
    Grammar grammar, std::shared_ptr<const TokenTrie> trie, const Limits& limits) {
  std::shared_ptr<TokenGrammar> made(new TokenGrammar(std::move(grammar), std::move(trie), limits));
  if (made->automaton_.too_ambiguous()) {
    return absl::InvalidArgumentError(
        "it is too ambiguous: a text's first byte can belong to too many of its places");
  }
  const Mask& mask = made->MaskOf(made->automaton_.start());
  if (std::all_of(mask.begin(), mask.end(), [](uint32_t word) { return word == 0; })) {
    return absl::InvalidArgumentError("no token of this model can begin a text that matches it");
  }
  return made;
}

TokenGrammar::TokenGrammar(Grammar grammar, std::shared_ptr<const TokenTrie> trie,
                           const Limits& limits)
    : trie_(std::move(trie)),
      limits_(limits),
      max_masks_(std::max<size_t>(4, limits.mask_bytes / (mask_words() * sizeof(uint32_t) + 1))),
      automaton_(std::make_shared<const Grammar>(std::move(grammar))),
      forget_at_(limits.state_bytes),
      path_(trie_->depth() + 1) {}

size_t TokenGrammar::bytes() const {
  return automaton_.bytes() + masks_.size() * mask_words() * sizeof(uint32_t);
}

const TokenGrammar::Mask& TokenGrammar::MaskOf(State state) {
  const auto found = mask_index_.find(state);
  if (found != mask_index_.end()) {
    masks_.splice(masks_.begin(), masks_, found->second);
    return masks_.front().mask;
  }
  if (masks_.size() < max_masks_) {
    masks_.push_front({state, Mask(mask_words())});
  } else {
    mask_index_.erase(masks_.back().state);
    masks_.splice(masks_.begin(), masks_, std::prev(masks_.end()));
    masks_.front().state = state;
  }
  mask_index_[state] = masks_.begin();
  FindMask(state, &masks_.front().mask);
  return masks_.front().mask;
}

void TokenGrammar::FindMask(State state, Mask* mask) {
  ++masks_found_;
  std::fill(mask->begin(), mask->end(), 0);
  const absl::Span<const TokenTrie::Node> nodes = trie_->nodes();
  path_[0] = state;
  int64_t work = static_cast<int64_t>(nodes.size()) * limits_.work_per_node;
  // With little work left, tokens of one byte alone: from each state some of them lead on, so that
  // a tokenizer that has all of them finds no dead end.
  for (const bool all : {true, false}) {
    for (size_t i = 0; i < nodes.size();) {
      const TokenTrie::Node& node = nodes[i];
      if (all && work < 0) break;
      const State next = automaton_.Next(path_[node.depth - 1], node.byte);
      if (next == GrammarAutomaton::kDead) {
        --work;
        i = node.end;
        continue;
      }
      work -= 1 + automaton_.places(next) + automaton_.num_classes() / 16;
      for (int32_t token : trie_->TokensOf(i)) SetBit(token, mask);
      path_[node.depth] = next;
      i = all ? i + 1 : node.end;
    }
    if (work >= 0) break;
  }
}

TokenGrammar::State TokenGrammar::After(State state, int32_t token) {
  for (char byte : trie_->piece(token)) {
    state = automaton_.Next(state, static_cast<uint8_t>(byte));
    PACKRAT_CHECK(state != GrammarAutomaton::kDead) << "token " << token << " was not allowed";
  }
  return state;
}

// Between steps: no state is held but by positions.
void TokenGrammar::ForgetIfLarge() {
  if (automaton_.bytes() <= forget_at_) return;
  std::vector<State> live;
  live.reserve(positions_.size());
  for (const GrammarPosition* position : positions_) live.push_back(position->state_);
  automaton_.Forget(absl::MakeSpan(live));
  for (size_t i = 0; i < live.size(); ++i) positions_[i]->state_ = live[i];
  masks_.clear();
  mask_index_.clear();
  // What positions need may be more than the limit.
  forget_at_ = std::max(limits_.state_bytes, 2 * automaton_.bytes());
}

GrammarPosition::GrammarPosition(std::shared_ptr<TokenGrammar> grammar)
    : grammar_(std::move(grammar)),
      state_(grammar_->automaton_.start()),
      number_(grammar_->positions_.size()),
      mask_(grammar_->mask_words()) {
  grammar_->positions_.push_back(this);
}

GrammarPosition::~GrammarPosition() {
  std::vector<GrammarPosition*>& all = grammar_->positions_;
  all[number_] = all.back();
  all[number_]->number_ = number_;
  all.pop_back();
}

void GrammarPosition::Accept(int32_t token) { state_ = grammar_->After(state_, token); }

void GrammarPosition::FindMask(absl::Span<const int32_t> end_ids) {
  grammar_->ForgetIfLarge();
  const TokenGrammar::Mask& mask = grammar_->MaskOf(state_);
  std::copy(mask.begin(), mask.end(), mask_.begin());
  for (int32_t id : end_ids) {
    if (id < 0 || id >= grammar_->trie_->num_ids()) continue;
    mask_[id / 32] &= ~(1u << (id % 32));
    if (may_end()) mask_[id / 32] |= 1u << (id % 32);
  }
}

}  // namespace packrat
