#include "tests/support/backends.h"

#include <cstdio>
#include <cstdlib>

#include "kernels/cuda/cuda.h"
#include "kernels/ref/ref.h"
#include "tests/support/cuda_emulation/backend.h"
#ifdef KVLINK_TEST_CPU
#include "kernels/cpu/cpu.h"
#endif
#ifdef KVLINK_TEST_BF16
#include "kernels/cpu/backend.h"
#include "kernels/cpu/bf16/amx.h"
#include "kernels/cpu/bf16/avx512_bf16.h"
#include "kernels/cpu/threads.h"
#endif

namespace kvlink::testing {
namespace {

#ifdef KVLINK_TEST_CPU
std::unique_ptr<kernels::Backend> MakeCpu(kernels::CpuOptions::Compute compute) {
  auto backend = kernels::MakeCpuBackend({.threads = 0, .compute = compute});
  if (backend.ok()) return *std::move(backend);
  std::fprintf(stderr, "%s\n", std::string(backend.status().message()).c_str());
  std::abort();
}
#endif

#ifdef KVLINK_TEST_BF16
std::unique_ptr<kernels::Backend> MakeAvx512Bf16() {
  namespace cpu = kernels::cpu;
  return cpu::MakeBackend(cpu::Threads(cpu::Threads::Available()),
                          {.bf16 = true, .tiles = cpu::Avx512Bf16Multiply(), .pairs = cpu::Avx512Bf16MultiplyPairs()});
}

// Whether AVX512_BF16 is a backend of its own: without AMX, cpu_bf16 is the one. Prints once if no backend has it.
bool HasOwnAvx512Bf16() {
  static const bool has = [] {
    const bool found = kernels::cpu::HasAvx512Bf16();
    if (!found) std::printf("AVX512_BF16: skipped, this CPU has none\n");
    return found && kernels::cpu::HasAmx();
  }();
  return has;
}
#endif

std::unique_ptr<kernels::Backend> MakeCuda() {
  auto backend = kernels::MakeCudaBackend({});
  return backend.ok() ? *std::move(backend) : nullptr;
}

// Whether this build and this machine have CUDA. Prints once why not.
bool HasCuda() {
  static const bool has = [] {
    const auto backend = kernels::MakeCudaBackend({});
    if (!backend.ok()) {
      std::printf("backend cuda: skipped, %s\n", std::string(backend.status().message()).c_str());
    }
    return backend.ok();
  }();
  return has;
}

}  // namespace

std::vector<BackendFactory> AllBackends() {
  std::vector<BackendFactory> backends;
  backends.push_back({"ref", [] { return kernels::MakeRefBackend(); }});
#ifdef KVLINK_TEST_CPU
  backends.push_back({"cpu_f32", [] { return MakeCpu(kernels::CpuOptions::Compute::kF32); }});
  backends.push_back({"cpu_bf16", [] { return MakeCpu(kernels::CpuOptions::Compute::kBf16); }});
#endif
#ifdef KVLINK_TEST_BF16
  if (HasOwnAvx512Bf16()) backends.push_back({"cpu_avx512_bf16", MakeAvx512Bf16});
#endif
  backends.push_back({"cuda_emulated", MakeEmulatedCudaBackend, /*on_device=*/true});
  if (HasCuda()) backends.push_back({"cuda", MakeCuda, /*on_device=*/true});
  return backends;
}

std::vector<BackendFactory> HostBackends() {
  std::vector<BackendFactory> backends = AllBackends();
  std::erase_if(backends, [](const BackendFactory& backend) { return backend.on_device; });
  return backends;
}

}  // namespace kvlink::testing
