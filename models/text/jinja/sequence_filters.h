// Filters of lists and dicts.
#ifndef PACKRAT_MODELS_TEXT_JINJA_SEQUENCE_FILTERS_H_
#define PACKRAT_MODELS_TEXT_JINJA_SEQUENCE_FILTERS_H_

#include "absl/strings/string_view.h"
#include "models/text/jinja/native.h"

namespace packrat::jinja {

Native FindSequenceFilter(absl::string_view name);  // Null if there is none.

}  // namespace packrat::jinja

#endif  // PACKRAT_MODELS_TEXT_JINJA_SEQUENCE_FILTERS_H_
