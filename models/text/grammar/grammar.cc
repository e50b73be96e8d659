#include "models/text/grammar/grammar.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "models/text/grammar/network_builder.h"

namespace packrat {
namespace {

using Node = Grammar::Node;
using Kind = Node::Kind;

// For each node those from which it is a step away.
class Sources {
 public:
  // `forward`: the nodes that a node needs, or -1.
  template <class Forward>
  Sources(const std::vector<Node>& nodes, const Forward& forward) : begins_(nodes.size() + 1) {
    const auto each = [&](const auto& take) {
      for (size_t i = 0; i < nodes.size(); ++i) {
        const auto [a, b] = forward(nodes[i]);
        if (a >= 0) take(a, static_cast<int32_t>(i));
        if (b >= 0 && b != a) take(b, static_cast<int32_t>(i));
      }
    };
    each([&](int32_t to, int32_t) { ++begins_[to + 1]; });
    for (size_t i = 1; i < begins_.size(); ++i) begins_[i] += begins_[i - 1];
    sources_.resize(begins_.back());
    std::vector<int32_t> place(begins_.begin(), begins_.end() - 1);
    each([&](int32_t to, int32_t from) { sources_[place[to]++] = from; });
  }
  template <class Take>
  void Each(int32_t to, const Take& take) const {
    for (int32_t i = begins_[to]; i < begins_[to + 1]; ++i) take(sources_[i]);
  }

 private:
  std::vector<int32_t> begins_, sources_;
};

std::pair<int32_t, int32_t> NextAndOther(const Node& node) { return {node.next, node.other}; }

// Level by level, from the end of the rules backwards. A call is one level above what it calls.
void FindHeights(std::vector<Node>* nodes) {
  const Sources sources(*nodes, NextAndOther);
  std::vector<int32_t> level = {Grammar::kReturnNode}, above;
  for (int height = 0; height <= kMaxGrammarDepth && !level.empty(); ++height) {
    above.clear();
    while (!level.empty()) {
      const int32_t at = level.back();
      level.pop_back();
      if ((*nodes)[at].height != Grammar::kNoWay) continue;
      (*nodes)[at].height = static_cast<uint16_t>(height);
      sources.Each(at, [&](int32_t from) {
        const Node& node = (*nodes)[from];
        if (node.height != Grammar::kNoWay) return;
        if (node.kind != Kind::kCall) {
          level.push_back(from);
          return;
        }
        const uint16_t next = (*nodes)[node.next].height, called = (*nodes)[node.other].height;
        if (next == Grammar::kNoWay || called == Grammar::kNoWay) return;
        (called < height ? level : above).push_back(from);
      });
    }
    level.swap(above);
  }
}

// Which nodes reach the end of their rule without a byte.
std::vector<bool> FindEmpty(const std::vector<Node>& nodes) {
  const Sources sources(nodes, NextAndOther);
  std::vector<bool> empty(nodes.size());
  std::vector<int32_t> left = {Grammar::kReturnNode};
  while (!left.empty()) {
    const int32_t at = left.back();
    left.pop_back();
    if (empty[at]) continue;
    empty[at] = true;
    sources.Each(at, [&](int32_t from) {
      const Node& node = nodes[from];
      if (node.kind == Kind::kSplit) left.push_back(from);
      if (node.kind == Kind::kCall && empty[node.next] && empty[node.other]) left.push_back(from);
    });
  }
  return empty;
}

// The first node of each rule that can come before a byte of the rule that begins at `begin`.
std::vector<int32_t> CalledFirst(const std::vector<Node>& nodes, const std::vector<bool>& empty,
                                 int32_t begin, std::vector<int32_t>* seen) {
  std::vector<int32_t> called, left = {begin};
  while (!left.empty()) {
    const int32_t at = left.back();
    left.pop_back();
    if (at < 0 || (*seen)[at] == begin) continue;
    (*seen)[at] = begin;
    const Node& node = nodes[at];
    if (node.kind == Kind::kSplit) {
      left.push_back(node.next);
      left.push_back(node.other);
    } else if (node.kind == Kind::kCall) {
      called.push_back(node.other);
      if (empty[node.other]) left.push_back(node.next);
    }
  }
  return called;
}

// A part that can begin with itself, or -1.
int FindLeftRecursion(const std::vector<Node>& nodes,
                      const std::vector<NetworkBuilder::Part>& parts) {
  const std::vector<bool> empty = FindEmpty(nodes);
  std::vector<int32_t> seen(nodes.size(), -1), part_of(nodes.size(), -1);
  std::vector<std::vector<int32_t>> called;
  for (size_t i = 0; i < parts.size(); ++i) part_of[parts[i].begin] = static_cast<int32_t>(i);
  for (const auto& part : parts) called.push_back(CalledFirst(nodes, empty, part.begin, &seen));
  // Parts whose calls have all been followed drop out; what is left after that goes in circles.
  std::vector<int> open(parts.size());
  std::vector<std::vector<int32_t>> callers(parts.size());
  std::vector<int32_t> done;
  for (size_t i = 0; i < parts.size(); ++i) {
    open[i] = static_cast<int>(called[i].size());
    if (open[i] == 0) done.push_back(static_cast<int32_t>(i));
    for (int32_t begin : called[i]) callers[part_of[begin]].push_back(static_cast<int32_t>(i));
  }
  while (!done.empty()) {
    const int32_t part = done.back();
    done.pop_back();
    for (int32_t caller : callers[part]) {
      if (--open[caller] == 0) done.push_back(caller);
    }
  }
  // Of these some only call what goes in circles: along open calls one comes to a circle.
  const auto first = std::find_if(open.begin(), open.end(), [](int n) { return n > 0; });
  if (first == open.end()) return -1;
  int32_t at = static_cast<int32_t>(first - open.begin());
  std::vector<bool> passed(parts.size());
  while (!passed[at]) {
    passed[at] = true;
    for (int32_t begin : called[at]) {
      if (open[part_of[begin]] == 0) continue;
      at = part_of[begin];
      break;
    }
  }
  return at;
}

// Whether a byte can come from `begin` on, by nodes that lead to an end.
bool HasBytes(const std::vector<Node>& nodes, int32_t begin) {
  std::vector<bool> seen(nodes.size());
  std::vector<int32_t> left = {begin};
  while (!left.empty()) {
    const int32_t at = left.back();
    left.pop_back();
    if (at < 0 || seen[at] || nodes[at].height == Grammar::kNoWay) continue;
    seen[at] = true;
    if (nodes[at].kind == Kind::kBytes) return true;
    left.push_back(nodes[at].next);
    left.push_back(nodes[at].other);
  }
  return false;
}

}  // namespace

absl::StatusOr<Grammar> Grammar::Compile(const GrammarRules& rules) {
  NetworkBuilder builder(rules);
  if (!builder.Run()) {
    return absl::InvalidArgumentError(
        absl::StrCat("it is too large: more than ", kMaxGrammarNodes, " nodes when compiled"));
  }
  Grammar grammar;
  grammar.nodes_ = std::move(builder.nodes());
  grammar.start_ = builder.parts()[0].begin;
  const int circle = FindLeftRecursion(grammar.nodes_, builder.parts());
  if (circle >= 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("rule ", builder.parts()[circle].name,
                     " can begin with itself (left recursion); put something before it"));
  }
  FindHeights(&grammar.nodes_);
  if (grammar.nodes_[grammar.start_].height == kNoWay) {
    return absl::InvalidArgumentError(absl::StrCat(
        "no text matches it, or none that nests at most ", kMaxGrammarDepth, " levels deep"));
  }
  if (!HasBytes(grammar.nodes_, grammar.start_)) {
    return absl::InvalidArgumentError("the empty text alone matches it");
  }
  grammar.FindClasses();
  return grammar;
}

void Grammar::FindClasses() {
  std::array<bool, 257> begins = {};
  begins[0] = true;
  for (const Node& node : nodes_) {
    if (node.kind != Node::Kind::kBytes) continue;
    begins[node.first] = begins[node.last + 1] = true;
  }
  for (int byte = 0; byte < 256; ++byte) {
    if (begins[byte]) class_bytes_.push_back(static_cast<uint8_t>(byte));
    classes_[byte] = static_cast<uint8_t>(class_bytes_.size() - 1);
  }
}

}  // namespace packrat
