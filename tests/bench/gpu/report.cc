#include "tests/bench/gpu/report.h"

#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace packrat::gpu_bench {
namespace {

std::string Quoted(const std::string& text) {
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') quoted += '\\';
    quoted += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
  }
  return quoted + '"';
}

// JSON knows neither NaN nor infinity.
std::string Number(double x) { return std::isfinite(x) ? absl::StrFormat("%.6g", x) : "null"; }

std::string Scaled(double x, const char* unit) {
  static constexpr const char* kPrefixes[] = {"", "k", "M", "G", "T"};
  int i = 0;
  for (; i < 4 && x >= 1000; ++i) x /= 1000;
  return absl::StrFormat("%.3g %s%s", x, kPrefixes[i], unit);
}

std::string Time(double seconds) {
  if (seconds <= 0) return "-";
  if (seconds < 1e-3) return absl::StrFormat("%.2f us", seconds * 1e6);
  if (seconds < 1) return absl::StrFormat("%.3f ms", seconds * 1e3);
  return absl::StrFormat("%.2f s", seconds);
}

}  // namespace

std::string ToJson(const Row& row) {
  std::string json =
      absl::StrCat("{\"section\": ", Quoted(row.section), ", \"name\": ", Quoted(row.name),
                   ", \"shape\": ", Quoted(row.shape));
  const auto number = [&](const char* key, double x) {
    if (x != 0) absl::StrAppend(&json, ", \"", key, "\": ", Number(x));
  };
  const auto text = [&](const char* key, const std::string& x) {
    if (!x.empty()) absl::StrAppend(&json, ", \"", key, "\": ", Quoted(x));
  };
  number("bytes", row.work.bytes);
  number("flops", row.work.flops);
  number("seconds", row.seconds);
  number("figure", row.figure);
  text("unit", row.unit);
  number("limit", row.limit);
  if (row.limit > 0) number("share", row.figure / row.limit);
  text("limited_by", row.limited_by);
  if (row.predicted) absl::StrAppend(&json, ", \"predicted\": true");
  text("note", row.note);
  text("error", row.error);
  return json + "}";
}

Report::Report(const std::string& dir) : dir_(dir) {
  if (!dir_.empty()) lines_ = std::fopen((dir_ + "/bench.jsonl").c_str(), "w");
}

Report::~Report() {
  const std::string table = rows_.empty() ? "" : Table();
  std::fputs(table.c_str(), stdout);
  if (lines_ == nullptr) return;
  std::fclose(lines_);
  if (std::FILE* file = std::fopen((dir_ + "/bench.txt").c_str(), "w"); file != nullptr) {
    std::fputs(table.c_str(), file);
    std::fclose(file);
  }
}

void Report::Add(Row row) {
  if (!row.error.empty()) ++errors_;
  const std::string json = ToJson(row);
  if (lines_ != nullptr) {
    std::fprintf(lines_, "%s\n", json.c_str());
    std::fflush(lines_);  // A run that is stopped leaves what it has.
    std::fprintf(stderr, "%s / %s / %s: %s\n", row.section.c_str(), row.name.c_str(),
                 row.shape.c_str(),
                 row.error.empty() ? Time(row.seconds).c_str() : row.error.c_str());
  }
  rows_.push_back(std::move(row));
}

std::string Report::Table() const {
  std::string table =
      "| section | what | shape | bytes | operations | time | figure | limit | share | note |\n"
      "|---|---|---|---|---|---|---|---|---|---|\n";
  for (const Row& row : rows_) {
    const auto figure = [&](double x) {
      return x > 0 ? absl::StrFormat("%.4g %s", x, row.unit) : std::string("-");
    };
    const std::string share = row.limit > 0 && row.figure > 0
                                  ? absl::StrFormat("%.1f %%", 100 * row.figure / row.limit)
                                  : "-";
    std::string note = row.error.empty() ? row.note : absl::StrCat("ERROR: ", row.error);
    if (row.limit > 0 && !row.limited_by.empty()) {
      note = absl::StrCat("limit: ", row.limited_by, note.empty() ? "" : "; ", note);
    }
    absl::StrAppend(&table, "| ", row.section, " | ", row.name, " | ", row.shape, " | ",
                    row.work.bytes > 0 ? Scaled(row.work.bytes, "B") : "-", " | ",
                    row.work.flops > 0 ? Scaled(row.work.flops, "") : "-", " | ", Time(row.seconds),
                    row.predicted ? " (predicted)" : "", " | ", figure(row.figure), " | ",
                    figure(row.limit), " | ", row.predicted ? "-" : share, " | ", note, " |\n");
  }
  return table;
}

}  // namespace packrat::gpu_bench
