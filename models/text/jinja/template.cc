#include "models/text/jinja/template.h"

#include "absl/strings/str_cat.h"
#include "models/text/jinja/interpreter.h"
#include "models/text/jinja/parser.h"
#include "models/text/utf8.h"

namespace packrat::jinja {

struct Template::Parsed {
  Body body;
};

Template::Template(std::unique_ptr<const Parsed> parsed) : parsed_(std::move(parsed)) {}
Template::Template(Template&&) noexcept = default;
Template& Template::operator=(Template&&) noexcept = default;
Template::~Template() = default;

absl::StatusOr<Template> Template::Parse(const std::string& source) {
  if (source.size() > kMaxSourceBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("has ", source.size(), " bytes; at most ", kMaxSourceBytes));
  }
  if (FirstInvalidUtf8(source) != source.size()) {
    return absl::InvalidArgumentError("is not valid UTF-8");
  }
  absl::StatusOr<Body> body = jinja::Parse(source);
  if (!body.ok()) return body.status();
  return Template(std::make_unique<const Parsed>(Parsed{*std::move(body)}));
}

absl::StatusOr<MarkedText> Template::Render(const Variables& variables,
                                            const Limits& limits) const {
  return Interpreter(variables, limits).Run(parsed_->body);
}

}  // namespace packrat::jinja
