// A training run: steps, measurements of held-out examples, checkpoints, and the reasons to end.
// Thread-safety: one thread at a time.
#ifndef KVLINK_WORKER_TRAIN_TRAINER_H_
#define KVLINK_WORKER_TRAIN_TRAINER_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/train/checkpoint.h"
#include "worker/train/learner.h"
#include "worker/train/metrics.h"
#include "worker/train/mixture.h"
#include "worker/train/sequence.h"
#include "worker/train/settings.h"

namespace kvlink::train {

struct Progress {
  double done = 0;                 // of all steps, 0 to 1
  int64_t step = 0;                // steps made
  double loss = 0;                 // of the present step so far, per learned token, weighted as the settings say
  std::optional<double> held_out;  // the last one measured
};

struct Run {
  Settings settings;
  std::map<std::string, std::string> identity;  // of model and data; part of what a checkpoint is compared with
  std::string directory;                        // exists
  // These outlive the trainer.
  Learner* learner = nullptr;
  const SequenceMaker* maker = nullptr;
  const Mixture* mixture = nullptr;
  data::ReaderOptions reader;  // of the mixture's files
  // May be empty.
  std::function<void(const Progress&)> progress;
  std::function<bool()> stopped;  // asked between packs, also of held-out examples, and while many examples are drawn
  std::function<void(const std::string&)> left_out;  // told the first example that the chat template refuses, and why
};

struct Outcome {
  enum class End { kSteps, kEarly, kStopped, kRuined };
  End end = End::kSteps;
  int64_t step = 0;                // steps made
  int64_t chosen = 0;              // the step whose tensors the learner holds now
  std::optional<double> held_out;  // of those
  std::string why;                 // of kRuined: what happened, in one line
  std::string curves;              // CurvesPlot of the run
};

class Trainer {
 public:
  // Trains, from the checkpoint in the directory if there is one, and writes metrics.jsonl, checkpoint.kvtc
  // and the events there. At the end the learner holds the tensors with the best held-out loss; the latest if nothing
  // is held out; after a ruined run the last good ones. INVALID_ARGUMENT: settings and data do not fit each other;
  // FAILED_PRECONDITION: the checkpoint is of another run; RESOURCE_EXHAUSTED: no memory, or no room on the disk, where
  // the last checkpoint stays; CANCELLED: stopped before it came to where the checkpoint is, and nothing has changed;
  // errors of ExampleStream and Metrics. What was learned before an error is in the
  // checkpoint if it can be written.
  static absl::StatusOr<Outcome> Train(const Run& run);

 private:
  explicit Trainer(const Run& run) : run_(run), settings_(run.settings) {}
  absl::Status Prepare();
  absl::StatusOr<Outcome> Loop();
  absl::StatusOr<std::optional<Lesson>> NextLesson(ExampleStream& stream);
  absl::StatusOr<Lesson> FittingLesson(ExampleStream& stream);
  absl::StatusOr<std::vector<Learner::Pack>> NextPacks();
  absl::Status HoldOut();
  // Measures the held-out examples, before the first step also as `concat` would read them. False: it was stopped, and
  // nothing has changed.
  absl::StatusOr<bool> Measure();
  // nullopt: stopped.
  absl::StatusOr<std::optional<Learner::Losses>> LossesOf(const std::vector<Learner::Pack>& packs);
  // Counts what was measured, and keeps what is trained if it is the best.
  absl::Status Judge(const Learner::Losses& sum, const std::optional<Learner::Losses>& concat);
  // One step, or why training ends instead: it was stopped, or the model is ruined, which `why_` then explains.
  absl::StatusOr<std::optional<Outcome::End>> Step();
  // Measures and saves where it is time to, and makes steps.
  absl::StatusOr<Outcome::End> Steps();
  absl::Status Save();
  absl::StatusOr<Outcome> Finish(Outcome::End end);
  double Weighted(const Learner::Losses& losses) const;

  const Run& run_;
  const Settings& settings_;
  std::string path_;  // of the checkpoint
  Checkpoint state_;
  std::unique_ptr<ExampleStream> stream_;
  std::unique_ptr<Metrics> metrics_;
  std::vector<Learner::Pack> held_out_;
  std::optional<double> measured_;  // the last held-out loss
  bool saved_ = false;              // state_ is on disk
  bool torn_ = false;               // the learner is within a step of its optimizer
  std::string refused_;             // why the chat template refuses an example; empty: none yet
  std::string why_;
};

}  // namespace kvlink::train

#endif  // KVLINK_WORKER_TRAIN_TRAINER_H_
