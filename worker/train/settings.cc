#include "worker/train/settings.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace kvlink::train {
namespace {

constexpr std::pair<absl::string_view, Mode> kModes[] = {{"wrapper", Mode::kWrapper},
                                                         {"links", Mode::kLinks},
                                                         {"wrapper+links", Mode::kWrapperLinks},
                                                         {"lora", Mode::kLora},
                                                         {"full", Mode::kFull}};
constexpr std::pair<absl::string_view, Schedule> kSchedules[] = {
    {"cosine", Schedule::kCosine}, {"linear", Schedule::kLinear}, {"constant", Schedule::kConstant}};

bool HasLinks(Mode mode) { return mode == Mode::kLinks || mode == Mode::kWrapperLinks; }

absl::Status WrongSetting(absl::string_view setting, absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat("option --", setting, ": ", why));
}

}  // namespace

absl::string_view ModeName(Mode mode) { return kModes[static_cast<int>(mode)].first; }

bool Frozen(Mode mode) { return mode != Mode::kLora && mode != Mode::kFull; }
bool HasWrapper(Mode mode) { return mode == Mode::kWrapper || mode == Mode::kWrapperLinks; }

absl::string_view ScheduleName(Schedule schedule) { return kSchedules[static_cast<int>(schedule)].first; }

absl::StatusOr<Schedule> ParseSchedule(absl::string_view name) {
  for (const auto& [known, schedule] : kSchedules) {
    if (known == name) return schedule;
  }
  return absl::InvalidArgumentError(absl::StrCat("unknown schedule '", name, "'; use cosine, linear or constant"));
}

Settings DefaultSettings(Mode mode) {
  Settings settings;
  settings.mode = mode;
  if (HasWrapper(mode)) {
    settings.embeddings.header = 8;
    settings.embeddings.trailer = 8;
  }
  if (!HasWrapper(mode)) {
    settings.embeddings.links = 5;
    settings.embeddings.slots = 16;
  }
  if (mode == Mode::kWrapperLinks) {
    settings.embeddings.links = 1;
    settings.embeddings.slots = 16;
  }
  if (Frozen(mode)) return settings;
  settings.steps = 6000;
  settings.pack = true;
  settings.learning_rate = mode == Mode::kFull ? 5e-6 : 1e-4;
  settings.warm_up = 600;
  settings.schedule = Schedule::kCosine;
  settings.weight_decay = mode == Mode::kFull ? 0.01 : 0;
  settings.divergence = 0;
  settings.every = 200;
  settings.checkpoint = 200;
  settings.recompute_above = 0;
  return settings;
}

absl::Status CheckSettings(const Settings& settings) {
  const Embeddings& embeddings = settings.embeddings;
  if (HasWrapper(settings.mode) && embeddings.header + embeddings.trailer == 0) {
    return WrongSetting("header", "the mode trains a wrapper, which needs a header or a trailer");
  }
  if (!HasWrapper(settings.mode) && embeddings.header + embeddings.trailer > 0) {
    return WrongSetting("header", absl::StrCat("the mode ", ModeName(settings.mode), " trains no wrapper"));
  }
  if (HasLinks(settings.mode) && embeddings.link_rows() == 0) {
    return WrongSetting("links", "the mode trains links, so there must be at least one and a slot");
  }
  if (settings.mode == Mode::kWrapper && embeddings.links > 0)
    return WrongSetting("links", "the mode wrapper trains no links");
  if (embeddings.links > 0 && embeddings.slots == 0) return WrongSetting("slots", "links need at least one slot");
  if (settings.divergence == 0 && settings.cross_entropy == 0) {
    return WrongSetting("answer-weight", "nothing is learned if --teacher-weight is 0 as well");
  }
  if (settings.mode == Mode::kFull && settings.divergence > 0) {
    return WrongSetting("teacher-weight", "the mode full changes the model that would be the teacher; use 0");
  }
  if (settings.warm_up > settings.steps) return WrongSetting("warm-up", "longer than the training");
  if (settings.device != "cpu" && settings.device != "cuda") return WrongSetting("device", "use cpu or cuda");
  return absl::OkStatus();
}

std::map<std::string, std::string> Describe(const Settings& settings) {
  std::map<std::string, std::string> described = {
      {"mode", std::string(ModeName(settings.mode))},
      {"links", absl::StrCat(settings.embeddings.links)},
      {"slots", absl::StrCat(settings.embeddings.links > 0 ? settings.embeddings.slots : 0)},
      {"header", absl::StrCat(settings.embeddings.header)},
      {"trailer", absl::StrCat(settings.embeddings.trailer)},
      {"batch", absl::StrCat(settings.batch)},
      {"tokens", absl::StrCat(settings.tokens)},
      {"pack", settings.pack ? "yes" : "no"},
      {"lr", absl::StrCat(settings.learning_rate)},
      {"warm-up", absl::StrCat(settings.warm_up)},
      {"schedule", std::string(ScheduleName(settings.schedule))},
      {"weight-decay", absl::StrCat(settings.weight_decay)},
      {"betas", absl::StrCat(settings.beta1, ",", settings.beta2, ",", settings.epsilon)},
      {"clip", absl::StrCat(settings.clip)},
      {"teacher-weight", absl::StrCat(settings.divergence)},
      {"answer-weight", absl::StrCat(settings.cross_entropy)},
      {"held-out", absl::StrCat(settings.held_out)},
      {"every", absl::StrCat(settings.every)},
      {"patience", absl::StrCat(settings.patience)},
      {"seed", absl::StrCat(settings.seed)},
      {"device", settings.device},
      {"compute", settings.bf16 ? "bf16" : "f32"},
      {"recompute-above", absl::StrCat(settings.recompute_above)},
  };
  if (!settings.begin.empty()) described["begin"] = absl::StrJoin(settings.begin, ",");
  if (settings.mode == Mode::kLora) {
    described["rank"] = absl::StrCat(settings.rank);
    described["alpha"] = absl::StrCat(settings.alpha);
  }
  if (settings.schedule != Schedule::kConstant) described["steps"] = absl::StrCat(settings.steps);
  return described;
}

double LearningRate(const Settings& settings, int64_t step) {
  if (step < settings.warm_up) {
    return settings.learning_rate * static_cast<double>(step + 1) / static_cast<double>(settings.warm_up);
  }
  if (settings.schedule == Schedule::kConstant) return settings.learning_rate;
  const double done = static_cast<double>(step - settings.warm_up) /
                      static_cast<double>(std::max<int64_t>(1, settings.steps - settings.warm_up));
  if (settings.schedule == Schedule::kLinear) return settings.learning_rate * (1 - done);
  return settings.learning_rate * 0.5 * (1 + std::cos(std::numbers::pi * done));
}

}  // namespace kvlink::train
