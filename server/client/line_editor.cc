#include "server/client/line_editor.h"

#include <histedit.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <clocale>
#include <cstdio>
#include <cwchar>

#include "absl/strings/str_cat.h"
#include "server/client/terminal_text.h"

namespace packrat {
namespace {

constexpr int kHistoryLines = 1000;
// Stands around what the terminal does not show, in a prompt.
constexpr char kInvisible = '\1';

// Characters are UTF-8, also where nobody has set a locale, as in a container.
void SetCharacters() {
  std::setlocale(LC_CTYPE, "");
  if (MB_CUR_MAX == 1) std::setlocale(LC_CTYPE, "C.UTF-8");
}

}  // namespace

struct LineEditor::Impl {
  static Impl* Of(EditLine* edit) {
    void* impl = nullptr;
    el_get(edit, EL_CLIENTDATA, &impl);
    return static_cast<Impl*>(impl);
  }
  static char* Prompt(EditLine* edit) { return Of(edit)->prompt.data(); }
  // The next character: 1; 0 ends the line.
  static int NextOf(EditLine* edit, wchar_t* character) { return Of(edit)->Next(character); }

  static unsigned char PasteOf(EditLine* edit, wint_t) { return Of(edit)->Paste(); }

  int Next(wchar_t* character);
  unsigned char Paste();
  void MarkPastes(bool wanted) const {
    if (!marks_pastes) return;
    std::fputs(wanted ? "\033[?2004h" : "\033[?2004l", stdout);
    std::fflush(stdout);
  }
  void OnSignal(int number);

  Signals* signals = nullptr;
  EditLine* edit = nullptr;
  History* history = nullptr;
  std::string history_file;
  std::string prompt;
  bool interrupted = false, terminated = false, over = false;
  bool marks_pastes = false;  // The terminal puts \e[200~ and \e[201~ around them, if told to.
};

void LineEditor::Impl::OnSignal(int number) {
  interrupted = interrupted || number == SIGINT;
  terminated = terminated || number == SIGTERM;
  if (number == SIGWINCH) el_resize(edit);
  if (number == SIGCONT) {
    // The shell has used the terminal meanwhile; the library believes that it is as it was.
    el_set(edit, EL_PREP_TERM, 0);
    el_set(edit, EL_PREP_TERM, 1);
    el_set(edit, EL_REFRESH);
  }
}

int LineEditor::Impl::Next(wchar_t* character) {
  std::mbstate_t state = {};
  for (;;) {
    pollfd ready[] = {{signals->descriptor(), POLLIN, 0}, {STDIN_FILENO, POLLIN, 0}};
    if (poll(ready, 2, -1) < 0) continue;
    while (const int number = signals->Take()) OnSignal(number);
    if (interrupted || terminated) return 0;
    if (ready[1].revents == 0) continue;
    char byte = 0;
    if (read(STDIN_FILENO, &byte, 1) != 1) {
      over = true;
      return 0;
    }
    const size_t size = std::mbrtowc(character, &byte, 1, &state);
    if (size == static_cast<size_t>(-1)) state = {};  // No character; the next byte may begin one.
    if (size <= 1) return 1;
  }
}

// A pasted text has begun: puts all of it into the line, line breaks too.
unsigned char LineEditor::Impl::Paste() {
  const std::wstring end = L"\033[201~";
  std::wstring text;
  for (wchar_t character;
       text.size() < end.size() || text.compare(text.size() - end.size(), end.size(), end) != 0;) {
    if (Next(&character) != 1) return CC_EOF;
    text.push_back(character);
  }
  text.resize(text.size() - end.size());
  std::wstring line;
  for (size_t i = 0; i < text.size(); ++i) {
    // A terminal sends \r for a line break, which the tty may make a \n; of \r\n either may come
    // first.
    const bool breaks = text[i] == L'\r' || text[i] == L'\n';
    const bool second = breaks && i > 0 && text[i - 1] + text[i] == L'\r' + L'\n';
    if (second) {
      text[i] = 0;  // With the next one it is no pair.
    } else if (text[i] != 0) {
      line.push_back(breaks ? L'\n' : text[i]);
    }
  }
  return el_winsertstr(edit, line.c_str()) == 0 || line.empty() ? CC_REFRESH : CC_ERROR;
}

LineEditor::LineEditor(const std::string& history, Signals* signals)
    : impl_(std::make_unique<Impl>()) {
  SetCharacters();
  Impl& s = *impl_;
  s.signals = signals;
  s.edit = el_init("packrat", stdin, stdout, stderr);
  s.history = history_init();
  s.history_file = history;
  HistEvent event;
  ::history(s.history, &event, H_SETSIZE, kHistoryLines);
  ::history(s.history, &event, H_SETUNIQUE, 1);
  if (!history.empty()) ::history(s.history, &event, H_LOAD, history.c_str());
  el_set(s.edit, EL_CLIENTDATA, impl_.get());
  el_set(s.edit, EL_PROMPT_ESC, &Impl::Prompt, kInvisible);
  el_set(s.edit, EL_GETCFN, &Impl::NextOf);
  el_set(s.edit, EL_HIST, &::history, s.history);
  el_set(s.edit, EL_EDITOR, "emacs");
  el_set(s.edit, EL_BIND, "^R", "em-inc-search-prev", nullptr);
  // Ctrl with an arrow.
  el_set(s.edit, EL_BIND, "\\e[1;5C", "em-next-word", nullptr);
  el_set(s.edit, EL_BIND, "\\e[1;5D", "ed-prev-word", nullptr);
  el_source(s.edit, nullptr);
  el_set(s.edit, EL_ADDFN, "packrat-paste", "Takes a text that is pasted", &Impl::PasteOf);
  el_set(s.edit, EL_BIND, "\\e[200~", "packrat-paste", nullptr);
  s.marks_pastes = TakesCommands();
}

LineEditor::~LineEditor() {
  history_end(impl_->history);
  el_end(impl_->edit);
}

LineEditor::Event LineEditor::Read(const std::string& prompt, bool bold, std::string* line) {
  Impl& s = *impl_;
  const std::string mark(1, kInvisible);
  s.prompt = bold ? absl::StrCat(mark, "\033[1m", mark, prompt, mark, "\033[0m", mark, " ")
                  : absl::StrCat(prompt, " ");
  s.interrupted = false;
  s.MarkPastes(true);
  int count = 0;
  const char* text = el_gets(s.edit, &count);
  s.MarkPastes(false);
  if (s.terminated) return Event::kTerminate;
  if (s.interrupted) return Event::kInterrupt;
  if (text == nullptr || s.over) return Event::kEnd;
  line->assign(text, count);
  while (!line->empty() && (line->back() == '\n' || line->back() == '\r')) line->pop_back();
  if (line->empty()) return Event::kLine;
  HistEvent event;
  ::history(s.history, &event, H_ENTER, line->c_str());
  // At once, since a window may be closed. What fails here fails at the next line too.
  if (!s.history_file.empty()) {
    ::history(s.history, &event, H_SAVE, s.history_file.c_str());
  }
  return Event::kLine;
}

}  // namespace packrat
