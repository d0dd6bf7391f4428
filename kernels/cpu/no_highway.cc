// The CPU backend in a build without Highway.
#include "absl/strings/str_cat.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/instruction_sets.h"
#include "kernels/ref/ref.h"

namespace kvlink::kernels {

absl::StatusOr<std::unique_ptr<Backend>> MakeCpuBackend(const CpuOptions& options) {
  if (options.threads < 0 || options.threads > kMaxThreads) {
    return absl::InvalidArgumentError(
        absl::StrCat(options.threads, " threads; use 1 to ", kMaxThreads, ", or 0 for one per core"));
  }
  return MakeRefBackend(options.compute == CpuOptions::Compute::kBf16 ? Dtype::kBf16 : Dtype::kF32);
}

std::vector<std::string> InstructionSets() { return {}; }

}  // namespace kvlink::kernels
