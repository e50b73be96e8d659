#include "server/log_writer.h"

#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <thread>
#include <utility>

#include "runtime/mutex.h"
#include "runtime/thread_name.h"

namespace packrat {
namespace {

// False if the descriptor takes no more: the disk is full, or the reader has gone.
bool WriteAll(int fd, const std::string& text) {
  size_t done = 0;
  while (done < text.size()) {
    const ssize_t n = write(fd, text.data() + done, text.size() - done);
    if (n < 0 && errno != EINTR) return false;
    if (n > 0) done += n;
  }
  return true;
}

}  // namespace

struct LogWriter::State {
  State(int f, std::function<std::string(int64_t)> line, size_t bytes)
      : fd(f), dropped_line(std::move(line)), max_bytes(bytes) {}

  // False when it is time to stop.
  bool Next(std::string* line);
  void Run();

  const int fd;
  const std::function<std::string(int64_t)> dropped_line;
  const size_t max_bytes;
  Mutex mutex;
  std::condition_variable news, written;
  std::deque<std::string> lines ABSL_GUARDED_BY(mutex);  // The first, if empty, is being written.
  size_t bytes ABSL_GUARDED_BY(mutex) = 0;               // Of `lines`, and of that one.
  bool dropping ABSL_GUARDED_BY(mutex) = false;
  bool broken ABSL_GUARDED_BY(mutex) = false;  // The last write failed.
  bool stop ABSL_GUARDED_BY(mutex) = false;
  int64_t dropped ABSL_GUARDED_BY(mutex) = 0;
  int64_t reported ABSL_GUARDED_BY(mutex) = 0;  // Of `dropped`.
};

bool LogWriter::State::Next(std::string* line) {
  MutexLock lock(&mutex);
  if (lines.empty()) dropping = false;
  if (lines.empty() && dropped > reported && !broken) {
    lines.push_back(dropped_line(dropped - reported));
    bytes += lines.back().size();
    reported = dropped;
  }
  while (lines.empty() && !stop) lock.Wait(&news);
  if (lines.empty()) return false;
  *line = std::move(lines.front());
  return true;
}

void LogWriter::State::Run() {
  std::string line;
  while (Next(&line)) {
    const size_t size = line.size();
    // One write for each, so that lines stay whole beside those of other processes.
    line.push_back('\n');
    const bool good = WriteAll(fd, line);
    MutexLock lock(&mutex);
    broken = !good;
    if (broken) ++dropped;
    bytes -= size;
    lines.pop_front();
    if (lines.empty()) written.notify_all();
  }
}

LogWriter::LogWriter(int fd, std::function<std::string(int64_t)> dropped_line, size_t max_bytes)
    : state_(std::make_shared<State>(fd, std::move(dropped_line), max_bytes)) {
  std::thread([state = state_] {
    SetThreadName("packrat-log");
    state->Run();
  }).detach();
}

LogWriter::~LogWriter() {
  Flush(absl::Seconds(1));
  MutexLock lock(&state_->mutex);
  state_->stop = true;
  state_->news.notify_one();
}

void LogWriter::Write(std::string line) {
  MutexLock lock(&state_->mutex);
  // Drops until all is written. If it stopped after one line, every second line would be a report.
  if (state_->dropping || state_->bytes + line.size() > state_->max_bytes) {
    state_->dropping = true;
    ++state_->dropped;
    return;
  }
  state_->bytes += line.size();
  state_->lines.push_back(std::move(line));
  state_->news.notify_one();
}

bool LogWriter::Flush(absl::Duration timeout) {
  const auto until = std::chrono::steady_clock::now() + absl::ToChronoNanoseconds(timeout);
  MutexLock lock(&state_->mutex);
  while (!state_->lines.empty()) {
    if (std::chrono::steady_clock::now() >= until) return false;
    lock.WaitUntil(&state_->written, until);
  }
  return true;
}

int64_t LogWriter::dropped() const {
  MutexLock lock(&state_->mutex);
  return state_->dropped;
}

}  // namespace packrat
