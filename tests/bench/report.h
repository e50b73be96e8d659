// Rows of a results file: one figure each, with its share of the physical limit.
#ifndef PACKRAT_TESTS_BENCH_REPORT_H_
#define PACKRAT_TESTS_BENCH_REPORT_H_

#include <cstdio>
#include <string>

namespace packrat {

// Prints `benchmark <tab> figure <tab> unit <tab> limit <tab> share <tab> note`; limit 0: none.
inline void Row(const std::string& benchmark, double figure, const std::string& unit,
                double limit = 0, const std::string& note = "") {
  std::printf("%s\t%.4g\t%s\t", benchmark.c_str(), figure, unit.c_str());
  if (limit > 0) {
    std::printf("%.4g\t%.1f %%\t", limit, 100 * figure / limit);
  } else {
    std::printf("-\t-\t");
  }
  std::printf("%s\n", note.c_str());
  std::fflush(stdout);
}

}  // namespace packrat

#endif  // PACKRAT_TESTS_BENCH_REPORT_H_
