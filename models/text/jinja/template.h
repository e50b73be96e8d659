// A Jinja template, as far as chat templates go. It gives the bytes that jinja2 gives with the
// settings of transformers (trim_blocks, lstrip_blocks, loop controls, an immutable sandbox), or an
// error. What differs is in docs/chat.md.
#ifndef PACKRAT_MODELS_TEXT_JINJA_TEMPLATE_H_
#define PACKRAT_MODELS_TEXT_JINJA_TEMPLATE_H_

#include <cstddef>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "models/text/jinja/value.h"
#include "models/text/marked_text.h"

namespace packrat::jinja {

class Template {
 public:
  static constexpr size_t kMaxSourceBytes = 1 << 20;

  // INVALID_ARGUMENT: "line 3: ..." where the source is not understood.
  static absl::StatusOr<Template> Parse(const std::string& source);
  Template(Template&&) noexcept;
  Template& operator=(Template&&) noexcept;
  ~Template();

  struct Limits {
    size_t max_bytes = 4 << 20;  // Of the result, and of any text on the way.
    size_t work = 4 << 20;       // Steps: some 50 ns or 16 bytes each.
    absl::Time now;              // For strftime_now().
  };
  using Variables = std::vector<std::pair<std::string, Value>>;
  // INVALID_ARGUMENT: the template's own words where it raises an exception, or "line 3: ..." where
  // it fails. Thread-safe.
  absl::StatusOr<MarkedText> Render(const Variables& variables, const Limits& limits) const;

 private:
  struct Parsed;
  explicit Template(std::unique_ptr<const Parsed> parsed);
  std::unique_ptr<const Parsed> parsed_;
};

}  // namespace packrat::jinja

#endif  // PACKRAT_MODELS_TEXT_JINJA_TEMPLATE_H_
