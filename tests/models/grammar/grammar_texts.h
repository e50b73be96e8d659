// What the tests of grammars ask of them.
#ifndef PACKRAT_TESTS_MODELS_GRAMMAR_GRAMMAR_TEXTS_H_
#define PACKRAT_TESTS_MODELS_GRAMMAR_GRAMMAR_TEXTS_H_

#include <memory>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/check.h"
#include "models/text/grammar/automaton.h"
#include "models/text/grammar/grammar.h"
#include "models/text/grammar/grammar_rules.h"

namespace packrat {

inline absl::StatusOr<Grammar> Compile(const absl::StatusOr<GrammarRules>& rules) {
  if (!rules.ok()) return rules.status();
  return Grammar::Compile(*rules);
}

class GrammarTexts {
 public:
  using State = GrammarAutomaton::State;
  explicit GrammarTexts(Grammar grammar)
      : automaton_(std::make_shared<const Grammar>(std::move(grammar))) {}

  // kDead if no text begins so, or kTooAmbiguous.
  State After(const std::string& text) {
    State state = automaton_.start();
    for (char byte : text) {
      state = automaton_.Next(state, static_cast<uint8_t>(byte));
      if (state < 0) break;
    }
    return state;
  }
  bool Begins(const std::string& text) {
    const State state = After(text);
    PACKRAT_CHECK(state != GrammarAutomaton::kTooAmbiguous);
    return state != GrammarAutomaton::kDead;
  }
  bool Matches(const std::string& text) {
    const State state = After(text);
    PACKRAT_CHECK(state != GrammarAutomaton::kTooAmbiguous);
    return state != GrammarAutomaton::kDead && automaton_.accepts(state);
  }
  // A text of the grammar, byte by byte at random; none if it has not ended after so many bytes.
  std::optional<std::string> Sample(std::mt19937_64* random, size_t most) {
    std::string text;
    State state = automaton_.start();
    while (text.size() <= most) {
      std::vector<uint8_t> bytes;
      for (int byte = 0; byte < 256; ++byte) {
        if (automaton_.Next(state, static_cast<uint8_t>(byte)) != GrammarAutomaton::kDead) {
          bytes.push_back(static_cast<uint8_t>(byte));
        }
      }
      if (automaton_.accepts(state) && (bytes.empty() || (*random)() % 4 == 0)) return text;
      if (bytes.empty()) return std::nullopt;  // A dead end, which must not be.
      const uint8_t byte = bytes[(*random)() % bytes.size()];
      text.push_back(static_cast<char>(byte));
      state = automaton_.Next(state, byte);
    }
    return std::nullopt;
  }
  GrammarAutomaton& automaton() { return automaton_; }

 private:
  GrammarAutomaton automaton_;
};

}  // namespace packrat

#endif  // PACKRAT_TESTS_MODELS_GRAMMAR_GRAMMAR_TEXTS_H_
