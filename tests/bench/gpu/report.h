// Rows of results: one JSON object a line as they come, and a table for people at the end.
#ifndef PACKRAT_TESTS_BENCH_GPU_REPORT_H_
#define PACKRAT_TESTS_BENCH_GPU_REPORT_H_

#include <cstdio>
#include <string>
#include <vector>

#include "tests/bench/gpu/work.h"

namespace packrat::gpu_bench {

struct Row {
  std::string section, name, shape;
  Work work;           // 0: not counted.
  double seconds = 0;  // Median of one launch or step; 0: not measured (see error).
  double figure = 0;   // What the row is about, in `unit`.
  std::string unit;
  double limit = 0;        // In `unit`; 0: none.
  std::string limited_by;  // "bandwidth", "bf16 products", ...
  bool predicted = false;  // From byte counts; nothing was run.
  std::string note, error;
};

std::string ToJson(const Row& row);

class Report {
 public:
  // Writes DIR/bench.jsonl and, in the destructor, DIR/bench.txt; to stdout only if `dir` is empty.
  explicit Report(const std::string& dir);
  ~Report();
  Report(const Report&) = delete;
  Report& operator=(const Report&) = delete;
  void Add(Row row);
  int errors() const { return errors_; }

 private:
  std::string Table() const;
  std::string dir_;
  std::FILE* lines_ = nullptr;
  std::vector<Row> rows_;
  int errors_ = 0;
};

}  // namespace packrat::gpu_bench

#endif  // PACKRAT_TESTS_BENCH_GPU_REPORT_H_
