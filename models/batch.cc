#include "models/batch.h"

#include <algorithm>

#include "kernels/check.h"

namespace packrat {

BatchSizes SizesOf(const Batch& batch) {
  BatchSizes sizes;
  int next = 0;
  for (int i = 0; i < batch.num_spans; ++i) {
    const Span& span = batch.spans[i];
    PACKRAT_CHECK(span.first_token == next && span.num_tokens > 0, "spans are not back to back");
    PACKRAT_CHECK(span.num_logits >= 0 && span.num_logits <= span.num_tokens);
    next += span.num_tokens;
    sizes.rows += span.num_logits;
    sizes.max_span_tokens = std::max(sizes.max_span_tokens, span.num_tokens);
    if (span.num_tokens > 1) ++sizes.prompts;
    sizes.max_context = std::max(sizes.max_context, span.position + span.num_tokens);
  }
  PACKRAT_CHECK(next == batch.num_tokens, "spans do not cover the tokens");
  return sizes;
}

}  // namespace packrat
