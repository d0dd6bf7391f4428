// What a checkpoint has to agree with beside the settings and the data. Thread-safety: a pure function of its arguments
// and the sizes of the model's files.
#ifndef KVLINK_WORKER_TRAIN_IDENTITY_H_
#define KVLINK_WORKER_TRAIN_IDENTITY_H_

#include <map>
#include <string>

#include "absl/strings/string_view.h"
#include "worker/files/config.h"
#include "worker/files/weights.h"
#include "worker/link/profile.h"
#include "worker/text/tokenizer.h"

namespace kvlink::train {

// By name, as part of Checkpoint::run (docs/formats.md "Training checkpoint"). A name keeps its meaning, so that
// checkpoints of earlier builds stay readable. `path`: of the model. `weights`: nullptr if training begins with random
// ones. `chat_template`: its source.
std::map<std::string, std::string> IdentityOf(const std::string& path, const model::Weights* weights,
                                              const model::ModelConfig& config, absl::string_view chat_template,
                                              const model::Tokenizer& tokenizer, const link::LinkProfile& profile);

}  // namespace kvlink::train

#endif  // KVLINK_WORKER_TRAIN_IDENTITY_H_
