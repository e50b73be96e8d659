#include "models/text/bpe_cuts.h"

#include <utility>

namespace packrat {
namespace {

constexpr size_t kMaxSteps = 16;
// The pattern that `use_regex` means.
constexpr char kGpt2Pattern[] =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

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
  if (Is(json, "NFC")) {
    OnlyKeys(json, where, {"type"});
    out_->normalizer_.AddNfc();
  } else if (Is(json, "Prepend")) {
    OnlyKeys(json, where, {"type", "prepend"});
    const std::string prefix = fields.String("prepend", "");
    if (prefix.empty() || prefix.size() > kMaxInserted) {
      fields.Fail("prepend", absl::StrCat("must have 1 to ", kMaxInserted, " bytes"));
    }
    out_->normalizer_.AddPrepend(prefix);
  } else if (Is(json, "Replace")) {
    ReadReplace(json, where, &out_->normalizer_);
  } else {
    Fail(where + ".type",
         absl::StrCat(Type(json), " is not supported; NFC, Prepend, Replace and Sequence are"));
  }
  Keep(fields);
}

void BpeCuts::AddStep(Bpe::Step step, const std::string& where) {
  if (out_->steps_.size() == kMaxSteps) return Fail(where, "too many steps");
  out_->steps_.push_back(std::move(step));
}

void BpeCuts::AddPattern(const std::string& pattern, bool keep_gaps, const std::string& where) {
  auto splitter = TextSplitter::Create(pattern, keep_gaps);
  if (!splitter.ok()) return Fail(where, std::string(splitter.status().message()));
  Bpe::Step step;
  step.splitter = *std::move(splitter);
  AddStep(std::move(step), where);
}

void BpeCuts::ReadPreTokenizer(const Json& json, const std::string& where) {
  if (byte_level_) return Fail(where, "nothing may come after ByteLevel");
  if (json.is_null()) return;
  if (Is(json, "Sequence")) {
    return ReadSequence(json, where, "pretokenizers", [this](const Json& item, const auto& name) {
      ReadPreTokenizer(item, name);
    });
  }
  JsonFields fields(json, where);
  if (Is(json, "ByteLevel")) {
    byte_level_ = true;
    OnlyKeys(json, where, {"type", "add_prefix_space", "trim_offsets", "use_regex"});
    const bool prefix_space = fields.Bool("add_prefix_space", true);
    const bool use_regex = fields.Bool("use_regex", true);
    Keep(fields);
    if (Ok() && prefix_space) {
      Bpe::Step step;
      step.where = Bpe::Step::Prefix::kAlways;
      step.prefix = " ";
      AddStep(std::move(step), where);
    }
    if (Ok() && use_regex) AddPattern(kGpt2Pattern, true, where);
  } else if (Is(json, "Split")) {
    ReadSplit(json, where);
  } else if (Is(json, "Metaspace")) {
    ReadMetaspace(json, where);
  } else if (Is(json, "Digits")) {
    OnlyKeys(json, where, {"type", "individual_digits"});
    const bool each = fields.Bool("individual_digits", false);
    Keep(fields);
    if (Ok()) AddPattern(each ? R"(\p{N})" : R"(\p{N}+)", true, where);
  } else {
    Fail(where + ".type",
         absl::StrCat(Type(json), " is not supported; ByteLevel, Metaspace, Split, ",
                      "Digits and Sequence are"));
  }
}

void BpeCuts::ReadSplit(const Json& json, const std::string& where) {
  OnlyKeys(json, where, {"type", "pattern", "behavior", "invert"});
  JsonFields fields(json, where);
  const Json& pattern = Member(Member(json, "pattern"), "Regex");
  if (!pattern.is_string()) {
    fields.Fail("pattern", "must be an object with a Regex; nothing else is supported");
  }
  const std::string behavior = fields.String("behavior", "");
  const bool invert = fields.Bool("invert", false);
  // Removed with invert: the text between matches is dropped.
  const bool removed = behavior == "Removed" && invert;
  if (behavior != "Isolated" && !removed) {
    fields.Fail("behavior", absl::StrCat("is ", Quoted(behavior),
                                         "; only Isolated, or Removed with invert, is supported"));
  }
  Keep(fields);
  if (Ok()) AddPattern(pattern.get<std::string>(), !removed, where + ".pattern.Regex");
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
