#include "worker/cli/open.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cuda/cuda.h"
#include "worker/encode/encoder.h"
#include "worker/files/open_tokenizer.h"

namespace kvlink::cli {
namespace {

absl::StatusOr<std::unique_ptr<kernels::Backend>> MakeBackend(const ModelFlags& flags) {
  if (flags.device == "cuda") return kernels::MakeCudaBackend({});
  using Compute = kernels::CpuOptions::Compute;
  kernels::CpuOptions options;
  options.threads = static_cast<int>(flags.threads);
  options.compute = flags.compute == "f32" ? Compute::kF32 : flags.compute == "bf16" ? Compute::kBf16 : Compute::kAuto;
  return kernels::MakeCpuBackend(options);
}

}  // namespace

ModelFlags::ModelFlags() : model(Environment("KVLINK_MODEL")) {
  if (model.empty()) model = "models/SmolLM2-135M-Instruct.Q4_1.gguf";
}

void AddModelFlags(Arguments& arguments, ModelFlags& flags) {
  arguments.Text("model", "PATH", "The model: a .gguf file, or a directory with config.json and safetensors files.",
                 &flags.model);
  arguments.Text(
      "profile", "NAME|FILE",
      "Link profile, which lays out documents in a prompt: untuned, kvlink-llama-1, kvlink-llama-5 or a JSON file.",
      &flags.profile);
  arguments.Choice("device", {"cpu", "cuda"}, "Where to compute; cuda: on an NVIDIA GPU.", &flags.device);
  arguments.Choice("compute", {"auto", "f32", "bf16"},
                   "Number format for arithmetic on the CPU; auto: bf16 if this CPU multiplies it (AMX, AVX512_BF16), "
                   "otherwise f32.",
                   &flags.compute);
  arguments.Threads(&flags.threads);
}

absl::StatusOr<std::unique_ptr<model::Weights>> OpenModelWeights(const std::string& path) {
  auto weights = model::OpenWeights(path);
  if (!absl::IsNotFound(weights.status())) return weights;
  return absl::NotFoundError(
      absl::StrCat(weights.status().message(),
                   "; name a model with --model or KVLINK_MODEL (deploy/install-deps.sh installs the default one)"));
}

absl::StatusOr<OpenedModel> OpenModel(const ModelFlags& flags) {
  OpenedModel opened;
  opened.path = flags.model;
  KVLINK_ASSIGN_OR_RETURN(opened.profile, link::LoadLinkProfile(flags.profile));
  KVLINK_ASSIGN_OR_RETURN(opened.backend, MakeBackend(flags));
  KVLINK_ASSIGN_OR_RETURN(opened.weights, OpenModelWeights(flags.model));
  KVLINK_RETURN_IF_ERROR(link::CheckProfile(opened.profile, opened.weights->config()));
  KVLINK_ASSIGN_OR_RETURN(opened.wrapper, encode::LoadWrapper(opened.profile, opened.weights->config()));
  KVLINK_ASSIGN_OR_RETURN(opened.tokenizer, model::OpenTokenizer(flags.model));
  KVLINK_ASSIGN_OR_RETURN(opened.fingerprint, encode::FingerprintOf(*opened.weights, /*use_cache=*/true));
  KVLINK_ASSIGN_OR_RETURN(opened.model, model::Model::Load(opened.backend.get(), *opened.weights, {}));
  return opened;
}

}  // namespace kvlink::cli
