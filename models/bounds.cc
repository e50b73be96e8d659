#include "models/bounds.h"

#include <cmath>
#include <cstdint>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"

namespace packrat {
namespace {

std::string Number(double value) {
  // Converted only if an integer can hold it; NaN and infinity fail the comparison.
  const bool whole = std::abs(value) < 1e15 && value == std::floor(value);
  return whole ? absl::StrCat(static_cast<int64_t>(value))
               : absl::StrReplaceAll(absl::StrCat(value), {{"e-0", "e-"}});
}

}  // namespace

bool Bound::Holds(double value) const {
  return (ends == kNotLow ? value > low : value >= low) &&
         (ends == kNotHigh ? value < high : value <= high);
}

std::string Bound::Range() const {
  return absl::StrCat(ends == kNotLow ? "(" : "[", Number(low), ", ", Number(high),
                      ends == kNotHigh ? ")" : "]");
}

absl::Status Bound::Check(absl::string_view name, double value, absl::string_view remark) const {
  if (Holds(value)) return absl::OkStatus();
  const bool counted = *unit != '\0';
  return absl::InvalidArgumentError(absl::StrCat(name, counted ? " has " : " is ", Number(value),
                                                 counted ? " " : "", unit, "; range ", Range(),
                                                 remark));
}

}  // namespace packrat
