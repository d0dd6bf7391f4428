// A table as a picture: recovery against time to first token, a point for each linker and codec.
// Thread-safety: a pure function.
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

}  // namespace kvlink::eval

#endif  // KVLINK_WORKER_EVAL_PLOT_H_
