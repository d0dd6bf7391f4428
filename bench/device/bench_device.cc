// Does a device deliver what its memory, its link and its arithmetic allow? Measures linked attention, decoding and
// encoding for a random-weight model of the shape of Llama-3.1-8B, time to first token by context, and concurrent
// requests over the same documents, each compared with ceilings measured in the same run.
#include <cstdio>
#include <memory>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "base/status.h"
#include "bench/device/device_bench.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cuda/cuda.h"

namespace kvlink::bench {
namespace {

absl::StatusOr<std::unique_ptr<kernels::Backend>> MakeBackend(const Flags& flags) {
  const std::string name = flags.Get("backend", "cuda");
  if (name == "cpu") return kernels::MakeCpuBackend({});
  if (name == "cuda") return kernels::MakeCudaBackend({.device = static_cast<int>(flags.GetInt("device", 0))});
  return absl::InvalidArgumentError(absl::StrCat("--backend: '", name, "' is neither cuda nor cpu"));
}

absl::StatusOr<DeviceBenchOptions> Options(const Flags& flags) {
  DeviceBenchOptions options = flags.Has("small") ? SmallDeviceBench() : DeviceBenchOptions();
  options.rounds = static_cast<int>(flags.GetInt("rounds", options.rounds));
  options.prefill_chunk = flags.GetInt("chunk", options.prefill_chunk);
  if (options.rounds < 1 || options.prefill_chunk < 1) {
    return absl::InvalidArgumentError("--rounds and --chunk are at least 1");
  }
  if (flags.Has("layers")) {
    options.config.layers = flags.GetInt("layers", options.config.layers);
    options.config.window.assign(std::max<int64_t>(0, options.config.layers), 0);
    options.targets = false;
  }
  if (flags.Has("contexts")) {
    options.contexts.clear();
    for (absl::string_view part : absl::StrSplit(flags.Get("contexts", ""), ',')) {
      if (!absl::SimpleAtoi(part, &options.contexts.emplace_back())) {
        return absl::InvalidArgumentError(absl::StrCat("--contexts: '", part, "' is not a number"));
      }
    }
  }
  if (flags.Has("sections")) options.sections = absl::StrSplit(flags.Get("sections", ""), ',');
  if (flags.Get("backend", "cuda") == "cuda") {
    options.memory_in_use = [device = static_cast<int>(flags.GetInt("device", 0))] {
      return kernels::CudaMemoryInUse(device);
    };
  } else {
    options.targets = false;
  }
  return options;
}

absl::StatusOr<int> Run(const Flags& flags) {
  KVLINK_ASSIGN_OR_RETURN(const DeviceBenchOptions options, Options(flags));
  auto backend = MakeBackend(flags);
  if (absl::IsUnavailable(backend.status())) {
    std::printf("bench_device: skipped, %s\n", std::string(backend.status().message()).c_str());
    return 0;
  }
  KVLINK_RETURN_IF_ERROR(backend.status());
  Report report("Passes on a device");
  KVLINK_RETURN_IF_ERROR(RunDeviceBench(backend->get(), options, &report));
  return report.Finish(flags.json());
}

absl::StatusOr<int> Main(int argc, char** argv) {
  KVLINK_ASSIGN_OR_RETURN(
      const Flags flags,
      Flags::Parse(argc, argv, "Measures attention, decoding, encoding and time to first token on a device.",
                   {{"backend", "cuda|cpu", "Where to compute (default cuda)."},
                    {"device", "N", "The CUDA device (default 0)."},
                    {"sections", "NAME,...", "Of attention, decode, encode, ttft, sharing (default all)."},
                    {"contexts", "N,N,...", "Tokens of the documents, by which ttft runs (default 1024 to 65536)."},
                    {"rounds", "N", "Rounds of each (default 5)."},
                    {"chunk", "N", "Rows of a pass of the full prefill (default 4096)."},
                    {"layers", "N", "Fewer layers than the model has; the figures have no targets then."},
                    {"small", "", "A toy of a model: shows that the bench works."}}));
  if (flags.help_wanted()) return 0;
  return Run(flags);
}

}  // namespace
}  // namespace kvlink::bench

int main(int argc, char** argv) {
  const auto code = kvlink::bench::Main(argc, argv);
  if (code.ok()) return *code;
  std::fprintf(stderr, "bench_device: %s\n", std::string(code.status().message()).c_str());
  return 1;
}
