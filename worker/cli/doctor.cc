// kvlink doctor: store/cli examines the host and the disk; this part adds what computes.
#include "store/cli/doctor/doctor.h"

#include <dlfcn.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/cli/args.h"
#include "base/status.h"
#include "base/system/system_line.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/instruction_sets.h"
#include "kernels/cuda/cuda.h"
#include "store/cli/doctor/host.h"
#include "worker/cli/commands.h"
#include "worker/cli/open.h"

namespace kvlink::cli {
namespace {

using kernels::Dtype;

// The type that --compute auto chooses on this CPU.
absl::StatusOr<Dtype> ChosenType() {
  KVLINK_ASSIGN_OR_RETURN(const std::unique_ptr<kernels::Backend> backend, kernels::MakeCpuBackend({.threads = 1}));
  return backend->compute_dtype();
}

Finding ArithmeticFinding(Dtype chosen) {
  const std::vector<std::string> sets = kernels::InstructionSets();
  const std::string model = SystemLine("/proc/cpuinfo", "model name\t:");
  Finding finding{"arithmetic", absl::StrCat(model.empty() ? "" : model + " with ",
                                             sets.empty() ? "no vectors known here" : absl::StrJoin(sets, ", "))};
  if (chosen == Dtype::kBf16) {
    finding.effect = absl::StrCat("computes in bf16 by ", sets.back() == "AMX_BF16" ? "AMX" : "AVX512_BF16",
                                  ", faster than in f32 and in half the memory (--compute f32: more exact)");
  } else if (sets.empty()) {
    finding.health = Health::kWarning;
    finding.effect = "computes in f32, without AVX2 or better: slowly";
    finding.mend = "use a CPU with AVX2, or better one with AVX512_BF16 or AMX";
  } else {
    finding.effect = "computes in f32; CPUs with AVX512_BF16 or AMX prefill faster, in bf16";
  }
  return finding;
}

Finding GpuFinding() {
  Finding finding{"gpu", "usable with --device cuda"};
  const absl::Status status = kernels::MakeCudaBackend({}).status();
  if (status.ok()) {
    finding.effect = "ingest, ask and serve can compute on it";
    return finding;
  }
  void* const driver = dlopen("libcuda.so.1", RTLD_LAZY);
  if (driver != nullptr) dlclose(driver);
  if (driver == nullptr) {
    finding.value = "none";
    finding.effect = "everything is computed on the CPU";
    return finding;
  }
  finding.value = absl::StrCat("a driver is here, but: ", status.message());
  finding.health = Health::kWarning;
  finding.effect = "everything is computed on the CPU";
  finding.mend = "build with the preset cuda, for a device of compute capability 8.0 or later";
  return finding;
}

// How much memory the weights take at most, once they are loaded.
int64_t LoadedBytes(const model::Weights& weights, Dtype type) {
  const model::ModelConfig& config = weights.config();
  int64_t elements = config.tied_embeddings ? config.vocab * config.hidden : 0;  // as the head once more
  for (const model::SourceTensor& tensor : weights.tensors()) {
    elements += std::accumulate(tensor.shape.begin(), tensor.shape.end(), int64_t{1}, std::multiplies<>());
  }
  return elements * kernels::DtypeBytes(type);
}

Finding ModelFinding(const std::string& path, Dtype type) {
  Finding finding{"model", path};
  const auto weights = OpenModelWeights(path);
  if (!weights.ok()) {
    finding.value = std::string(weights.status().message());
    finding.health = Health::kError;
    finding.effect = "it cannot be loaded";
    finding.mend = "name another with --model";
    return finding;
  }
  const int64_t bytes = LoadedBytes(**weights, type), available = AvailableMemory();
  const auto size = [](int64_t count) { return FormatBytes(static_cast<double>(count)); };
  absl::StrAppend(&finding.value, ": ", (*weights)->config().architecture, ", up to ", size(bytes), " in ",
                  kernels::DtypeName(type));
  finding.effect = absl::StrCat("fits into the ", size(available), " available");
  if (bytes <= available) return finding;
  finding.health = Health::kError;
  finding.effect = absl::StrCat("does not fit into the ", size(available), " available");
  finding.mend = type == Dtype::kF32 ? "free memory, use a smaller model, or give --compute bf16"
                                     : "free memory, or use a smaller model";
  return finding;
}

}  // namespace

absl::Status RunDoctor(absl::Span<char* const> args) {
  DoctorFlags flags;
  std::string model;
  Arguments arguments("doctor", "",
                      DoctorSummary(". Then what computes: instruction sets\nand the arithmetic that is chosen for "
                                    "them, a GPU, and with --model whether the model fits"));
  AddDoctorFlags(arguments, flags);
  arguments.Text("model", "PATH", "Also look whether this model can be loaded.", &model);
  KVLINK_RETURN_IF_ERROR(arguments.Parse(args));
  if (arguments.help_wanted()) return absl::OkStatus();
  KVLINK_RETURN_IF_ERROR(CheckDoctorFlags(arguments, flags));
  KVLINK_ASSIGN_OR_RETURN(const Dtype type, ChosenType());
  std::vector<Finding> findings = Examine(flags);
  findings.push_back(ArithmeticFinding(type));
  findings.push_back(GpuFinding());
  if (!model.empty()) findings.push_back(ModelFinding(model, type));
  return Report(findings, flags.json);
}

}  // namespace kvlink::cli
