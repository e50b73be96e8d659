#include "models/text/tool_calls/tool_call_reader.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "models/text/tool_calls/json_call.h"
#include "models/text/tool_calls/written_call.h"

namespace packrat {
namespace {

// What Llama's template writes, and some of its models, before a call.
constexpr absl::string_view kPythonTag = "<|python_tag|>";
// Between a name and its arguments; the first, where it is, before an id.
constexpr absl::string_view kCallId = "[CALL_ID]", kArgs = "[ARGS]";

bool IsSpace(char c) { return absl::ascii_isspace(static_cast<unsigned char>(c)); }
bool IsNameByte(char c) {
  return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '-' || c == '.';
}

size_t EndWithoutSpace(absl::string_view text) {
  return absl::StripTrailingAsciiWhitespace(text).size();
}

// The bytes at the end of `text` that may be the beginning of `mark`.
size_t MarkBegun(absl::string_view text, absl::string_view mark) {
  for (size_t size = std::min(text.size(), mark.size() - 1); size > 0; --size) {
    if (absl::EndsWith(text, mark.substr(0, size))) return size;
  }
  return 0;
}

}  // namespace

ToolCallReader::ToolCallReader(const ToolFormat& format, Tools tools,
                               const std::optional<std::string>& begun)
    : format_(&format),
      tools_(std::move(tools)),
      state_(begun.has_value() ? State::kBetween : State::kText),
      held_(begun.value_or("")) {}
ToolCallReader::~ToolCallReader() = default;
ToolCallReader::ToolCallReader(ToolCallReader&&) noexcept = default;

std::vector<ToolCallReader::Piece> ToolCallReader::Push(absl::string_view text) {
  absl::StrAppend(&held_, text);
  Run(/*last=*/false);
  return std::exchange(pieces_, {});
}

std::vector<ToolCallReader::Piece> ToolCallReader::Finish() {
  Run(/*last=*/true);
  // A call that was told stays as it is; one that was not is text.
  if (state_ == State::kBetween) EndCalls();
  if (state_ != State::kText && !open_) AddText(absl::StrCat(raw_, rest()));
  return std::exchange(pieces_, {});
}

void ToolCallReader::Run(bool last) {
  while (at_ < held_.size() && Step(last)) {
  }
  held_.erase(0, at_);
  at_ = 0;
}

bool ToolCallReader::Step(bool last) {
  switch (state_) {
    case State::kText:
      return at_start_ && *format_->begin == '\0' ? ReadBegin(last) : ReadText(last);
    case State::kBetween:
      return ReadBetween(last);
    case State::kName:
      return ReadName();
    case State::kJson:
      return ReadJson();
    default:
      return ReadWritten();
  }
}

bool ToolCallReader::ReadText(bool last) {
  const absl::string_view begin = format_->begin;
  if (begin.empty()) {
    AddText(Take(rest().size()));
    return true;
  }
  const size_t mark = rest().find(begin);
  if (mark != absl::string_view::npos) {
    AddText(Take(EndWithoutSpace(rest().substr(0, mark))));
    const size_t spaces = rest().find(begin);
    raw_ = Take(spaces + begin.size());
    calls_before_ = calls_;
    state_ = State::kBetween;
    return true;
  }
  if (last) {
    // The line that a call ends with is no text of the answer.
    const std::string text = Take(rest().size());
    if (calls_ == 0 || EndWithoutSpace(text) > 0) AddText(text);
    return true;
  }
  const size_t certain = rest().size() - MarkBegun(rest(), begin);
  const size_t end = EndWithoutSpace(rest().substr(0, certain));
  AddText(Take(end));
  return false;
}

bool ToolCallReader::ReadBegin(bool last) {
  absl::string_view begin = absl::StripLeadingAsciiWhitespace(rest());
  if (!last && absl::StartsWith(kPythonTag, begin)) return false;
  absl::ConsumePrefix(&begin, kPythonTag);
  begin = absl::StripLeadingAsciiWhitespace(begin);
  if (!last && begin.empty()) return false;
  at_start_ = false;
  if (absl::StartsWith(begin, "{")) {
    raw_ = Take(rest().size() - begin.size());
    state_ = State::kBetween;
  }
  return true;
}

bool ToolCallReader::ReadBetween(bool last) {
  bool maybe = false;
  const absl::string_view begin = format_->begin, end = format_->end;
  if (At(end, &maybe)) {
    raw_ += Take(end.size());
    EndCalls();
    return true;
  }
  if (At(begin, &maybe)) {
    raw_ += Take(begin.size());
    return true;
  }
  if (format_->call == ToolFormat::Call::kMarked && At(kMarkedBegin, &maybe)) {
    state_ = State::kMarked;
    searched_ = 0;
    return true;
  }
  if (maybe) {
    if (last) raw_ += Take(rest().size());
    return last;
  }
  const char c = rest()[0];
  if (IsSpace(c) || c == '[' || c == ']' || c == ',' || c == ';') {
    raw_ += Take(1);
  } else if (c == '{') {
    json_ = std::make_unique<JsonCall>();
    state_ = State::kJson;
    bare_ = open_ = arguments_ = false;
  } else if (format_->call == ToolFormat::Call::kNamed && IsNameByte(c)) {
    state_ = State::kName;
  } else if (format_->call == ToolFormat::Call::kPython && IsNameByte(c)) {
    python_ = std::make_unique<PythonCallEnd>();
    state_ = State::kPython;
    searched_ = 0;
  } else {
    EndCalls();
  }
  return true;
}

bool ToolCallReader::ReadName() {
  const size_t brace = rest().find('{');
  if (brace == absl::string_view::npos) return false;
  absl::string_view name = absl::StripAsciiWhitespace(rest().substr(0, brace));
  if (absl::ConsumeSuffix(&name, kArgs)) name = name.substr(0, name.find(kCallId));
  name = absl::StripAsciiWhitespace(name);
  const std::string known(name);
  raw_ += Take(brace);
  if (tools_.count(known) == 0) {
    GiveUp();
    return true;
  }
  json_ = std::make_unique<JsonCall>();
  for (const char c : absl::string_view(R"({"arguments":)")) json_->Feed(c);
  state_ = State::kJson;
  arguments_ = false;
  bare_ = true;
  BeginCall(known);
  return true;
}

bool ToolCallReader::ReadJson() {
  JsonCall::Progress progress = JsonCall::Progress::kGoesOn;
  while (progress == JsonCall::Progress::kGoesOn && at_ < held_.size()) {
    const char c = held_[at_++];
    if (!open_) raw_ += c;
    progress = json_->Feed(c);
    if (!open_ && json_->name().has_value()) {
      if (tools_.count(*json_->name()) == 0) {
        progress = JsonCall::Progress::kBroken;
      } else {
        BeginCall(*json_->name());
      }
    }
    if (bare_ && !json_->in_value()) progress = JsonCall::Progress::kEnds;
  }
  if (open_) AddArguments(json_->TakeArguments());
  if (progress == JsonCall::Progress::kGoesOn) return false;
  if (!open_) {
    GiveUp();
    return true;
  }
  if (progress == JsonCall::Progress::kEnds && !arguments_) AddArguments("{}");
  open_ = false;
  state_ = progress == JsonCall::Progress::kEnds ? State::kBetween : State::kText;
  return true;
}

bool ToolCallReader::ReadWritten() {
  const bool marked = state_ == State::kMarked;
  size_t end = absl::string_view::npos;
  if (marked) {
    const size_t found = rest().find(kMarkedEnd, searched_);
    if (found != absl::string_view::npos) end = found + sizeof kMarkedEnd - 1;
    // Less what may have begun.
    searched_ = rest().size() - std::min(rest().size(), sizeof kMarkedEnd - 1);
  } else {
    for (; searched_ < rest().size() && end == absl::string_view::npos; ++searched_) {
      if (python_->Feed(rest()[searched_])) end = searched_ + 1;
    }
  }
  if (end == absl::string_view::npos) return false;
  const std::string text = Take(end);
  const auto call = marked ? ReadMarkedCall(text, tools_) : ReadPythonCall(text);
  if (!call.has_value() || tools_.count(call->name) == 0) {
    raw_ += text;
    GiveUp();
    return true;
  }
  BeginCall(call->name);
  AddArguments(call->arguments.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
  open_ = false;
  state_ = State::kBetween;
  return true;
}

void ToolCallReader::EndCalls() {
  if (calls_ > calls_before_) raw_.clear();
  GiveUp();
}

void ToolCallReader::GiveUp() {
  AddText(std::exchange(raw_, ""));
  state_ = State::kText;
}

std::string ToolCallReader::Take(size_t bytes) {
  std::string taken = held_.substr(at_, bytes);
  at_ += bytes;
  return taken;
}

bool ToolCallReader::At(absl::string_view mark, bool* maybe) const {
  if (mark.empty()) return false;
  if (absl::StartsWith(rest(), mark)) return true;
  if (absl::StartsWith(mark, rest())) *maybe = true;
  return false;
}

void ToolCallReader::AddText(absl::string_view text) {
  if (text.empty()) return;
  if (pieces_.empty() || pieces_.back().call >= 0) pieces_.push_back({});
  absl::StrAppend(&pieces_.back().text, text);
}

void ToolCallReader::BeginCall(const std::string& name) {
  pieces_.push_back({calls_++, name, ""});
  open_ = true;
  raw_.clear();
}

void ToolCallReader::AddArguments(absl::string_view text) {
  if (text.empty()) return;
  arguments_ = true;
  // Behind the call's beginning, or what came of it before.
  if (pieces_.empty()) pieces_.push_back({calls_ - 1, "", ""});
  absl::StrAppend(&pieces_.back().text, text);
}

}  // namespace packrat
