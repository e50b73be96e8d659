// Any bytes as a grammar in each of the three notations: refused with a message, or an automaton
// that never comes to a dead end. The first byte chooses the notation.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "kernels/check.h"
#include "models/text/grammar/automaton.h"
#include "models/text/grammar/gbnf.h"
#include "models/text/grammar/grammar.h"
#include "models/text/grammar/json_schema.h"
#include "models/text/grammar/regex.h"

namespace packrat {
namespace {

absl::StatusOr<GrammarRules> Parse(uint8_t notation, const std::string& text) {
  if (notation % 3 == 0) return ParseGbnf(text);
  return notation % 3 == 1 ? ParseRegex(text) : ParseJsonSchema(text);
}

// A walk that the text itself chooses.
void Walk(Grammar grammar, const std::string& text) {
  GrammarAutomaton automaton(std::make_shared<const Grammar>(std::move(grammar)));
  if (automaton.too_ambiguous()) return;
  GrammarAutomaton::State state = automaton.start();
  for (size_t i = 0; i < 24 && automaton.goes_on(state); ++i) {
    PACKRAT_CHECK(automaton.places(state) <= GrammarAutomaton::kMaxPlaces);
    const auto begin = static_cast<uint8_t>(text[i % text.size()]);
    GrammarAutomaton::State next = GrammarAutomaton::kDead;
    for (int step = 0; step < 256 && next == GrammarAutomaton::kDead; ++step) {
      next = automaton.Next(state, static_cast<uint8_t>(begin + step));
    }
    if (next == GrammarAutomaton::kTooAmbiguous) return;
    PACKRAT_CHECK(next != GrammarAutomaton::kDead, "a dead end");
    if (i == 12) automaton.Forget(absl::MakeSpan(&next, 1));
    state = next;
  }
}

}  // namespace
}  // namespace packrat

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0 || size > 4096) return 0;
  const std::string text(reinterpret_cast<const char*>(data) + 1, size - 1);
  const auto rules = packrat::Parse(data[0], text);
  if (!rules.ok()) {
    PACKRAT_CHECK(!rules.status().message().empty());
    PACKRAT_CHECK(rules.status().message().size() < 8192);
    return 0;
  }
  auto grammar = packrat::Grammar::Compile(*rules);
  if (grammar.ok()) packrat::Walk(*std::move(grammar), text);
  return 0;
}
