// What a run leaves for `ingest`, `ask` and `serve`: a link profile with its embeddings, and a merged model.
// Thread-safety: functions over the file system. Errors name the file; RESOURCE_EXHAUSTED: no room on the disk.
#ifndef KVLINK_WORKER_TRAIN_OUTPUT_H_
#define KVLINK_WORKER_TRAIN_OUTPUT_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "worker/link/profile.h"
#include "worker/train/learner.h"
#include "worker/train/settings.h"
#include "worker/train/tensor_file.h"

namespace kvlink::train {

// Writes DIRECTORY/profile.json, and beside it wrapper.safetensors and link_embeddings.safetensors as far as `trained`
// (Learner::Trained) holds such tensors. `name`: empty: the directory's. `base`: where documents stand and what they
// look like.
absl::Status WriteProfile(const std::string& directory, const std::string& name, const link::LinkProfile& base,
                          const Settings& settings, absl::Span<const NamedTensor> trained);

// The config.json of a model that is made of `source`, with the element type of the new weights. INVALID_ARGUMENT: not
// JSON; whoever trains asks before the first step.
absl::StatusOr<std::string> MergedConfig(const std::string& source, bool bf16);

// Writes a Hugging Face model: MergedConfig and the tokenizer's files of `source`, and model.safetensors with the
// learner's parameters.
absl::Status WriteModel(const std::string& directory, const std::string& source, bool bf16, Learner& learner);

}  // namespace kvlink::train

#endif  // KVLINK_WORKER_TRAIN_OUTPUT_H_
