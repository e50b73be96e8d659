// The log: lines with one reading, and a writer that nobody waits for.
#include <fcntl.h>
#include <grpc/support/log.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "nlohmann/json.hpp"
#include "server/library_log.h"
#include "server/log.h"
#include "server/log_writer.h"

namespace packrat {
namespace {

TEST(Log, ALineHasOneReadingWhateverIsInIt) {
  AccessRecord record;
  record.id = "7";
  record.caller = "a b\n\"c\"=d";
  record.call = "Generate";
  record.status = "OK";
  record.finish = "eos";
  record.prompt_tokens = 12;
  record.queue = absl::Microseconds(1500);
  std::string text, json;
  Logger(Logger::Format::kText, [&](const std::string& line) { text = line; }).Access(record);
  EXPECT_TRUE(absl::StrContains(text, R"( access id=7 caller="a b\n\"c\"=d" peer="" )")) << text;
  EXPECT_TRUE(absl::StrContains(text, " finish=eos prompt_tokens=12 ")) << text;
  EXPECT_TRUE(absl::StrContains(text, " queue_ms=1.500 ")) << text;
  Logger(Logger::Format::kJson, [&](const std::string& line) { json = line; }).Access(record);
  EXPECT_EQ(json.find('\n'), std::string::npos);
  const auto parsed = nlohmann::json::parse(json);
  EXPECT_EQ(parsed["id"], "7");
  EXPECT_EQ(parsed["caller"], record.caller);
  EXPECT_EQ(parsed["prompt_tokens"], 12);
  EXPECT_EQ(parsed["queue_ms"], 1.5);
}

TEST(Log, NumbersAreNumbersAndTextIsTextWhateverItLooksLike) {
  std::string line;
  Logger log(Logger::Format::kJson, [&](const std::string& l) { line = l; });
  log.Error("m", {{"port", 50051},
                  {"name_tokens", "12"},
                  {"big", int64_t{1} << 60},
                  {"took_ms", absl::Nanoseconds(1234567)},
                  {"bytes", std::string("\xff\0", 2)}});
  const auto parsed = nlohmann::json::parse(line);
  EXPECT_EQ(parsed["level"], "error");
  EXPECT_TRUE(parsed["port"].is_number_integer());
  EXPECT_EQ(parsed["port"], 50051);
  EXPECT_EQ(parsed["name_tokens"], "12");
  EXPECT_EQ(parsed["big"], int64_t{1} << 60);
  EXPECT_EQ(parsed["took_ms"], 1.235);
  EXPECT_EQ(parsed["bytes"], std::string("\xef\xbf\xbd\0", 4));
}

// A pipe of one page.
struct Pipe {
  Pipe() {
    EXPECT_EQ(pipe(fds), 0);
    EXPECT_GT(fcntl(fds[1], F_SETPIPE_SZ, 4096), 0);
  }
  ~Pipe() {
    close(fds[0]);
    close(fds[1]);
  }
  int fds[2] = {-1, -1};
};

std::string Dropped(int64_t count) { return absl::StrCat("dropped ", count); }

TEST(LogWriter, DropsWhatNobodyReadsAndSaysSoLater) {
  Pipe pipe;
  LogWriter writer(pipe.fds[1], Dropped, /*max_bytes=*/10000);
  const std::string padding(90, '.');
  const int total = 1000;  // 100 KB: the pipe, the queue, and far more.
  for (int i = 0; i < total; ++i) writer.Write(absl::StrCat(i, padding));
  const int64_t dropped = writer.dropped();
  EXPECT_GT(dropped, total - 200);
  EXPECT_LT(dropped, total - 100);
  EXPECT_FALSE(writer.Flush(absl::Milliseconds(1)));

  // Everything that was kept, whole and in order; then the report; then what comes after it.
  std::string text;
  bool more = true;
  const auto read_until = [&](const std::string& last) {
    char buffer[4096];
    while (more && !absl::StrContains(text, last)) {
      const ssize_t n = read(pipe.fds[0], buffer, sizeof(buffer));
      more = n > 0;
      if (more) text.append(buffer, n);
    }
  };
  read_until(absl::StrCat(Dropped(dropped), "\n"));
  ASSERT_TRUE(writer.Flush(absl::Seconds(30)));
  writer.Write("last");
  read_until("last\n");
  const std::vector<std::string> lines = absl::StrSplit(text, '\n');
  ASSERT_EQ(lines.size(), total - dropped + 3u);
  for (int i = 0; i < total - dropped; ++i) EXPECT_EQ(lines[i], absl::StrCat(i, padding));
  EXPECT_EQ(lines[total - dropped], Dropped(dropped));
  EXPECT_EQ(lines[total - dropped + 1], "last");
  EXPECT_EQ(writer.dropped(), dropped);
}

TEST(LogWriter, EndsThoughNobodyReads) {
  Pipe pipe;
  {
    LogWriter writer(pipe.fds[1], Dropped);
    writer.Write(std::string(100000, '.'));
  }
  // Read to the end, so that its thread ends before the pipe's number is another's.
  size_t size = 0;
  char buffer[4096];
  while (size < 100001) size += read(pipe.fds[0], buffer, sizeof(buffer));
}

TEST(LogWriter, WritesAllBeforeItEnds) {
  Pipe pipe;
  {
    LogWriter writer(pipe.fds[1], Dropped);
    for (int i = 0; i < 100; ++i) writer.Write("line");
  }
  char buffer[4096];
  EXPECT_EQ(read(pipe.fds[0], buffer, sizeof(buffer)), 500);
}

TEST(LogWriter, CountsWhatADescriptorRefuses) {
  const int full = open("/dev/full", O_WRONLY);
  ASSERT_GE(full, 0);
  LogWriter writer(full, Dropped);
  for (int i = 0; i < 10; ++i) writer.Write("line");
  ASSERT_TRUE(writer.Flush(absl::Seconds(30)));
  EXPECT_EQ(writer.dropped(), 10);
  // Once it takes lines again, it is told of those.
  Pipe pipe;
  ASSERT_EQ(dup2(pipe.fds[1], full), full);
  writer.Write("line");
  ASSERT_TRUE(writer.Flush(absl::Seconds(30)));
  char buffer[4096];
  std::string text;
  while (!absl::StrContains(text, "dropped")) {
    text.append(buffer, read(pipe.fds[0], buffer, sizeof(buffer)));
  }
  EXPECT_EQ(text, "line\ndropped 10\n");
  ASSERT_TRUE(writer.Flush(absl::Seconds(30)));
  close(full);
}

// The process ends right after them, and lines wait for a thread to write them.
TEST(LibraryLogDeathTest, TheLastWordsOfALibraryAreWritten) {
  const auto die = [] {
    LogForLibraries(new Logger(Logger::Format::kText));
    gpr_log_verbosity_init();  // As gRPC does when it is first used.
    GPR_ASSERT(1 == 2);
  };
  EXPECT_DEATH(die(), "library=grpc text=\"assertion failed: 1 == 2\"");
}

}  // namespace
}  // namespace packrat
