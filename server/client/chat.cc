#include "server/client/chat.h"

#include <unistd.h>

#include <iostream>
#include <optional>
#include <utility>

#include "absl/flags/flag.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "server/client/chat_files.h"
#include "server/client/commands.h"
#include "server/client/conversation.h"
#include "server/client/line_editor.h"
#include "server/client/request_flags.h"
#include "server/client/terminal_text.h"
#include "server/standard_output.h"

namespace packrat {
namespace {

constexpr char kHelp[] =
    "  /rewind [TURNS]  forget the last turn, or so many\n"
    "  /again           forget the last answer and ask for another one\n"
    "  /fork            a second conversation with the same text, in which you go on\n"
    "  /switch NUMBER   go on in another conversation\n"
    "  /save FILE       write what was said here into a new file; /save! also into an old one\n"
    "  /quit            leave; so does Ctrl-D, or Ctrl-C twice\n"
    "  //text           say a text that begins with /\n"
    "Ctrl-C stops an answer. Arrows bring back lines, Ctrl-R searches them.\n";

std::string Turns(int64_t count) { return absl::StrCat(count, count == 1 ? " turn" : " turns"); }

// What the server says of a template that has changed what was said before.
constexpr char kOtherText[] = "does not go on from what the session holds";

ChatStyle StyleFromFlags(bool in_session, bool has_template) {
  ChatStyle style;
  style.user_label = absl::GetFlag(FLAGS_user_label);
  style.reply_label = absl::GetFlag(FLAGS_reply_label);
  style.system = absl::GetFlag(FLAGS_system);
  if (has_template && style.user_label.empty() && style.reply_label.empty()) {
    style.form = ChatForm::kMessages;
  } else if (in_session) {
    style.form = ChatForm::kSession;
  }
  return style;
}

class Chat {
 public:
  Chat(Connection* connection, Signals* signals)
      : connection_(connection), signals_(signals), request_(RequestFromFlags()) {}

  // Returns the exit code; other than kExitOk: why is said.
  int Open();
  // To the end of standard input, or to the first turn that fails.
  int FromInput();
  int AtTerminal();

 private:
  ChatConversation& now() { return conversations_[current_]; }
  bool in_session() const { return request_.has_session(); }

  // By Ctrl-C or its deadline.
  bool Stopped(const Connection::Outcome& outcome) const {
    return connection_->cancelled() || absl::IsDeadlineExceeded(outcome.status);
  }
  int turns() {
    const bool all =
        style_.form != ChatForm::kSession;  // Those from before this chat are not here.
    return all ? static_cast<int>(now().turns()) : now().session.turns;
  }

  Connection::Outcome OpenSession();
  Connection::Outcome Turn(const std::string& line);
  Connection::Outcome Ask(const std::string& line, v1::GenerateResponse* reply);
  Connection::Outcome Refresh(v1::Session* session,
                              absl::Duration limit = absl::InfiniteDuration());
  void Settle(int keep);
  bool Done(const Connection::Outcome& outcome) const;
  void TurnAtTerminal(const std::string& line);
  bool Say(const std::string& line);
  // A line that begins with a slash. False: leave.
  bool Obey(const std::string& line);
  bool RewindSession(int turns, absl::Duration limit = absl::InfiniteDuration());
  bool Rewind(int count);
  void Again();
  void Fork();
  void Switch(const std::string& number);
  // `over`: also where the file is there.
  void Save(const std::string& argument, bool over);
  void Note(const std::string& text) const;

  Connection* const connection_;
  Signals* const signals_;
  v1::GenerateRequest request_;
  ChatStyle style_;
  std::vector<ChatConversation> conversations_;
  size_t current_ = 0;
  bool colors_ = false;
  bool stopped_ = false;     // By Ctrl-C, which is to be said.
  int exit_code_ = kExitOk;  // Other than kExitOk: nobody is there to talk to.
};

int Chat::Open() {
  v1::GetModelInfoResponse info;
  const Connection::Outcome outcome = connection_->GetModelInfo(&info);
  if (!outcome.status.ok()) return Report(*connection_, outcome);
  const bool has_template = info.tokenizer().has_chat_template();
  style_ = StyleFromFlags(request_.has_session(), has_template);
  const bool has_system = !style_.system.empty();
  if (has_system && !has_template) {
    return UsageError(absl::StrCat("--system is for a chat template, and the model ", info.name(),
                                   " has none; say it with the first line"));
  }
  if (has_system && style_.form != ChatForm::kMessages) {
    return UsageError("--system is a message; with --user_label or --reply_label there are none");
  }
  conversations_.emplace_back(style_);
  if (in_session()) {
    const Connection::Outcome opened = OpenSession();
    if (!opened.status.ok()) return Report(*connection_, opened);
    if (has_system && style_.form != ChatForm::kMessages) {
      return UsageError("--system begins a chat, and the session holds a text already");
    }
  }
  if (style_.form != ChatForm::kMessages) {
    // A reply is a paragraph that is not empty, unless flags say otherwise.
    if (request_.stop().strings().empty()) request_.mutable_stop()->add_strings("\n");
    if (!request_.stop().has_min_tokens()) request_.mutable_stop()->set_min_tokens(1);
  }
  return kExitOk;
}

Connection::Outcome Chat::OpenSession() {
  const bool made = request_.session() == "new";
  Connection::Outcome outcome = MakeSessionIfNew(connection_, &request_);
  now().session.handle = request_.session();
  v1::Session session;
  if (!made && outcome.status.ok()) outcome = Refresh(&session);
  if (style_.form == ChatForm::kMessages && now().session.has_text) {
    // Of which messages it was made, nobody here knows.
    style_.form = ChatForm::kSession;
    ChatConversation as_text(style_);
    as_text.session = now().session;
    conversations_ = {as_text};
  }
  return outcome;
}

// Asks the server for the session as it is.
Connection::Outcome Chat::Refresh(v1::Session* session, absl::Duration limit) {
  v1::GetSessionRequest get;
  get.set_session(now().session.handle);
  Connection::Outcome outcome = connection_->GetSession(get, session, limit);
  if (outcome.status.ok() && !session->busy()) {
    now().session.turns = session->num_turns();
    now().session.has_text = session->tokens() > 0;
  }
  return outcome;
}

Connection::Outcome Chat::Ask(const std::string& line, v1::GenerateResponse* reply) {
  now().Ask(line, &request_);
  Connection::Outcome outcome = Stream(connection_, request_, /*print=*/true, reply);
  if (!in_session() || style_.form != ChatForm::kMessages ||
      !absl::StrContains(outcome.status.message(), kOtherText)) {
    return outcome;
  }
  // Of an answer that was stopped the session may have more than was seen; what came before it is
  // the same.
  const int before = now().turns() > 0 ? now().SessionTurnsBefore(1) : 0;
  if (before > 0) {
    if (!RewindSession(before)) return outcome;
    outcome = Stream(connection_, request_, /*print=*/true, reply);
    if (!absl::StrContains(outcome.status.message(), kOtherText)) return outcome;
  }
  // A template that drops an earlier answer's thinking, for instance: the session gets all of what
  // it makes of the conversation now.
  if (!RewindSession(0)) return outcome;
  now().LeaveSession();
  return Stream(connection_, request_, /*print=*/true, reply);
}

Connection::Outcome Chat::Turn(const std::string& line) {
  v1::GenerateResponse reply;
  Connection::Outcome outcome = Ask(line, &reply);
  if (outcome.status.ok()) PrintStats(reply.finished());
  // A turn that was stopped stands as far as it came; see docs/sessions.md.
  if (outcome.status.ok() || (Stopped(outcome) && reply.token_ids_size() > 0)) {
    now().Add(line, reply.text());
    ++now().session.turns;
    now().session.has_text = true;
  }
  return outcome;
}

int Chat::FromInput() {
  for (std::string line; std::getline(std::cin, line);) {
    if (line.empty()) continue;
    const absl::Status valid = CheckUtf8("the line", line);
    if (!valid.ok()) return UsageError(std::string(valid.message()));
    const Connection::Outcome outcome = Turn(line);
    Print("\n");
    if (!outcome.status.ok()) return Report(*connection_, outcome);
  }
  const absl::Status read = CheckStandardInput();
  return read.ok() ? int{kExitOk} : UsageError(std::string(read.message()));
}

void Chat::Note(const std::string& text) const {
  Print(colors_ ? absl::StrCat("\033[2m", text, "\033[0m\n") : text + "\n");
}

// Whether a call has succeeded; if not, says why, but of Ctrl-C, which is said when all has ended.
bool Chat::Done(const Connection::Outcome& outcome) const {
  return outcome.status.ok() ||
         (!connection_->cancelled() && Report(*connection_, outcome) == kExitOk);
}

// After a turn that was stopped, which the server notices a moment later: of the session's turns
// these stay. A server that stands still is not waited for.
void Chat::Settle(int keep) {
  constexpr absl::Duration kLimit = absl::Seconds(5);
  const absl::Time give_up = absl::Now() + kLimit;
  v1::Session session;
  do {
    if (!Done(Refresh(&session, kLimit))) return;
    if (session.busy()) absl::SleepFor(absl::Milliseconds(20));
  } while (session.busy() && absl::Now() < give_up);
  if (session.num_turns() > keep) RewindSession(keep, kLimit);
}

void Chat::TurnAtTerminal(const std::string& line) {
  const absl::Status valid = CheckUtf8("the line", line);
  if (!valid.ok()) return Note(std::string(valid.message()));
  const Connection::Outcome outcome = Turn(line);
  Print("\n");
  stopped_ = connection_->cancelled();
  if (Stopped(outcome) && in_session()) {
    connection_->Resume();
    // The server may have sent something that did not come. If that was all, the turn is not one.
    Settle(now().session.turns);
  }
  if (stopped_) return;
  const int code = Report(*connection_, outcome);
  if (code == kExitNoServer) exit_code_ = code;
}

bool Chat::RewindSession(int turns, absl::Duration limit) {
  v1::RewindSessionRequest request;
  request.set_session(now().session.handle);
  request.set_turns(turns);
  v1::Session session;
  if (!Done(connection_->RewindSession(request, &session, limit))) return false;
  now().session.turns = session.num_turns();
  now().session.has_text = session.tokens() > 0;
  return true;
}

// Forgets the last turns; says why if there are fewer.
bool Chat::Rewind(int count) {
  if (count < 1 || count > turns()) {
    Note(absl::StrCat("[the conversation has ", Turns(turns()), "]"));
    return false;
  }
  if (in_session()) {
    const bool all = style_.form == ChatForm::kMessages;
    const int keep = all ? now().SessionTurnsBefore(count) : turns() - count;
    if (keep < now().session.turns && !RewindSession(keep)) return false;
  }
  now().Rewind(count);
  return true;
}

void Chat::Again() {
  if (now().turns() == 0) return Note("[nothing was said here yet]");
  const std::string line = now().last_line();
  if (Rewind(1)) TurnAtTerminal(line);
}

void Chat::Fork() {
  ChatConversation copy = now();
  std::string handle;
  if (in_session()) {
    v1::ForkSessionRequest request;
    request.set_session(now().session.handle);
    v1::Session session;
    if (!Done(connection_->ForkSession(request, &session))) return;
    copy.session.handle = session.session();
    handle = absl::StrCat(", session ", copy.session.handle);
  }
  const size_t from = current_;
  conversations_.push_back(std::move(copy));
  current_ = conversations_.size() - 1;
  Note(absl::StrCat("[conversation ", current_ + 1, handle, "; /switch ", from + 1, " goes back]"));
}

void Chat::Switch(const std::string& number) {
  size_t to = 0;
  if (!absl::SimpleAtoi(number, &to) || to < 1 || to > conversations_.size()) {
    return Note(absl::StrCat("[conversations are numbered from 1 to ", conversations_.size(), "]"));
  }
  current_ = to - 1;
  std::string last;
  if (now().turns() > 0) {
    const std::string& line = now().last_line();
    last = ", whose last turn began: " + WithoutControls(line.substr(0, line.find('\n')));
  }
  Note(absl::StrCat("[conversation ", to, last, "]"));
}

void Chat::Save(const std::string& argument, bool over) {
  if (argument.empty()) return Note("[/save takes the name of a file]");
  const std::string path = WithHome(argument);
  const absl::Status saved = SaveText(path, over, now().Text() + "\n");
  if (absl::IsAlreadyExists(saved)) {
    return Note(absl::StrCat("[", path, " is there already; /save! ", argument, " overwrites it]"));
  }
  if (!saved.ok())
    return Note(absl::StrCat("[", path, " cannot be written: ", saved.message(), "]"));
  const char* more = in_session() ? "; packrat save keeps the session with its state" : "";
  Note(absl::StrCat("[", Turns(now().turns()), " in ", path, more, "]"));
}

bool Chat::Obey(const std::string& line) {
  const std::pair<std::string, std::string> words = absl::StrSplit(line, absl::MaxSplits(' ', 1));
  const std::string& command = words.first;
  const std::string argument(absl::StripAsciiWhitespace(words.second));
  int count = 1;
  if (command == "/quit" || command == "/exit") return false;
  if (command == "/rewind") {
    if (!argument.empty() && !absl::SimpleAtoi(argument, &count)) count = 0;
    if (Rewind(count)) Note(absl::StrCat("[", Turns(turns()), " left]"));
  } else if (command == "/again") {
    Again();
  } else if (command == "/fork") {
    Fork();
  } else if (command == "/switch") {
    Switch(argument);
  } else if (command == "/save" || command == "/save!") {
    Save(argument, /*over=*/command == "/save!");
  } else if (command == "/help") {
    Print(kHelp);
  } else {
    Note(absl::StrCat("[there is no ", command, "; /help tells what there is]"));
  }
  return true;
}

// A turn or a command. False: leave.
bool Chat::Say(const std::string& line) {
  // A command is one line; more are a text that was pasted.
  const bool text = line[0] != '/' || absl::StrContains(line, '\n');
  if (!text && !absl::StartsWith(line, "//")) return Obey(line);
  TurnAtTerminal(text ? line : line.substr(1));
  return true;
}

int Chat::AtTerminal() {
  colors_ = WantsColors();
  signals_->SetMode(Signals::Mode::kTell);
  LineEditor editor(HistoryFile(), signals_);
  Note(style_.form == ChatForm::kMessages
           ? "Write, and the model answers; /help tells what else there is, Ctrl-D ends."
           : "Write, and the model goes on from there; /help tells what else there is, Ctrl-D "
             "ends.");
  bool interrupted = false;
  while (exit_code_ == kExitOk) {
    const std::string prompt = conversations_.size() > 1 ? absl::StrCat(current_ + 1, ">") : ">";
    std::string line;
    const LineEditor::Event event = editor.Read(prompt, colors_, &line);
    if (event != LineEditor::Event::kLine) Print("\n");
    if (event == LineEditor::Event::kTerminate) return kExitInterrupted;
    if (event == LineEditor::Event::kEnd) break;
    if (event == LineEditor::Event::kInterrupt) {
      if (std::exchange(interrupted, true)) break;
      Note("[once more, or /quit, leaves]");
      continue;
    }
    interrupted = false;
    if (line.empty()) continue;
    // What follows may call the server, which may stand still.
    signals_->SetMode(Signals::Mode::kStopCall);
    const bool stays = Say(line);
    signals_->SetMode(Signals::Mode::kTell);
    stopped_ = connection_->cancelled() || stopped_;
    connection_->Resume();
    if (std::exchange(stopped_, false)) Note("[stopped]");
    if (!stays) break;
  }
  return exit_code_;
}

}  // namespace

int ChatCommand(Connection* connection, Signals* signals,
                const std::vector<std::string>& arguments) {
  if (!arguments.empty()) return UsageError("chat reads its turns from standard input");
  if (absl::GetFlag(FLAGS_json)) return UsageError("chat speaks text only; complete has --json");
  const bool terminal = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO);
  if (!terminal) std::cin.peek();  // What cannot be read needs no server.
  const absl::Status read = CheckStandardInput();
  if (!read.ok()) return UsageError(std::string(read.message()));
  Chat chat(connection, signals);
  const int opened = chat.Open();
  if (opened != kExitOk) return opened;
  return terminal ? chat.AtTerminal() : chat.FromInput();
}

}  // namespace packrat
