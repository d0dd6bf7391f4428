// The tests that kernels rely on where there are any: they also try the instructions.
#include "kernels/cpu/instruction_sets.h"

#include "kernels/cpu/bf16/amx.h"
#include "kernels/cpu/bf16/avx512_bf16.h"

namespace kvlink::kernels {

std::vector<std::string> InstructionSets() {
  std::vector<std::string> sets;
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") != 0) sets.emplace_back("AVX2");
  if (__builtin_cpu_supports("avx512f") != 0) sets.emplace_back("AVX512");
  if (cpu::HasAvx512Bf16()) sets.emplace_back("AVX512_BF16");
  if (__builtin_cpu_supports("avx512vnni") != 0) sets.emplace_back("AVX512_VNNI");
  if (cpu::HasAmx()) sets.emplace_back("AMX_BF16");
#endif
  return sets;
}

}  // namespace kvlink::kernels
