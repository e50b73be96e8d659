#include "models/text/grammar/network_builder.h"

#include <algorithm>
#include <map>
#include <tuple>
#include <utility>

#include "kernels/check.h"

namespace packrat {

using Kind = Grammar::Node::Kind;

NetworkBuilder::NetworkBuilder(const GrammarRules& rules) : rules_(rules) {
  nodes_.push_back({Kind::kReturn});
  for (const GrammarRules::Rule& rule : rules.rules()) {
    // A place to call before its body is known.
    parts_.push_back({rule.name, Add({Kind::kSplit})});
  }
}

bool NetworkBuilder::Run() {
  for (size_t i = 0; i < rules_.rules().size() && !too_many_; ++i) {
    part_ = static_cast<int>(i);
    PACKRAT_CHECK(rules_.rules()[i].body >= 0) << rules_.rules()[i].name;
    const int32_t body = Build(rules_.rules()[i].body, Grammar::kReturnNode);
    Node& begin = nodes_[parts_[i].begin];
    begin.next = begin.other = body;
  }
  return !too_many_;
}

// Once there are too many, the last one stands for all.
int32_t NetworkBuilder::Add(Node node) {
  too_many_ = too_many_ || nodes_.size() >= static_cast<size_t>(kMaxGrammarNodes);
  if (!too_many_) nodes_.push_back(node);
  return static_cast<int32_t>(nodes_.size()) - 1;
}

int32_t NetworkBuilder::Split(int32_t next, int32_t other) {
  Node node{Kind::kSplit};
  node.next = next;
  node.other = other;
  return Add(node);
}

int32_t NetworkBuilder::Build(Id id, int32_t next) {
  if (too_many_) return next;
  const Expression& e = rules_.at(id);
  switch (e.kind) {
    case Expression::Kind::kLiteral:
      return BuildLiteral(e.literal, next);
    case Expression::Kind::kCharacters:
      return BuildCharacters(e.characters, next);
    case Expression::Kind::kSequence:
      for (size_t i = e.parts.size(); i > 0; --i) next = Build(e.parts[i - 1], next);
      return next;
    case Expression::Kind::kChoice:
      return BuildChoice(e, next);
    case Expression::Kind::kRepeat:
      return BuildRepeat(e, next);
    case Expression::Kind::kCall: {
      Node node{Kind::kCall};
      node.next = next;
      node.other = parts_[e.rule].begin;
      return Add(node);
    }
  }
  PACKRAT_CHECK(false);
  return next;
}

int32_t NetworkBuilder::BuildLiteral(absl::string_view text, int32_t next) {
  for (size_t i = text.size(); i > 0; --i) {
    Node node{Kind::kBytes};
    node.first = node.last = static_cast<uint8_t>(text[i - 1]);
    node.next = next;
    next = Add(node);
  }
  return next;
}

int32_t NetworkBuilder::BuildCharacters(const CharacterSet& set, int32_t next) {
  std::vector<ByteRanges> forms;
  for (const CharacterRange& range : set) AppendUtf8(range, &forms);
  // Most forms end alike.
  std::map<std::tuple<uint8_t, uint8_t, int32_t>, int32_t> known;
  int32_t all = -1;
  for (const ByteRanges& form : forms) {
    int32_t at = next;
    bool is_new = false;
    for (size_t i = form.size(); i > 0; --i) {
      const auto [place, added] =
          known.try_emplace({form[i - 1].first, form[i - 1].last, at}, int32_t{-1});
      is_new = added;
      if (added) {
        Node node{Kind::kBytes};
        node.first = form[i - 1].first;
        node.last = form[i - 1].last;
        node.next = at;
        place->second = Add(node);
      }
      at = place->second;
    }
    if (too_many_) return next;
    if (is_new) all = all < 0 ? at : Split(at, all);
  }
  // A node without a way on: nothing matches.
  return all >= 0 ? all : Split(-1, -1);
}

int32_t NetworkBuilder::BuildChoice(const Expression& choice, int32_t next) {
  std::vector<absl::string_view> literals;
  int32_t all = -1;
  for (Id part : choice.parts) {
    if (rules_.at(part).kind == Expression::Kind::kLiteral) {
      literals.push_back(rules_.at(part).literal);
      continue;
    }
    const int32_t at = Build(part, next);
    all = all < 0 ? at : Split(at, all);
  }
  if (!literals.empty()) {
    std::sort(literals.begin(), literals.end());
    literals.erase(std::unique(literals.begin(), literals.end()), literals.end());
    const int32_t at = BuildLiterals(literals, 0, literals.size(), 0, next);
    all = all < 0 ? at : Split(at, all);
  }
  return all >= 0 ? all : Split(-1, -1);
}

int32_t NetworkBuilder::BuildLiterals(const std::vector<absl::string_view>& literals, size_t begin,
                                      size_t end, size_t from, int32_t next) {
  // All that the first and the last have in common, all have.
  const absl::string_view low = literals[begin], high = literals[end - 1];
  size_t common = from;
  while (common < low.size() && common < high.size() && low[common] == high[common]) ++common;
  int32_t all = -1;
  for (size_t i = begin; i < end && !too_many_;) {
    int32_t at = next;
    size_t group = i + 1;
    if (literals[i].size() > common) {
      while (group < end && literals[group][common] == literals[i][common]) ++group;
      at = group == i + 1 ? BuildLiteral(literals[i].substr(common), next)
                          : BuildLiterals(literals, i, group, common, next);
    }
    all = all < 0 ? at : Split(at, all);
    i = group;
  }
  return BuildLiteral(low.substr(from, common - from), all);
}

int32_t NetworkBuilder::BuildRepeat(const Expression& repeat, int32_t next) {
  const Id part = repeat.parts[0];
  const bool unbounded = repeat.max == GrammarRules::kUnbounded;
  PACKRAT_CHECK(repeat.min >= 0 && repeat.min <= kMaxRepeat && repeat.max <= kMaxRepeat);
  PACKRAT_CHECK(unbounded || repeat.max >= repeat.min);
  // One copy is in the loop, where there is one.
  const int64_t copies = unbounded ? std::max<int64_t>(1, repeat.min) : repeat.max;
  // What is repeated often and takes several nodes becomes a rule: each copy is then one node.
  int32_t rule = -1;
  if (copies > 1 && rules_.at(part).kind != Expression::Kind::kCall) {
    rule = Add({Kind::kSplit});
    parts_.push_back({parts_[part_].name, rule});
    const int32_t body = Build(part, Grammar::kReturnNode);
    nodes_[rule].next = nodes_[rule].other = body;
  }
  const auto copy = [&](int32_t then) {
    if (rule < 0) return Build(part, then);
    Node node{Kind::kCall};
    node.next = then;
    node.other = rule;
    return Add(node);
  };
  int32_t at = next;
  int64_t left = repeat.min;
  if (unbounded) {
    const int32_t loop = Split(-1, next);
    const int32_t body = copy(loop);
    nodes_[loop].next = body;
    at = repeat.min > 0 ? body : loop;
    left = std::max<int64_t>(0, repeat.min - 1);
  } else {
    for (int64_t i = repeat.min; i < repeat.max && !too_many_; ++i) at = Split(copy(at), next);
  }
  for (; left > 0 && !too_many_; --left) at = copy(at);
  return at;
}

}  // namespace packrat
