// Everything random is a function of the seed and of how many examples were drawn, and the learner's tensors are saved
// as they are: a continued run computes the same losses, to the bit, as one that was never interrupted.
#include "worker/train/trainer.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace kvlink::train {
namespace {

constexpr int kMaxUnfit = 1000;       // examples in a row
constexpr double kRecentDecay = 0.9;  // of the running mean

// Examples that a step draws at most: its packs are full of lessons of one token, one more does not fit, and each is
// found at the last try.
int64_t MaxDrawn(const Settings& settings) {
  return kMaxUnfit * (settings.batch * (settings.pack ? settings.tokens : 1) + 1);
}

double Mean(double sum, int64_t count) { return sum / static_cast<double>(std::max<int64_t>(1, count)); }

}  // namespace

absl::StatusOr<Outcome> Trainer::Train(const Run& run) {
  Trainer trainer(run);
  KVLINK_RETURN_IF_ERROR(trainer.Prepare());
  return trainer.Loop();
}

absl::Status Trainer::Prepare() {
  KVLINK_RETURN_IF_ERROR(CheckSettings(settings_));
  for (const Source& source : run_.mixture->sources) {
    if (Frozen(settings_.mode) && source.reading == Reading::kFull) {
      return absl::InvalidArgumentError(
          absl::StrCat("the mode ", ModeName(settings_.mode),
                       " learns nothing from what is read in full; leave such sources out of the mixture"));
    }
  }
  state_.run = Describe(settings_);
  state_.run.insert(run_.identity.begin(), run_.identity.end());
  state_.run["data"] = DescribeMixture(*run_.mixture);
  path_ = run_.directory + "/checkpoint.kvtc";
  KVLINK_ASSIGN_OR_RETURN(std::optional<Checkpoint> there, ReadCheckpoint(path_, state_.run));
  if (there) {
    if (there->drawn / MaxDrawn(settings_) > there->step) {
      return absl::InvalidArgumentError(absl::StrCat(path_, ": the training checkpoint is damaged: ", there->drawn,
                                                     " examples are more than ", there->step,
                                                     " steps draw; move it away to begin anew"));
    }
    KVLINK_RETURN_IF_ERROR(Annotate(run_.learner->Set(there->state), path_));
    there->run = std::move(state_.run);  // an earlier build may have named less
    state_ = *std::move(there);
    state_.state.clear();
    saved_ = true;
  }
  KVLINK_ASSIGN_OR_RETURN(metrics_,
                          Metrics::Open(run_.directory, there ? state_.step : -1, state_.measured == state_.step));
  KVLINK_ASSIGN_OR_RETURN(
      stream_, ExampleStream::Open(run_.mixture, settings_.seed, /*held_out=*/false, run_.reader, run_.stopped));
  KVLINK_RETURN_IF_ERROR(stream_->Skip(state_.drawn));
  return HoldOut();
}

// A chat template may refuse what a data set holds, such as a system's turn: that is no damage.
absl::StatusOr<std::optional<Lesson>> Trainer::NextLesson(ExampleStream& stream) {
  KVLINK_ASSIGN_OR_RETURN(const ExampleStream::Drawn drawn, stream.Next());
  auto lesson = run_.maker->Make(drawn.example, drawn.source->reading, drawn.source->cut, settings_.tokens);
  if (!absl::IsFailedPrecondition(lesson.status()) && !absl::IsInvalidArgument(lesson.status())) return lesson;
  if (refused_.empty()) {
    refused_ = std::string(lesson.status().message());
    if (run_.left_out) run_.left_out(refused_);
  }
  return std::nullopt;
}

absl::StatusOr<Lesson> Trainer::FittingLesson(ExampleStream& stream) {
  for (int i = 0; i < kMaxUnfit; ++i) {
    KVLINK_ASSIGN_OR_RETURN(std::optional<Lesson> lesson, NextLesson(stream));
    if (lesson) return *std::move(lesson);
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "of ", kMaxUnfit, " examples none fits into ", settings_.tokens, " tokens and its documents into the slots",
      refused_.empty() ? "" : absl::StrCat(", or the chat template refuses them (", refused_, ")"),
      "; use more --tokens or --slots, or other examples"));
}

absl::Status Trainer::HoldOut() {
  if (settings_.held_out == 0) return absl::OkStatus();
  KVLINK_ASSIGN_OR_RETURN(const auto stream, ExampleStream::Open(run_.mixture, settings_.seed, /*held_out=*/true,
                                                                 run_.reader, run_.stopped));
  while (static_cast<int64_t>(held_out_.size()) < settings_.held_out) {
    KVLINK_ASSIGN_OR_RETURN(Lesson lesson, FittingLesson(*stream));
    held_out_.push_back({std::move(lesson)});
  }
  return absl::OkStatus();
}

// A lesson that does not fit into the last pack is dropped, so that nothing is carried from one step to the next.
absl::StatusOr<std::vector<Learner::Pack>> Trainer::NextPacks() {
  std::vector<Learner::Pack> packs(1);
  int64_t room = settings_.tokens;
  while (true) {
    KVLINK_ASSIGN_OR_RETURN(Lesson lesson, FittingLesson(*stream_));
    const auto size = static_cast<int64_t>(lesson.student.tokens.size());
    if (!packs.back().empty() && (!settings_.pack || size > room)) {
      if (static_cast<int64_t>(packs.size()) == settings_.batch) break;
      packs.emplace_back();
      room = settings_.tokens;
    }
    room -= size;
    packs.back().push_back(std::move(lesson));
    if (!settings_.pack && static_cast<int64_t>(packs.size()) == settings_.batch) break;
  }
  return packs;
}

double Trainer::Weighted(const Learner::Losses& losses) const {
  return Mean(settings_.divergence * losses.divergence + settings_.cross_entropy * losses.cross_entropy, losses.tokens);
}

absl::StatusOr<std::optional<Learner::Losses>> Trainer::LossesOf(const std::vector<Learner::Pack>& packs) {
  Learner::Losses sum;
  const auto group = static_cast<size_t>(run_.learner->at_once());
  for (size_t begin = 0; begin < packs.size(); begin += group) {
    if (run_.stopped && run_.stopped()) return std::nullopt;
    KVLINK_ASSIGN_OR_RETURN(const Learner::Losses losses,
                            run_.learner->Measure(absl::MakeConstSpan(packs).subspan(begin, group)));
    sum.Add(losses);
  }
  return sum;
}

absl::StatusOr<bool> Trainer::Measure() {
  if (!held_out_.empty()) {
    KVLINK_ASSIGN_OR_RETURN(const std::optional<Learner::Losses> sum, LossesOf(held_out_));
    if (!sum) return false;
    std::optional<Learner::Losses> concat;
    if (state_.step == 0 && Frozen(settings_.mode)) {
      std::vector<Learner::Pack> plain = held_out_;
      for (Learner::Pack& pack : plain) {
        for (Lesson& lesson : pack) lesson.student = run_.maker->WithoutEmbeddings(lesson.student);
      }
      KVLINK_ASSIGN_OR_RETURN(concat, LossesOf(plain));
      if (!concat) return false;
    }
    KVLINK_RETURN_IF_ERROR(Judge(*sum, concat));
  }
  state_.measured = state_.step;
  saved_ = false;
  return true;
}

absl::Status Trainer::Judge(const Learner::Losses& sum, const std::optional<Learner::Losses>& concat) {
  measured_ = Weighted(sum);
  if (state_.step == 0) state_.begun = measured_;
  Metric metric{state_.step, {}};
  if (settings_.divergence > 0) metric.values.emplace_back("held_out_divergence", Mean(sum.divergence, sum.tokens));
  metric.values.emplace_back("held_out_cross_entropy", Mean(sum.cross_entropy, sum.tokens));
  if (concat) {
    if (settings_.divergence > 0) metric.values.emplace_back("concat_divergence", Mean(concat->divergence, sum.tokens));
    metric.values.emplace_back("concat_cross_entropy", Mean(concat->cross_entropy, sum.tokens));
  }
  // What is chosen is nearest to full attention; without a teacher, what answers best.
  const double measure = Mean(settings_.divergence > 0 ? sum.divergence : sum.cross_entropy, sum.tokens);
  const bool better = std::isfinite(measure) && !(state_.best && measure >= *state_.best);
  // First what may fail: after an error, a checkpoint names the step of the tensors that it holds, and the measurement,
  // which is then made again, is not written.
  std::vector<NamedTensor> trained;
  if (better) {
    KVLINK_ASSIGN_OR_RETURN(trained, run_.learner->Trained());
  }
  KVLINK_RETURN_IF_ERROR(metrics_->Append(std::move(metric)));
  if (!better) {
    ++state_.worse;
    return absl::OkStatus();
  }
  state_.chosen = std::move(trained);
  state_.best = measure;
  state_.best_step = state_.step;
  state_.worse = 0;
  return absl::OkStatus();
}

absl::StatusOr<std::optional<Outcome::End>> Trainer::Step() {
  KVLINK_ASSIGN_OR_RETURN(const std::vector<Learner::Pack> packs, NextPacks());
  int64_t tokens = 0, computed = 0;
  for (const Learner::Pack& pack : packs) {
    for (const Lesson& lesson : pack) {
      tokens += static_cast<int64_t>(lesson.student.learned.size());
      computed += static_cast<int64_t>(lesson.student.tokens.size());
    }
  }
  Learner::Losses sum;
  const auto group = static_cast<size_t>(run_.learner->at_once());
  for (size_t begin = 0; begin < packs.size(); begin += group) {
    if (run_.stopped && run_.stopped()) return Outcome::End::kStopped;  // the step is made again
    KVLINK_ASSIGN_OR_RETURN(
        const Learner::Losses losses,
        run_.learner->Accumulate(absl::MakeConstSpan(packs).subspan(begin, group), 1 / static_cast<double>(tokens)));
    sum.Add(losses);
    if (run_.progress) {
      const double part =
          static_cast<double>(std::min(begin + group, packs.size())) / static_cast<double>(packs.size());
      run_.progress({(static_cast<double>(state_.step) + part) / static_cast<double>(settings_.steps), state_.step,
                     Weighted(sum), measured_});
    }
  }
  const double loss = Weighted(sum), rate = LearningRate(settings_, state_.step);
  if (!state_.begun) state_.begun = loss;
  state_.recent = state_.recent ? kRecentDecay * *state_.recent + (1 - kRecentDecay) * loss : loss;
  const auto ruined = [&](absl::string_view what) {
    why_ = absl::StrCat("training diverged at step ", state_.step + 1, ": ", what);
    return Outcome::End::kRuined;
  };
  if (!std::isfinite(loss)) return ruined("the loss is not finite");
  if (*state_.recent > settings_.ruin * *state_.begun) {
    return ruined(absl::StrCat("the loss is ", *state_.recent, ", and was ", *state_.begun, " in the beginning"));
  }
  torn_ = true;
  const absl::StatusOr<double> norm = run_.learner->Step(rate);
  torn_ = !norm.ok();
  if (absl::IsAborted(norm.status())) return ruined(norm.status().message());
  KVLINK_RETURN_IF_ERROR(norm.status());
  ++state_.step;
  state_.drawn = stream_->drawn();
  saved_ = false;
  Metric metric{state_.step,
                {{"loss", loss},
                 {"cross_entropy", Mean(sum.cross_entropy, sum.tokens)},
                 {"gradient_norm", *norm},
                 {"learning_rate", rate},
                 {"learned_tokens", static_cast<double>(sum.tokens)},
                 {"tokens", static_cast<double>(computed)}}};
  if (settings_.divergence > 0) metric.values.emplace_back("divergence", Mean(sum.divergence, sum.tokens));
  KVLINK_RETURN_IF_ERROR(metrics_->Append(std::move(metric)));
  return std::nullopt;
}

absl::Status Trainer::Save() {
  if (saved_) return absl::OkStatus();
  KVLINK_ASSIGN_OR_RETURN(state_.state, run_.learner->State());
  const absl::Status written = WriteCheckpoint(path_, state_);
  state_.state.clear();
  if (!written.ok()) {
    return absl::Status(written.code(), absl::StrCat("the checkpoint of step ", state_.step, " could not be written: ",
                                                     written.message(), "; the one before it, if any, is whole"));
  }
  saved_ = true;
  return metrics_->WriteEvents();
}

absl::StatusOr<Outcome::End> Trainer::Steps() {
  while (true) {
    const bool last = state_.step >= settings_.steps;
    if ((last || state_.step % settings_.every == 0) && state_.measured != state_.step) {
      KVLINK_ASSIGN_OR_RETURN(const bool whole, Measure());
      if (!whole) return Outcome::End::kStopped;
    }
    // The first one says whether there is room for it.
    if (last || state_.step % settings_.checkpoint == 0) KVLINK_RETURN_IF_ERROR(Save());
    if (last) return Outcome::End::kSteps;
    if (settings_.patience > 0 && state_.worse >= settings_.patience) return Outcome::End::kEarly;
    KVLINK_ASSIGN_OR_RETURN(const std::optional<Outcome::End> end, Step());
    if (end) return *end;
  }
}

absl::StatusOr<Outcome> Trainer::Loop() {
  const absl::StatusOr<Outcome::End> end = Steps();
  if (end.ok()) return Finish(*end);
  if (absl::IsCancelled(end.status())) return Finish(Outcome::End::kStopped);  // where examples are drawn
  if (!torn_ && Save().ok() && state_.step > 0) {
    return absl::Status(end.status().code(),
                        absl::StrCat(end.status().message(), "; the checkpoint is of step ", state_.step));
  }
  return end.status();
}

absl::StatusOr<Outcome> Trainer::Finish(Outcome::End end) {
  Outcome outcome{end, state_.step, state_.step, state_.best, why_, CurvesPlot(metrics_->all())};
  if (end != Outcome::End::kRuined) KVLINK_RETURN_IF_ERROR(Save());
  KVLINK_RETURN_IF_ERROR(metrics_->WriteEvents());
  if (!state_.chosen.empty()) {
    KVLINK_RETURN_IF_ERROR(run_.learner->Set(state_.chosen));
    outcome.chosen = state_.best_step;
  } else if (end == Outcome::End::kRuined) {
    KVLINK_ASSIGN_OR_RETURN(const std::optional<Checkpoint> good, ReadCheckpoint(path_, state_.run));
    if (!good) return absl::InternalError(absl::StrCat(path_, " is gone"));
    KVLINK_RETURN_IF_ERROR(run_.learner->Set(good->state));
    outcome.chosen = good->step;
  }
  return outcome;
}

}  // namespace kvlink::train
