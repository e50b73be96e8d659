// What a grammar costs for each token: `grammar_bench DIR`, with the tokenizer of DIR. Of a mask
// that is there (warm) and of one that is found (cold); the sampler's part is in sampling_bench.
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "models/text/grammar/gbnf.h"
#include "models/text/grammar/grammar.h"
#include "models/text/grammar/json_schema.h"
#include "models/text/grammar/regex.h"
#include "models/text/grammar/token_grammar.h"
#include "models/text/tokenizer.h"

namespace packrat {
namespace {

// Microseconds of this thread alone, so that a busy machine disturbs little.
double Now() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) * 1e6 + static_cast<double>(time.tv_nsec) / 1e3;
}

double Median(std::vector<double> times) {
  if (times.empty()) return 0;
  std::nth_element(times.begin(), times.begin() + times.size() / 2, times.end());
  return times[times.size() / 2];
}

double Largest(const std::vector<double>& times) {
  return times.empty() ? 0 : *std::max_element(times.begin(), times.end());
}

int32_t RandomToken(absl::Span<const uint32_t> mask, std::mt19937_64* random) {
  std::vector<int32_t> ids;
  for (size_t id = 0; id < mask.size() * 32; ++id) {
    if (mask[id / 32] >> (id % 32) & 1) ids.push_back(static_cast<int32_t>(id));
  }
  return ids.empty() ? -1 : ids[(*random)() % ids.size()];
}

void Bench(const char* name, const GrammarRules& rules,
           const std::shared_ptr<const GrammarVocabulary>& vocabulary) {
  double start = Now();
  auto grammar = TokenGrammar::Create(*Grammar::Compile(rules), vocabulary);
  if (!grammar.ok()) {
    std::printf("%s: %s\n", name, std::string(grammar.status().message()).c_str());
    return;
  }
  const double compile = Now() - start;
  std::vector<double> warm, cold, work;
  std::mt19937_64 random(1);
  for (int text = 0; text < 200; ++text) {
    GrammarPosition position(*grammar);
    for (int step = 0; step < 60 && !position.must_end(); ++step) {
      const int64_t found = (*grammar)->masks_found();
      const int64_t before = (*grammar)->work();
      start = Now();
      const absl::Status status = position.FindMask({});
      const double first = Now() - start;
      if ((*grammar)->masks_found() > found) {
        cold.push_back(first);
        work.push_back(static_cast<double>((*grammar)->work() - before));
      }
      if (!status.ok()) {
        std::printf("%s: given up after %d tokens\n", name, step);
        break;
      }
      const int32_t token = RandomToken(position.mask(), &random);
      if (token < 0) break;
      start = Now();
      position.Accept(token);
      const double accept = Now() - start;
      if ((*grammar)->masks_found() == found) warm.push_back(first + accept);
    }
  }
  std::printf(
      "%-28s warm %7.2f us (%zu steps), cold %8.1f us (%zu masks), worst %8.1f us, work %.0f, "
      "worst %.0f; "
      "compiled with its first mask in %.1f ms; %.2f MiB\n",
      name, Median(warm), warm.size(), Median(cold), cold.size(), Largest(cold), Median(work),
      Largest(work), compile / 1e3, static_cast<double>((*grammar)->bytes()) / (1 << 20));
}

int Main(const char* dir) {
  auto tokenizer = Tokenizer::Load(dir, 1 << 19);
  if (!tokenizer.ok()) {
    std::fprintf(stderr, "%s\n", tokenizer.status().ToString().c_str());
    return 1;
  }
  const double start = Now();
  const auto vocabulary = std::make_shared<GrammarVocabulary>(**tokenizer);
  const double made = Now() - start;
  std::printf("%d ids: %zu nodes, %.2f MiB with slices of %.2f MiB, made in %.1f ms\n",
              vocabulary->trie.num_ids(), vocabulary->trie.all().nodes.size(),
              static_cast<double>(vocabulary->bytes()) / (1 << 20),
              static_cast<double>(vocabulary->slices.bytes()) / (1 << 20), made / 1e3);
  Bench("any JSON object", *ParseJsonSchema(R"({"type": "object"})"), vocabulary);
  Bench("schema of 6 properties", *ParseJsonSchema(R"({"type": "object", "properties": {
      "name": {"type": "string"}, "age": {"type": "integer", "minimum": 0, "maximum": 150},
      "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 5},
      "kind": {"enum": ["a", "b", "c"]}, "ok": {"type": "boolean"}, "score": {"type": "number"}},
      "required": ["name", "age", "tags", "kind", "ok", "score"]})"),
        vocabulary);
  Bench("string of 10 to 200", *ParseJsonSchema(R"({"type": "string", "minLength": 10,
      "maxLength": 200})"),
        vocabulary);
  Bench("regex of a date", *ParseRegex("\\d{4}-\\d\\d-\\d\\d"), vocabulary);
  Bench("regex of words", *ParseRegex("([a-z]+ )+[a-z]+\\."), vocabulary);
  Bench("regex of up to 300 letters", *ParseRegex("[A-Za-z]{1,300}"), vocabulary);
  Bench("regex of names", *ParseRegex("[A-Z][a-z]{1,20} [A-Z][a-z]{1,20}"), vocabulary);
  Bench("regex [A-Za-z0-9 ,.]{1,200}", *ParseRegex("[A-Za-z0-9 ,.]{1,200}"), vocabulary);
  Bench("GBNF lists", *ParseGbnf("root ::= (\"- \" [^\\n]+ \"\\n\"){3,9}"), vocabulary);
  Bench("ambiguous (.*){20}x", *ParseRegex("(.*){20}x"), vocabulary);
  Bench("hostile (.{0,9}){99}x", *ParseRegex("(.{0,9}){99}x"), vocabulary);
  Bench("hostile ((.?){60}){60}x", *ParseRegex("((.?){60}){60}x"), vocabulary);
  Bench("hostile (a|b|.a|.b)*.{300}", *ParseRegex("(a|b|.a|.b)*.{300}"), vocabulary);
  Bench("hostile nest",
        *ParseGbnf("root ::= a \nx ::= \"a\" | . y | x2\nx2 ::= . x\ny ::= . x?\n"
                   "a ::= (x (x | a) | . a?) \"z\"?"),
        vocabulary);
  return 0;
}

}  // namespace
}  // namespace packrat

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "grammar_bench DIR\n");
    return 2;
  }
  return packrat::Main(argv[1]);
}
