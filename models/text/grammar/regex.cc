#include "models/text/grammar/regex.h"

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "models/text/grammar/text_reader.h"

namespace packrat {
namespace {

CharacterSet Digits() { return {{'0', '9'}}; }
CharacterSet WordCharacters() {
  return MakeCharacterSet({{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}});
}
CharacterSet Spaces() { return MakeCharacterSet({{'\t', '\r'}, {' ', ' '}}); }
// As ECMAScript and Python have them: none of them is no space, for whoever checks the text.
CharacterSet AllSpaces() {
  return MakeCharacterSet({{'\t', '\r'},
                           {0x1c, ' '},
                           {0x85, 0x85},
                           {0xa0, 0xa0},
                           {0x1680, 0x1680},
                           {0x2000, 0x200a},
                           {0x2028, 0x2029},
                           {0x202f, 0x202f},
                           {0x205f, 0x205f},
                           {0x3000, 0x3000},
                           {0xfeff, 0xfeff}});
}

class RegexParser {
 public:
  RegexParser(absl::string_view pattern, const RegexOptions& options, GrammarRules* rules)
      : pattern_(pattern), reader_(pattern), options_(options), rules_(rules) {}

  absl::StatusOr<GrammarRules::Id> Parse() {
    const Id id = ParseChoice(0);
    if (status_.ok() && reader_.Peek() == ')') Fail("a group is closed that was not opened");
    if (!status_.ok()) return status_;
    return id;
  }

 private:
  using Id = GrammarRules::Id;

  void Fail(absl::string_view why) { FailAt(reader_.at(), why); }
  void FailAt(size_t at, absl::string_view why) {
    if (status_.ok()) status_ = reader_.ErrorAt(at, why);
  }

  Id Characters(const CharacterSet& set) {
    return options_.characters ? options_.characters(set, rules_) : rules_->Characters(set);
  }
  Id Anything() { return rules_->Repeat(Characters(AllCharacters()), 0, GrammarRules::kUnbounded); }

  Id ParseChoice(int depth) {
    std::vector<Id> parts;
    do {
      parts.push_back(ParseSequence(depth));
    } while (status_.ok() && reader_.Skip("|"));
    return rules_->Choice(std::move(parts));
  }

  // Anchors stand at the ends of the whole pattern's alternatives.
  Id ParseSequence(int depth) {
    std::vector<Id> parts;
    const bool begins = depth == 0 && reader_.Skip("^");
    if (depth == 0 && options_.search && !begins) parts.push_back(Anything());
    bool ends = false;
    while (status_.ok() && !reader_.done() && reader_.Peek() != '|' && reader_.Peek() != ')') {
      const size_t begin = reader_.at();
      if (reader_.Skip("^")) {
        FailAt(begin, "^ is supported at the beginning of the pattern or of its alternatives only");
      } else if (reader_.Skip("$")) {
        ends = depth == 0 && (reader_.done() || reader_.Peek() == '|');
        if (!ends) {
          FailAt(begin, "$ is supported at the end of the pattern or of its alternatives only");
        }
      } else {
        Id part = ParsePart(depth);
        if (status_.ok()) part = ParseRepeat(part);
        parts.push_back(part);
      }
    }
    if (depth == 0 && options_.search && !ends) parts.push_back(Anything());
    return rules_->Sequence(std::move(parts));
  }

  Id ParsePart(int depth) {
    const size_t begin = reader_.at();
    if (reader_.Skip("(")) return ParseGroup(depth, begin);
    if (reader_.Skip("[")) return Characters(ParseClass(begin));
    if (reader_.Skip(".")) {
      return Characters(Complement({{'\n', '\n'}}));
    }
    if (reader_.Peek() == '\\') {
      CharacterSet set;
      const int64_t character = ParseEscape(/*in_class=*/false, &set);
      return Characters(character < 0 ? set
                                      : CharacterSet{{static_cast<uint32_t>(character),
                                                      static_cast<uint32_t>(character)}});
    }
    const char c = reader_.Peek();
    if (c == '*' || c == '+' || c == '?' || c == '{') Fail("there is nothing to repeat");
    if (c == '}' || c == ']')
      Fail(absl::StrCat("write \\", std::string(1, c), " for the character"));
    if (!status_.ok()) return 0;
    const uint32_t character = reader_.Character();
    return Characters({{character, character}});
  }

  Id ParseGroup(int depth, size_t begin) {
    if (depth == kMaxGrammarNesting) {
      FailAt(begin, absl::StrCat("groups nest deeper than ", kMaxGrammarNesting));
      return 0;
    }
    if (reader_.Skip("?") && !reader_.Skip(":")) {
      if (reader_.Skip("=") || reader_.Skip("!") || reader_.Skip("<=") || reader_.Skip("<!")) {
        FailAt(begin, "look-around is not supported");
      } else if (reader_.Skip("P<") || reader_.Skip("<")) {
        while (absl::ascii_isalnum(reader_.Peek()) || reader_.Peek() == '_') reader_.Character();
        if (!reader_.Skip(">")) FailAt(begin, "a group's name is of a-z A-Z 0-9 _ and ends with >");
      } else {
        FailAt(begin, "of groups that begin with (? these are supported: (?: (?P<name> (?<name>");
      }
    }
    if (!status_.ok()) return 0;
    const Id id = ParseChoice(depth + 1);
    if (status_.ok() && !reader_.Skip(")")) FailAt(begin, "a group is not closed");
    return id;
  }

  Id ParseRepeat(Id part) {
    RepeatCounts counts{0, GrammarRules::kUnbounded};
    const size_t begin = reader_.at();
    if (reader_.Skip("+")) {
      counts.min = 1;
    } else if (reader_.Skip("?")) {
      counts.max = 1;
    } else if (reader_.Skip("{")) {
      const absl::StatusOr<RepeatCounts> read = ReadRepeat(&reader_, /*spaces=*/false);
      if (!read.ok()) {
        status_ = read.status();
        return part;
      }
      counts = *read;
    } else if (!reader_.Skip("*")) {
      return part;
    }
    reader_.Skip("?");  // Lazy or not, the same texts match.
    const char next = reader_.Peek();
    if (next == '+') {
      FailAt(begin, "possessive repeats are not supported");
    } else if (next == '*' || next == '?' || next == '{') {
      FailAt(begin, "a repeat of a repeat needs a group");
    }
    return rules_->Repeat(part, counts.min, counts.max);
  }

  // Behind a '\\'. A character, or -1 and a set.
  int64_t ParseEscape(bool in_class, CharacterSet* set) {
    const size_t begin = reader_.at();
    reader_.Skip("\\");
    if (reader_.done()) {
      FailAt(begin, "the pattern ends with a backslash");
      return 0;
    }
    const uint32_t c = reader_.Character();
    switch (c) {
      case 'd':
        *set = Digits();
        return -1;
      case 'D':
        *set = Complement(Digits());
        return -1;
      case 'w':
        *set = WordCharacters();
        return -1;
      case 'W':
        *set = Complement(WordCharacters());
        return -1;
      case 's':
        *set = Spaces();
        return -1;
      case 'S':
        *set = Complement(AllSpaces());
        return -1;
      case 'n':
        return '\n';
      case 'r':
        return '\r';
      case 't':
        return '\t';
      case 'f':
        return '\f';
      case 'v':
        return '\v';
      case 'x':
        return Unicode(begin, reader_.Hex(2));
      case 'u':
        return Unicode(begin, reader_.Hex(4));
      case 'U':
        return Unicode(begin, reader_.Hex(8));
      default:
        break;
    }
    if (c < 0x80 && !absl::ascii_isalnum(static_cast<unsigned char>(c))) return c;
    const std::string name =
        absl::StrCat("\\", pattern_.substr(begin + 1, reader_.at() - begin - 1));
    if (c < 0x80 && absl::ascii_isdigit(static_cast<unsigned char>(c)) && !in_class) {
      FailAt(begin, absl::StrCat("backreferences (", name, ") are not supported"));
    } else if (c == 'b' || c == 'B' || c == 'A' || c == 'Z' || c == 'z') {
      FailAt(begin, absl::StrCat(name, " is not supported: the pattern matches the whole text"));
    } else {
      FailAt(begin, absl::StrCat(name, " is not supported"));
    }
    return 0;
  }

  int64_t Unicode(size_t begin, int64_t value) {
    if (value >= 0 && value <= kLastCharacter && (value < 0xd800 || value > 0xdfff)) return value;
    FailAt(begin, "this escape is no character of Unicode");
    return 0;
  }

  CharacterSet ParseClass(size_t begin) {
    const bool negated = reader_.Skip("^");
    std::vector<CharacterRange> ranges;
    bool first = true;
    while (status_.ok()) {
      if (reader_.done()) {
        FailAt(begin, "a class is not closed");
        break;
      }
      // Where it comes first, some take a bracket for a character and others for the end.
      if (first && reader_.Peek() == ']') Fail("a class is empty; write \\] for the character");
      if (reader_.Skip("]")) break;
      first = false;
      if (reader_.Peek() == '[' && (reader_.Peek(1) == ':' || reader_.Peek(1) == '.')) {
        Fail("classes by name, [:...:], are not supported");
      }
      const size_t at = reader_.at();
      CharacterSet set;
      const int64_t low = ParseClassCharacter(&set);
      if (low < 0) {
        if (reader_.Peek() == '-' && reader_.Peek(1) != ']') FailAt(at, "a set ends no range");
        ranges.insert(ranges.end(), set.begin(), set.end());
        continue;
      }
      int64_t high = low;
      if (reader_.Peek() == '-' && reader_.Peek(1) != ']') {
        reader_.Skip("-");
        high = reader_.done() ? low : ParseClassCharacter(&set);
        if (high < low)
          FailAt(at, high < 0 ? "a set ends no range" : "a range ends before it begins");
      }
      if (status_.ok()) ranges.push_back({static_cast<uint32_t>(low), static_cast<uint32_t>(high)});
    }
    const CharacterSet set = MakeCharacterSet(std::move(ranges));
    return negated ? Complement(set) : set;
  }

  int64_t ParseClassCharacter(CharacterSet* set) {
    return reader_.Peek() == '\\' ? ParseEscape(/*in_class=*/true, set) : reader_.Character();
  }

  const absl::string_view pattern_;
  TextReader reader_;
  const RegexOptions& options_;
  GrammarRules* const rules_;
  absl::Status status_;
};

}  // namespace

absl::StatusOr<GrammarRules::Id> AddRegex(absl::string_view pattern, const RegexOptions& options,
                                          GrammarRules* rules) {
  return RegexParser(pattern, options, rules).Parse();
}

absl::StatusOr<GrammarRules> ParseRegex(absl::string_view pattern) {
  const absl::Status status = CheckGrammarText(pattern);
  if (!status.ok()) return status;
  GrammarRules rules;
  const int root = rules.AddRule("of the pattern");
  const absl::StatusOr<GrammarRules::Id> body = AddRegex(pattern, {}, &rules);
  if (!body.ok()) return body.status();
  rules.SetBody(root, *body);
  return rules;
}

}  // namespace packrat
