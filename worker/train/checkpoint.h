// Where a training run stands, on disk (docs/formats.md "Training checkpoint").
// Thread-safety: plain values and functions over the file system.
#ifndef KVLINK_WORKER_TRAIN_CHECKPOINT_H_
#define KVLINK_WORKER_TRAIN_CHECKPOINT_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "worker/train/tensor_file.h"

namespace kvlink::train {

struct Checkpoint {
  std::map<std::string, std::string> run;  // what the losses depend on, by name
  int64_t step = 0;                        // steps made
  int64_t drawn = 0;                       // examples drawn, those that did not fit included
  std::optional<double> begun;             // the loss in the beginning
  std::optional<double> recent;            // running mean of the loss
  std::optional<int64_t> measured;         // the last step at which held-out examples were measured
  std::optional<double> best;              // held-out loss
  int64_t best_step = 0;
  int64_t worse = 0;                // measurements since the best
  std::vector<NamedTensor> state;   // Learner::State
  std::vector<NamedTensor> chosen;  // Learner::Trained where the held-out loss was best; empty: nothing is held out
};

std::string EncodeCheckpoint(const Checkpoint& checkpoint);
// INVALID_ARGUMENT: damaged, or no checkpoint; UNIMPLEMENTED: of another version.
absl::StatusOr<Checkpoint> DecodeCheckpoint(absl::string_view bytes);

// Replaces the file at `path` at once. RESOURCE_EXHAUSTED: no room; the file is the one that was there.
absl::Status WriteCheckpoint(const std::string& path, const Checkpoint& checkpoint);
// nullopt if there is none. FAILED_PRECONDITION: of another run, saying what differs; errors of DecodeCheckpoint,
// naming the file.
absl::StatusOr<std::optional<Checkpoint>> ReadCheckpoint(const std::string& path,
                                                         const std::map<std::string, std::string>& run);

}  // namespace kvlink::train

#endif  // KVLINK_WORKER_TRAIN_CHECKPOINT_H_
