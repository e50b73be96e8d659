// Makes the nodes of a Grammar from expressions, each from its end to its beginning: what follows
// is always there.
#ifndef PACKRAT_MODELS_TEXT_GRAMMAR_NETWORK_BUILDER_H_
#define PACKRAT_MODELS_TEXT_GRAMMAR_NETWORK_BUILDER_H_

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "models/text/grammar/grammar.h"
#include "models/text/grammar/grammar_rules.h"

namespace packrat {

class NetworkBuilder {
 public:
  using Node = Grammar::Node;
  explicit NetworkBuilder(const GrammarRules& rules);

  // Where each rule begins; those that repeats were given come behind the others.
  struct Part {
    std::string name;
    int32_t begin;
  };
  // False if there were too many nodes.
  bool Run();
  std::vector<Node>& nodes() { return nodes_; }
  const std::vector<Part>& parts() const { return parts_; }

 private:
  using Id = GrammarRules::Id;
  using Expression = GrammarRules::Expression;
  int32_t Add(Node node);
  int32_t Split(int32_t next, int32_t other);
  // The node at which a text begins that matches the expression and then goes on at `next`.
  int32_t Build(Id id, int32_t next);
  int32_t BuildLiteral(absl::string_view text, int32_t next);
  int32_t BuildCharacters(const CharacterSet& set, int32_t next);
  int32_t BuildChoice(const Expression& choice, int32_t next);
  // Literals ascend and are alike up to `from`: what they share is there once.
  int32_t BuildLiterals(const std::vector<absl::string_view>& literals, size_t begin, size_t end,
                        size_t from, int32_t next);
  int32_t BuildRepeat(const Expression& repeat, int32_t next);

  const GrammarRules& rules_;
  std::vector<Node> nodes_;
  std::vector<Part> parts_;
  int part_ = 0;  // Which is being built.
  bool too_many_ = false;
};

}  // namespace packrat

#endif  // PACKRAT_MODELS_TEXT_GRAMMAR_NETWORK_BUILDER_H_
