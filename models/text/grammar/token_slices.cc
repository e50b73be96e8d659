#include "models/text/grammar/token_slices.h"

#include <algorithm>
#include <utility>

#include "absl/strings/string_view.h"

namespace packrat {
namespace {

using State = GrammarAutomaton::State;

// A text that stands in more states than these is left to the walk over all tokens.
constexpr size_t kMostStates = 32;

// Characters of `text`, which holds nothing else and may end inside of one; -1 if it holds others.
int CountCharacters(absl::string_view text, const std::vector<ByteRanges>& forms) {
  int count = 0;
  for (; !text.empty(); ++count) {
    size_t taken = 0;
    for (const ByteRanges& form : forms) {
      const size_t most = std::min(form.size(), text.size());
      size_t at = 0;
      const auto in = [&](ByteRange range) {
        const auto byte = static_cast<uint8_t>(text[at]);
        return range.first <= byte && byte <= range.last;
      };
      while (at < most && in(form[at])) ++at;
      if (at == most) taken = most;
    }
    if (taken == 0) return -1;
    text.remove_prefix(taken);
  }
  return count;
}

void AddTo(State state, std::vector<State>* states) {
  if (std::find(states->begin(), states->end(), state) == states->end()) states->push_back(state);
}

// How many characters can follow, whichever they are, and no more of any; at most `most`. -1 where
// some of them can and others cannot, or where that is dear to find out.
int CharactersAfter(State state, const std::vector<ByteRanges>& forms, int most,
                    GrammarAutomaton* automaton, TokenSlices::Scratch* scratch) {
  auto& [now, next, at, then, work, limit] = *scratch;
  const Grammar& grammar = automaton->grammar();
  now.assign(1, state);
  for (int count = 0; count < most; ++count) {
    next.clear();
    bool some_can = false, some_cannot = false;
    for (const ByteRanges& form : forms) {
      at = now;
      for (size_t i = 0; i < form.size() && !at.empty(); ++i) {
        then.clear();
        const int first = grammar.ClassOf(form[i].first), last = grammar.ClassOf(form[i].last);
        for (State from : at) {
          work += last - first + 1;
          if (work + automaton->work() > limit) return -1;
          for (int c = first; c <= last; ++c) {
            const State to = automaton->Next(from, c == first ? form[i].first : grammar.ByteOf(c));
            const bool ends = to == GrammarAutomaton::kDead;
            if (to < 0 && !ends) return -1;
            (ends ? some_cannot : some_can) = true;
            if (some_can && some_cannot) return -1;
            if (!ends) AddTo(to, &then);
          }
        }
        if (then.size() > kMostStates) return -1;
        at.swap(then);
      }
      for (State to : at) AddTo(to, &next);
    }
    if (some_cannot) return count;
    if (next.size() > kMostStates) return -1;
    std::sort(next.begin(), next.end());
    if (next == now) return most;  // And so on.
    now.swap(next);
  }
  return most;
}

}  // namespace

TokenSlices::TokenSlices(const TokenTrie& trie) {
  const std::pair<CharacterSet, bool> kinds[] = {
      // What stands in a JSON string as it is.
      {Complement(MakeCharacterSet({{0, 0x1f}, {'"', '"'}, {'\\', '\\'}})), false},
      {{{'A', 'Z'}, {'a', 'z'}}, true},
      {{{'a', 'z'}}, true},
  };
  for (const auto& [characters, spaced] : kinds) {
    Alphabet alphabet = {{}, spaced, {}, {}, {}};
    for (CharacterRange range : characters) AppendUtf8(range, &alphabet.forms);
    const std::vector<uint32_t> empty((trie.num_ids() + 31) / 32);
    alphabet.plain.fill(empty);
    if (spaced) alphabet.with_space.fill(empty);
    std::vector<int32_t> rest;
    for (int32_t id : trie.all().tokens) {
      absl::string_view text = trie.piece(id);
      const bool begins_with_space = spaced && text[0] == ' ';
      if (begins_with_space) text.remove_prefix(1);
      const int count = CountCharacters(text, alphabet.forms);
      if (count < 0 || count > kMostCharacters) {
        rest.push_back(id);
        continue;
      }
      Masks& masks = begins_with_space ? alphabet.with_space : alphabet.plain;
      for (int most = count; most <= kMostCharacters; ++most)
        masks[most][id / 32] |= 1u << (id % 32);
    }
    alphabet.rest = trie.MakeTree(std::move(rest));
    alphabets_.push_back(std::move(alphabet));
  }
}

std::optional<TokenSlices::Slice> TokenSlices::Find(State state, GrammarAutomaton* automaton,
                                                    Scratch* scratch) const {
  for (const Alphabet& alphabet : alphabets_) {
    const auto count = [&](State from) {
      return CharactersAfter(from, alphabet.forms, kMostCharacters, automaton, scratch);
    };
    const int plain = count(state);
    if (plain <= 0) continue;  // Nothing is gained where no letter can come.
    Slice slice = {{&alphabet.plain[plain], nullptr}, &alphabet.rest};
    if (alphabet.spaced) {
      const State spaced = automaton->Next(state, ' ');
      if (spaced == GrammarAutomaton::kTooAmbiguous) continue;
      const int after = spaced == GrammarAutomaton::kDead ? -1 : count(spaced);
      if (after < 0 && spaced != GrammarAutomaton::kDead) continue;
      if (after >= 0) slice.masks[1] = &alphabet.with_space[after];
    }
    return slice;
  }
  return std::nullopt;
}

size_t TokenSlices::bytes() const {
  size_t bytes = 0;
  for (const Alphabet& alphabet : alphabets_) {
    bytes += alphabet.rest.bytes();
    for (const Masks* masks : {&alphabet.plain, &alphabet.with_space}) {
      for (const std::vector<uint32_t>& mask : *masks) bytes += mask.size() * sizeof(uint32_t);
    }
  }
  return bytes;
}

}  // namespace packrat
