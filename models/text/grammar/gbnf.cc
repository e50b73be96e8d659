#include "models/text/grammar/gbnf.h"

#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "models/text/grammar/json_schema.h"
#include "models/text/grammar/special_token.h"
#include "models/text/grammar/text_reader.h"

namespace packrat {
namespace {

constexpr char kRoot[] = "root";

bool IsNameCharacter(char c) { return absl::ascii_isalnum(c) || c == '-' || c == '_'; }

class GbnfParser {
 public:
  explicit GbnfParser(absl::string_view text) : text_(text), reader_(text) {}

  absl::StatusOr<GrammarRules> Parse() {
    RuleOf(kRoot, 0);
    for (SkipSpace(true); status_.ok() && !reader_.done(); SkipSpace(true)) ParseRule();
    if (!status_.ok()) return status_;
    for (const auto& [number, at] : named_at_) {
      const GrammarRules::Rule& rule = rules_.rules()[number];
      if (rule.body >= 0) continue;
      if (number == 0) return absl::InvalidArgumentError("there is no rule root");
      return reader_.ErrorAt(at, absl::StrCat("there is no rule ", rule.name));
    }
    return std::move(rules_);
  }

 private:
  using Id = GrammarRules::Id;

  void Fail(absl::string_view why) { FailAt(reader_.at(), why); }
  void FailAt(size_t at, absl::string_view why) {
    if (status_.ok()) status_ = reader_.ErrorAt(at, why);
  }

  // Blanks and comments.
  void SkipSpace(bool newlines) {
    while (true) {
      if (reader_.Peek() == '#') {
        while (!reader_.done() && reader_.Peek() != '\n' && reader_.Peek() != '\r') {
          reader_.Character();
        }
      } else if (!reader_.Skip(" ") && !reader_.Skip("\t") &&
                 !(newlines && (reader_.Skip("\n") || reader_.Skip("\r")))) {
        return;
      }
    }
  }

  absl::string_view ReadName() {
    const size_t begin = reader_.at();
    while (IsNameCharacter(reader_.Peek())) reader_.Character();
    return text_.substr(begin, reader_.at() - begin);
  }

  int RuleOf(absl::string_view name, size_t at) {
    const auto [place, added] = names_.try_emplace(std::string(name), -1);
    if (added) {
      place->second = rules_.AddRule(std::string(name));
      named_at_.emplace_back(place->second, at);
    }
    return place->second;
  }

  void ParseRule() {
    const size_t begin = reader_.at();
    const absl::string_view name = ReadName();
    if (name.empty()) return Fail("a rule begins with its name, of a-z A-Z 0-9 - _");
    SkipSpace(false);
    if (!reader_.Skip("::=")) return Fail("\"::=\" is missing behind a rule's name");
    SkipSpace(true);
    const int rule = RuleOf(name, begin);
    if (rules_.rules()[rule].body >= 0) {
      return FailAt(begin, absl::StrCat("rule ", name, " is there twice"));
    }
    rules_.SetBody(rule, ParseChoice(0));
    SkipSpace(false);
    const char next = reader_.Peek();
    if (!reader_.done() && next != '\n' && next != '\r') Fail("this belongs to no rule");
  }

  // In a group a line may end anywhere.
  Id ParseChoice(int depth) {
    std::vector<Id> parts;
    do {
      SkipSpace(true);
      parts.push_back(ParseSequence(depth));
    } while (status_.ok() && reader_.Skip("|"));
    return rules_.Choice(std::move(parts));
  }

  Id ParseSequence(int depth) {
    std::vector<Id> parts;
    int repeats = 0;  // Of the last part.
    while (status_.ok()) {
      SkipSpace(depth > 0);
      const size_t begin = reader_.at();
      const char c = reader_.Peek();
      if (reader_.Skip("\"")) {
        parts.push_back(ParseLiteral());
      } else if (reader_.Skip("[")) {
        parts.push_back(ParseClass());
      } else if (reader_.Skip(".")) {
        parts.push_back(rules_.Characters(AllCharacters()));
      } else if (reader_.Skip("(")) {
        if (depth == kMaxGrammarNesting) {
          FailAt(begin, absl::StrCat("groups nest deeper than ", kMaxGrammarNesting));
          break;
        }
        parts.push_back(ParseChoice(depth + 1));
        SkipSpace(true);
        if (status_.ok() && !reader_.Skip(")")) Fail("a group is not closed");
      } else if (reader_.Skip("%json-line")) {
        parts.push_back(ParseSchema(JsonSpacing::kLine));
      } else if (reader_.Skip("%json")) {
        parts.push_back(ParseSchema(JsonSpacing::kAny));
      } else if (IsNameCharacter(c)) {
        parts.push_back(rules_.Call(RuleOf(ReadName(), begin)));
      } else if (reader_.Skip("<[")) {
        parts.push_back(ParseToken());
      } else if (c == '<' || c == '!') {
        Fail("of tokens only <[ID]> is supported, for special ones; write the text of others");
      } else if (c == '*' || c == '+' || c == '?' || c == '{') {
        ParseRepeat(&parts);
        if (++repeats > kMaxGrammarNesting) FailAt(begin, "too many repeats of one part");
        continue;
      } else {
        break;
      }
      repeats = 0;
    }
    return rules_.Sequence(std::move(parts));
  }

  void ParseRepeat(std::vector<Id>* parts) {
    if (parts->empty()) return Fail("there is nothing to repeat");
    RepeatCounts counts{0, GrammarRules::kUnbounded};
    if (reader_.Skip("+")) {
      counts.min = 1;
    } else if (reader_.Skip("?")) {
      counts.max = 1;
    } else if (!reader_.Skip("*")) {
      reader_.Skip("{");
      const absl::StatusOr<RepeatCounts> read = ReadRepeat(&reader_, /*spaces=*/true);
      if (!read.ok()) {
        status_ = read.status();
        return;
      }
      counts = *read;
    }
    // Each repeats what the one before has made of it.
    parts->back() = rules_.Repeat(parts->back(), counts.min, counts.max);
  }

  // One character, escaped or not.
  uint32_t ParseCharacter() {
    const size_t begin = reader_.at();
    if (reader_.done()) {
      Fail("a text or class is not closed");
      return 0;
    }
    const uint32_t c = reader_.Character();
    if (c != '\\') return c;
    const char escape = reader_.Peek();
    if (reader_.done()) {
      Fail("a text or class is not closed");
      return 0;
    }
    reader_.Character();
    int64_t value = -1;
    switch (escape) {
      case 'x':
        value = reader_.Hex(2);
        break;
      case 'u':
        value = reader_.Hex(4);
        break;
      case 'U':
        value = reader_.Hex(8);
        break;
      case 't':
        return '\t';
      case 'r':
        return '\r';
      case 'n':
        return '\n';
      case '\\':
      case '"':
      case '[':
      case ']':
      case '-':
      case '^':
        return static_cast<unsigned char>(escape);
      default:
        FailAt(begin,
               "unknown escape; known are \\n \\r \\t \\\\ \\\" \\[ \\] \\- \\^ \\xHH \\uHHHH "
               "\\UHHHHHHHH");
        return 0;
    }
    const bool surrogate = value >= 0xd800 && value <= 0xdfff;
    if (value < 0 || value > kLastCharacter || surrogate) {
      FailAt(begin, "this escape is no character of Unicode");
      return 0;
    }
    return static_cast<uint32_t>(value);
  }

  Id ParseLiteral() {
    std::string literal;
    while (status_.ok() && !reader_.Skip("\"")) AppendUtf8(ParseCharacter(), &literal);
    return rules_.Literal(literal);
  }

  // Behind "<[".
  Id ParseToken() {
    const size_t begin = reader_.at();
    const int64_t id = reader_.Number();
    if (id < 0 || !reader_.Skip("]>")) {
      FailAt(begin, "\"<[\" is followed by a token's id and \"]>\"");
      return 0;
    }
    return rules_.Literal(SpecialTokenBytes(static_cast<int32_t>(id)));
  }

  Id ParseClass() {
    const bool negated = reader_.Skip("^");
    std::vector<CharacterRange> ranges;
    while (status_.ok() && !reader_.Skip("]")) {
      const size_t begin = reader_.at();
      const uint32_t first = ParseCharacter();
      uint32_t last = first;
      if (reader_.Peek() == '-' && reader_.Peek(1) != ']') {
        reader_.Skip("-");
        last = ParseCharacter();
      }
      if (last < first) FailAt(begin, "a range ends before it begins");
      ranges.push_back({first, last});
    }
    CharacterSet set = MakeCharacterSet(std::move(ranges));
    return rules_.Characters(negated ? Complement(set) : std::move(set));
  }

  // Behind %json or %json-line.
  Id ParseSchema(JsonSpacing spacing) {
    SkipSpace(true);
    const size_t begin = reader_.at();
    bool in_string = false;
    int depth = 0;
    do {
      const char c = reader_.Peek();
      if (reader_.done() || (depth == 0 && c != '{')) {
        FailAt(begin, "%json is followed by a schema in braces");
        return 0;
      }
      reader_.Character();
      if (c == '"') in_string = !in_string;
      if (in_string && c == '\\' && !reader_.done()) reader_.Character();
      if (!in_string && (c == '{' || c == '}')) depth += c == '{' ? 1 : -1;
    } while (depth > 0);
    const absl::StatusOr<Id> schema =
        AddJsonSchema(text_.substr(begin, reader_.at() - begin), spacing, &rules_);
    if (schema.ok()) return *schema;
    FailAt(begin, absl::StrCat("%json: ", schema.status().message()));
    return 0;
  }

  const absl::string_view text_;
  TextReader reader_;
  GrammarRules rules_;
  absl::flat_hash_map<std::string, int> names_;
  std::vector<std::pair<int, size_t>> named_at_;  // Rules, and where each is named first.
  absl::Status status_;
};

}  // namespace

absl::StatusOr<GrammarRules> ParseGbnf(absl::string_view text) {
  const absl::Status status = CheckGrammarText(text);
  if (!status.ok()) return status;
  return GbnfParser(text).Parse();
}

}  // namespace packrat
