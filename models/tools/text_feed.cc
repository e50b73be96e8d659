#include "models/tools/text_feed.h"

#include "absl/strings/str_cat.h"
#include "kernels/check.h"
#include "models/bounds.h"
#include "models/cpu_model.h"

namespace packrat {

absl::Status CheckFeedOptions(const FeedOptions& options) {
  constexpr Bound kPiece = {"piece", 1, 65536}, kThreads = {"threads", 0, 1024};
  const absl::Status checks[] = {
      kPiece.Check(kPiece.field, options.piece),
      bounds::kCgTolerance.Check("cg_tolerance", options.solver.cg_tolerance),
      bounds::kCgMaxSteps.Check("cg_max_steps", options.solver.cg_max_steps),
      kThreads.Check(kThreads.field, options.threads),
  };
  for (const absl::Status& status : checks) {
    if (!status.ok()) return status;
  }
  ModelOptions model;
  absl::Status status = SetWeightFormats(options.weights, options.output_weights, &model);
  return status.ok() ? ActivationTypeOf(options.activations).status() : status;
}

ModelOptions ModelOptionsOf(const FeedOptions& options) {
  ModelOptions model;
  model.max_batch_tokens = model.max_logit_rows = options.piece;
  model.threads = options.threads;
  model.activations = ActivationTypeOf(options.activations).value();
  PACKRAT_CHECK(SetWeightFormats(options.weights, options.output_weights, &model).ok());
  return model;
}

absl::StatusOr<float*> TextFeed::Next() {
  const int n = size();
  Span span = state_->SpanFor(0, 0, n, first_);
  span.num_logits = n;
  span.solver = options_.solver;
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
