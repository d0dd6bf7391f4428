// Opens the model for commands, from the options they share. The only place that chooses a backend.
// Thread-safety: one thread at a time.
#ifndef KVLINK_WORKER_CLI_OPEN_H_
#define KVLINK_WORKER_CLI_OPEN_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "base/cli/args.h"
#include "kernels/kernels.h"
#include "proto/digest.h"
#include "worker/encode/wrapper.h"
#include "worker/files/weights.h"
#include "worker/link/profile.h"
#include "worker/model/model.h"
#include "worker/text/tokenizer.h"

namespace kvlink::cli {

struct ModelFlags {
  ModelFlags();
  std::string model;  // $KVLINK_MODEL, or models/SmolLM2-135M-Instruct.Q4_1.gguf
  std::string profile = "untuned";
  std::string device = "cpu";
  std::string compute = "auto";
  int64_t threads = 0;  // 0: every core this process may use
};

// --model, --profile, --device, --compute, --threads.
void AddModelFlags(Arguments& arguments, ModelFlags& flags);

// Opens the weights at `path`; NOT_FOUND says how to name another model.
absl::StatusOr<std::unique_ptr<model::Weights>> OpenModelWeights(const std::string& path);

// A model ready to run. Members are destroyed in reverse order: later members may refer to earlier ones.
struct OpenedModel {
  std::string path;
  std::unique_ptr<kernels::Backend> backend;
  std::unique_ptr<model::Weights> weights;  // source of the tokenizer and template; packed weights do not need it
  std::unique_ptr<model::Tokenizer> tokenizer;
  std::unique_ptr<model::Model> model;
  Fingerprint fingerprint;
  link::LinkProfile profile;
  encode::Wrapper wrapper;  // the profile's
};
absl::StatusOr<OpenedModel> OpenModel(const ModelFlags& flags);

}  // namespace kvlink::cli

#endif  // KVLINK_WORKER_CLI_OPEN_H_
