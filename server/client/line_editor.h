// Lines that are written at a terminal, with editing and history. Only line_editor.cc knows the
// library.
#ifndef PACKRAT_SERVER_CLIENT_LINE_EDITOR_H_
#define PACKRAT_SERVER_CLIENT_LINE_EDITOR_H_

#include <memory>
#include <string>

#include "server/client/signals.h"

namespace packrat {

class LineEditor {
 public:
  enum class Event {
    kLine,
    kEnd,        // Ctrl-D, or the terminal has gone.
    kInterrupt,  // Ctrl-C, whatever was written.
    kTerminate,  // SIGTERM.
  };

  // Standard input and output are a terminal. `history`: file with the lines of earlier times,
  // which its owner alone can read; empty, or what cannot be written: none. `signals`: in mode
  // kTell while Read() runs; outlives this.
  LineEditor(const std::string& history, Signals* signals);
  // Leaves the terminal as it was.
  ~LineEditor();

  // Shows `prompt`, in bold if `bold`, and waits for a line, which comes without its line break.
  // One that was pasted may have others inside.
  Event Read(const std::string& prompt, bool bold, std::string* line);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace packrat

#endif  // PACKRAT_SERVER_CLIENT_LINE_EDITOR_H_
