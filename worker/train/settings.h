// What a training run is: everything that its losses depend on. A run continues only under the settings it began with.
// Thread-safety: plain values and pure functions.
#ifndef KVLINK_WORKER_TRAIN_SETTINGS_H_
#define KVLINK_WORKER_TRAIN_SETTINGS_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "worker/train/sequence.h"

namespace kvlink::train {

enum class Mode {
  kWrapper,       // the model is frozen; the wrapper's embeddings learn
  kLinks,         // the same for link embeddings
  kWrapperLinks,  // and for both
  kLora,          // low-rank products beside the layers' matrices; links too, if there are some
  kFull,          // every parameter; links too, if there are some
};
absl::string_view ModeName(Mode mode);
// Whether the model itself stays as it is.
bool Frozen(Mode mode);
bool HasWrapper(Mode mode);

enum class Schedule { kCosine, kLinear, kConstant };  // after the warm-up, down to 0
absl::string_view ScheduleName(Schedule schedule);
// INVALID_ARGUMENT: lists the schedules.
absl::StatusOr<Schedule> ParseSchedule(absl::string_view name);

struct Settings {
  Mode mode = Mode::kWrapper;
  Embeddings embeddings;
  // Tokens of the model, as which the embeddings begin, in their order, over and over. Empty: random ones.
  std::vector<int32_t> begin;
  int64_t rank = 16;
  double alpha = 32;  // the low-rank product is scaled by alpha / rank

  int64_t steps = 240;
  int64_t batch = 64;     // packs of a step
  int64_t tokens = 4096;  // the longest sequence, and the size of a pack
  bool pack = false;      // several sequences in a pack
  double learning_rate = 5e-4;
  int64_t warm_up = 0;  // steps from 0 to the learning rate
  Schedule schedule = Schedule::kLinear;
  double weight_decay = 0;
  double beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8;
  double clip = 1;           // of the gradient's norm
  double divergence = 1;     // weight of KL(full attention of the model as it was || trained)
  double cross_entropy = 1;  // weight of the answers' cross-entropy

  int64_t held_out = 64;    // examples that are measured and never learned from; 0: none
  int64_t every = 20;       // steps between two measurements
  int64_t patience = 4;     // measurements without a better one after which training ends; 0: it never does
  int64_t checkpoint = 20;  // steps between two checkpoints
  double ruin = 3;          // training ends when the loss exceeds this multiple of what it was at the beginning

  uint64_t seed = 1;
  std::string device = "cpu";  // or "cuda"
  bool bf16 = false;           // matrix products
  // Packs of more tokens keep only each layer's input for the backward pass, which computes the rest again.
  int64_t recompute_above = 1024;
  int64_t threads = 0;  // 0: one for every core
};

// The defaults of a mode: KV Packet's recipe for frozen models, KVLink's for all others.
Settings DefaultSettings(Mode mode);
// INVALID_ARGUMENT naming the setting.
absl::Status CheckSettings(const Settings& settings);
// What the losses depend on, by name. Steps and how often something is written are not part of it, so that a run can be
// made longer only if its schedule is constant: others depend on the number of steps.
std::map<std::string, std::string> Describe(const Settings& settings);
double LearningRate(const Settings& settings, int64_t step);

}  // namespace kvlink::train

#endif  // KVLINK_WORKER_TRAIN_SETTINGS_H_
