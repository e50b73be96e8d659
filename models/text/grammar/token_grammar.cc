#include "models/text/grammar/token_grammar.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"

namespace packrat {
namespace {

void SetBit(int32_t id, std::vector<uint32_t>* mask) { (*mask)[id / 32] |= 1u << (id % 32); }

}  // namespace

absl::StatusOr<std::shared_ptr<TokenGrammar>> TokenGrammar::Create(
    Grammar grammar, std::shared_ptr<const GrammarVocabulary> vocabulary, const Limits& limits) {
  std::shared_ptr<TokenGrammar> made(
      new TokenGrammar(std::move(grammar), std::move(vocabulary), limits));
  const auto too_ambiguous = [] {
    return absl::InvalidArgumentError(
        "it is too ambiguous: a text's beginning can belong to too many of its places");
  };
  if (made->automaton_.too_ambiguous()) return too_ambiguous();
  const Entry& first = made->MaskOf(made->automaton_.start());
  if (first.problem != Problem::kNone) return too_ambiguous();
  if (std::all_of(first.mask.begin(), first.mask.end(), [](uint32_t word) { return word == 0; })) {
    return absl::InvalidArgumentError("no token of this model can begin a text that matches it");
  }
  made->ForgetIfLarge();
  return made;
}

TokenGrammar::TokenGrammar(Grammar grammar, std::shared_ptr<const GrammarVocabulary> vocabulary,
                           const Limits& limits)
    : vocabulary_(std::move(vocabulary)),
      limits_(limits),
      automaton_(std::make_shared<const Grammar>(std::move(grammar))),
      path_(trie().depth() + 1) {}

size_t TokenGrammar::bytes() const {
  return automaton_.bytes() + (masks_.size() + positions_.size()) * mask_words() * sizeof(uint32_t);
}

size_t TokenGrammar::StateBytes() const {
  if (limits_.memory == nullptr) return limits_.state_bytes;
  return std::min(limits_.state_bytes, static_cast<size_t>(limits_.memory->Share() / 2));
}

size_t TokenGrammar::MaxMasks() const {
  size_t bytes = limits_.mask_bytes;
  if (limits_.memory != nullptr) {
    bytes = std::min(bytes, static_cast<size_t>(limits_.memory->Share() / 2));
  }
  return std::max<size_t>(4, bytes / (mask_words() * sizeof(uint32_t) + 1));
}

const TokenGrammar::Entry& TokenGrammar::MaskOf(State state) {
  const auto found = mask_index_.find(state);
  if (found != mask_index_.end()) {
    masks_.splice(masks_.begin(), masks_, found->second);
    return masks_.front();
  }
  const size_t most = MaxMasks();
  for (; masks_.size() > most; masks_.pop_back()) mask_index_.erase(masks_.back().state);
  if (masks_.size() < most) {
    masks_.push_front({state, Problem::kNone, Mask(mask_words())});
  } else {
    mask_index_.erase(masks_.back().state);
    masks_.splice(masks_.begin(), masks_, std::prev(masks_.end()));
    masks_.front().state = state;
  }
  mask_index_[state] = masks_.begin();
  masks_.front().problem = Problem::kTooMuchWork;  // Unless there is memory to find it.
  masks_.front().problem = FindMask(state, &masks_.front().mask);
  return masks_.front();
}

TokenGrammar::Problem TokenGrammar::FindMask(State state, Mask* mask) {
  ++masks_found_;
  // Where slices are dear, a walk may still not be.
  scratch_.limit = automaton_.work() + scratch_.work + limits_.mask_work / 4;
  const auto slice = vocabulary_->slices.Find(state, &automaton_, &scratch_);
  const int64_t limit = automaton_.work() + limits_.mask_work;
  const TokenTrie::Tree& tree = slice.has_value() ? *slice->rest : trie().all();
  std::fill(mask->begin(), mask->end(), 0);
  if (slice.has_value()) {
    for (const std::vector<uint32_t>* known : slice->masks) {
      for (size_t i = 0; known != nullptr && i < mask->size(); ++i) (*mask)[i] |= (*known)[i];
    }
  }
  path_[0] = state;
  for (size_t i = 0; i < tree.nodes.size(); ++walked_) {
    const TokenTrie::Node& node = tree.nodes[i];
    const State next = automaton_.Next(path_[node.depth - 1], node.byte);
    if (automaton_.work() > limit) return Problem::kTooMuchWork;
    if (next == GrammarAutomaton::kTooAmbiguous) return Problem::kTooAmbiguous;
    if (next == GrammarAutomaton::kDead) {
      i = node.end;
      continue;
    }
    for (int32_t token : tree.TokensOf(i)) SetBit(token, mask);
    path_[node.depth] = next;
    ++i;
  }
  return Problem::kNone;
}

TokenGrammar::State TokenGrammar::After(State state, int32_t token) {
  for (char byte : trie().piece(token)) {
    state = automaton_.Next(state, static_cast<uint8_t>(byte));
    PACKRAT_CHECK(state >= 0) << "token " << token << " was not allowed";
  }
  return state;
}

// Between steps: no state is held but by positions.
void TokenGrammar::ForgetIfLarge() {
  // What positions need may be more than the limit.
  if (automaton_.bytes() > std::max(StateBytes(), forget_at_)) {
    std::vector<State> live;
    live.reserve(positions_.size());
    for (const GrammarPosition* position : positions_) live.push_back(position->state_);
    automaton_.Forget(absl::MakeSpan(live));
    for (size_t i = 0; i < live.size(); ++i) positions_[i]->state_ = live[i];
    masks_.clear();
    mask_index_.clear();
    forget_at_ = 2 * automaton_.bytes();
  }
  if (limits_.memory != nullptr) limits_.memory->Set(static_cast<int64_t>(bytes()));
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

void GrammarPosition::Accept(int32_t token) {
  state_ = grammar_->After(state_, token);
  has_mask_ = false;
}

absl::Status GrammarPosition::FindMask(absl::Span<const int32_t> end_ids) {
  const TokenGrammar::Entry& found = grammar_->MaskOf(state_);
  const TokenGrammar::Problem problem = found.problem;
  std::copy(found.mask.begin(), found.mask.end(), mask_.begin());
  grammar_->ForgetIfLarge();
  if (problem != TokenGrammar::Problem::kNone) {
    return absl::InvalidArgumentError(absl::StrCat("it is too ambiguous: what has come ",
                                                   problem == TokenGrammar::Problem::kTooMuchWork
                                                       ? "goes on in too many ways"
                                                       : "can belong to too many of its places"));
  }
  for (int32_t id : end_ids) {
    if (id < 0 || id >= grammar_->trie().num_ids()) continue;
    mask_[id / 32] &= ~(1u << (id % 32));
    if (may_end()) mask_[id / 32] |= 1u << (id % 32);
  }
  has_mask_ = true;
  return absl::OkStatus();
}

}  // namespace packrat
