// A table as a picture: recovery against time to first token, a point for each linker and codec; or quality by order of
// the documents, a curve for each.
// Thread-safety: pure functions.
#ifndef KVLINK_WORKER_EVAL_PLOT_H_
#define KVLINK_WORKER_EVAL_PLOT_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "worker/eval/report.h"

namespace kvlink::eval {

// A script for cli::DrawPng. It shows the cells over all kinds, or of the only kind, by codec and order, with
// intervals; recovery is of EM, else of choice, else of ROUGE-L, as the cells have it. FAILED_PRECONDITION: no cell has
// any.
absl::StatusOr<std::string> RecoveryPlot(absl::Span<const Cell> cells);
// The same cells, and the control without documents, in the order of `cells`; EM, else choice, else ROUGE-L.
// FAILED_PRECONDITION: there are not two orders, or no cell has any.
absl::StatusOr<std::string> OrderPlot(absl::Span<const Cell> cells);

}  // namespace kvlink::eval

#endif  // KVLINK_WORKER_EVAL_PLOT_H_
