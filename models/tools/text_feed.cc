#include "models/tools/text_feed.h"

#include "absl/strings/str_cat.h"

namespace packrat {

absl::Status CheckFeedOptions(const FeedOptions& options) {
  const auto refuse = [](const char* name, const auto& value, const char* range) {
    return absl::InvalidArgumentError(absl::StrCat(name, " must be in ", range, ", got ", value));
  };
  if (options.piece < 1 || options.piece > 65536) {
    return refuse("piece", options.piece, "[1, 65536]");
  }
  if (!(options.cg_tolerance >= 1e-7f && options.cg_tolerance <= 0.1f)) {
    return refuse("cg_tolerance", options.cg_tolerance, "[1e-7, 0.1]");
  }
  if (options.cg_max_steps < 1 || options.cg_max_steps > 1024) {
    return refuse("cg_max_steps", options.cg_max_steps, "[1, 1024]");
  }
  if (options.threads < 0 || options.threads > 1024) {
    return refuse("threads", options.threads, "[0, 1024]");
  }
  return absl::OkStatus();
}

ModelOptions ModelOptionsOf(const FeedOptions& options) {
  ModelOptions model;
  model.max_batch_tokens = model.max_logit_rows = options.piece;
  model.threads = options.threads;
  return model;
}

absl::StatusOr<float*> TextFeed::Next() {
  const int n = size();
  Span span = state_->SpanFor(0, 0, n, first_);
  span.num_logits = n;
  span.cg_tolerance = options_.cg_tolerance;
  span.cg_max_steps = options_.cg_max_steps;
  SpanStats stats;
  auto logits = model_->Forward({ids_ + first_, n, &span, 1}, state_->memory(), &stats);
  if (!logits.ok()) return logits.status();
  if (!stats.finite) {
    return absl::InternalError(absl::StrCat("tokens ", first_, " to ", first_ + n - 1,
                                            ": the model produced a non-finite value"));
  }
  first_ += n;
  return logits;
}

}  // namespace packrat
