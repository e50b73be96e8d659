#include "models/text/bpe_cuts.h"

#include <utility>

namespace packrat {
namespace {

using Behavior = TextSplitter::Behavior;

constexpr size_t kMaxSteps = 16;
// The pattern that `use_regex` means.
constexpr char kGpt2Pattern[] =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
// What the pre-tokenizer Punctuation cuts at: Unicode's, and ASCII's symbols.
constexpr char kPunctuation[] = R"([!-/:-@\[-`{-~\p{P}])";

}  // namespace

absl::Status BpeCuts::Read(const Json& json) {
  ReadNormalizer(Member(json, "normalizer"), "normalizer");
  if (Ok()) ReadPreTokenizer(Member(json, "pre_tokenizer"), "pre_tokenizer");
  out_->over_bytes_ = byte_level_;
  return status_;
}

void BpeCuts::ReadNormalizer(const Json& json, const std::string& where) {
  if (json.is_null()) return;
  if (Is(json, "Sequence")) {
    return ReadSequence(json, where, "normalizers",
                        [this](const Json& item, const auto& name) { ReadNormalizer(item, name); });
  }
  JsonFields fields(json, where);
  for (const auto& [name, form] : {std::pair("NFC", UnicodeForm::kNfc),
                                   {"NFD", UnicodeForm::kNfd},
                                   {"NFKC", UnicodeForm::kNfkc},
                                   {"NFKD", UnicodeForm::kNfkd}}) {
    if (!Is(json, name)) continue;
    OnlyKeys(json, where, {"type"});
    out_->normalizer_.AddForm(form);
    return CheckSteps(out_->normalizer_, where);
  }
  if (Is(json, "Prepend")) {
    OnlyKeys(json, where, {"type", "prepend"});
    const std::string prefix = fields.String("prepend", "");
    if (prefix.empty() || prefix.size() > kMaxInserted) {
      fields.Fail("prepend", absl::StrCat("must have 1 to ", kMaxInserted, " bytes"));
    }
    out_->normalizer_.AddPrepend(prefix);
    CheckSteps(out_->normalizer_, where);
  } else if (Is(json, "Replace")) {
    ReadReplace(json, where, &out_->normalizer_);
  } else {
    Fail(where + ".type",
         absl::StrCat(Type(json), " is not supported; NFC, NFD, NFKC, NFKD, Prepend, Replace ",
                      "and Sequence are"));
  }
  Keep(fields);
}

void BpeCuts::AddStep(Bpe::Step step, const std::string& where) {
  if (out_->steps_.size() == kMaxSteps) return Fail(where, "too many steps");
  out_->steps_.push_back(std::move(step));
}

void BpeCuts::AddPattern(const std::string& pattern, Behavior behavior, bool invert,
                         const std::string& where) {
  auto splitter = TextSplitter::Create(pattern, behavior, invert);
  if (!splitter.ok()) return Fail(where, std::string(splitter.status().message()));
  Bpe::Step step;
  step.splitter = *std::move(splitter);
  AddStep(std::move(step), where);
}

void BpeCuts::ReadPreTokenizer(const Json& json, const std::string& where) {
  if (json.is_null()) return;
  if (Is(json, "Sequence")) {
    return ReadSequence(json, where, "pretokenizers", [this](const Json& item, const auto& name) {
      ReadPreTokenizer(item, name);
    });
  }
  if (byte_level_ && (Is(json, "ByteLevel") || Is(json, "Metaspace"))) {
    return Fail(where + ".type", Type(json) + " is not supported after ByteLevel");
  }
  if (byte_level_ && !out_->cuts_characters_) {
    // What comes after ByteLevel sees the characters that bytes are written as.
    Bpe::Step step;
    step.bytes_to_characters = out_->cuts_characters_ = true;
    AddStep(std::move(step), where);
  }
  if (Is(json, "ByteLevel")) return ReadByteLevel(json, where);
  if (Is(json, "Split")) return ReadSplit(json, where);
  if (Is(json, "Metaspace")) return ReadMetaspace(json, where);
  JsonFields fields(json, where);
  if (Is(json, "Digits")) {
    OnlyKeys(json, where, {"type", "individual_digits"});
    const bool each = fields.Bool("individual_digits", false);
    Keep(fields);
    if (Ok()) {
      AddPattern("\\p{N}", each ? Behavior::kIsolated : Behavior::kContiguous, false, where);
    }
  } else if (Is(json, "Punctuation")) {
    OnlyKeys(json, where, {"type", "behavior"});
    const Behavior behavior = ReadBehavior(&fields, "Isolated");
    Keep(fields);
    if (Ok()) AddPattern(kPunctuation, behavior, false, where);
  } else {
    Fail(where + ".type",
         absl::StrCat(Type(json), " is not supported; ByteLevel, Metaspace, Split, Digits, ",
                      "Punctuation and Sequence are"));
  }
}

void BpeCuts::ReadByteLevel(const Json& json, const std::string& where) {
  byte_level_ = true;
  OnlyKeys(json, where, {"type", "add_prefix_space", "trim_offsets", "use_regex"});
  JsonFields fields(json, where);
  const bool prefix_space = fields.Bool("add_prefix_space", true);
  const bool use_regex = fields.Bool("use_regex", true);
  Keep(fields);
  if (Ok() && prefix_space) {
    Bpe::Step step;
    step.where = Bpe::Step::Prefix::kAlways;
    step.prefix = " ";
    AddStep(std::move(step), where);
  }
  if (Ok() && use_regex) AddPattern(kGpt2Pattern, Behavior::kIsolated, false, where);
}

Behavior BpeCuts::ReadBehavior(JsonFields* fields, const std::string& by_default) {
  const std::string name = fields->String("behavior", by_default);
  for (const auto& [known, behavior] : {std::pair("Isolated", Behavior::kIsolated),
                                        {"Removed", Behavior::kRemoved},
                                        {"Contiguous", Behavior::kContiguous},
                                        {"MergedWithPrevious", Behavior::kMergedWithPrevious},
                                        {"MergedWithNext", Behavior::kMergedWithNext}}) {
    if (name == known) return behavior;
  }
  fields->Fail("behavior",
               absl::StrCat("is ", Quoted(name), "; must be Isolated, Removed, Contiguous, ",
                            "MergedWithPrevious or MergedWithNext"));
  return Behavior::kIsolated;
}

void BpeCuts::ReadSplit(const Json& json, const std::string& where) {
  OnlyKeys(json, where, {"type", "pattern", "behavior", "invert"});
  JsonFields fields(json, where);
  const Json& regex = Member(Member(json, "pattern"), "Regex");
  const Json& plain = Member(Member(json, "pattern"), "String");
  if (regex.is_string() == plain.is_string()) {
    fields.Fail("pattern", "must be an object with a Regex or a String");
  }
  const Behavior behavior = ReadBehavior(&fields, "");
  const bool invert = fields.Bool("invert", false);
  Keep(fields);
  if (!Ok()) return;
  const std::string pattern =
      regex.is_string() ? regex.get<std::string>() : PatternOfText(plain.get<std::string>());
  AddPattern(pattern, behavior, invert, where + ".pattern");
}

void BpeCuts::ReadMetaspace(const Json& json, const std::string& where) {
  // Files older than `prepend_scheme` have `add_prefix_space`.
  OnlyKeys(json, where, {"type", "replacement", "prepend_scheme", "split", "add_prefix_space"});
  JsonFields fields(json, where);
  Bpe::Step step;
  step.space = step.prefix = fields.String("replacement", "\xe2\x96\x81");
  if (step.space.empty() || step.space.size() > 4) {
    fields.Fail("replacement", "must be one character");
  }
  const std::string scheme = fields.String("prepend_scheme", "always");
  const bool prefixed = fields.Bool("add_prefix_space", scheme != "never");
  if (scheme != "always" && scheme != "first" && scheme != "never") {
    fields.Fail("prepend_scheme",
                absl::StrCat("is ", Quoted(scheme), "; must be always, first or never"));
  } else if (prefixed != (scheme != "never")) {
    fields.Fail("prepend_scheme", "and add_prefix_space contradict each other");
  }
  step.where = scheme == "always"  ? Bpe::Step::Prefix::kAlways
               : scheme == "first" ? Bpe::Step::Prefix::kFirst
                                   : Bpe::Step::Prefix::kNever;
  step.before_spaces = fields.Bool("split", true);
  Keep(fields);
  if (Ok()) AddStep(std::move(step), where);
}

}  // namespace packrat
