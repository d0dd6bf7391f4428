// What kernels could use of this CPU, for people; each kernel finds out by itself what it uses.
#ifndef KVLINK_KERNELS_CPU_INSTRUCTION_SETS_H_
#define KVLINK_KERNELS_CPU_INSTRUCTION_SETS_H_

#include <string>
#include <vector>

namespace kvlink::kernels {

// Of AVX2, AVX512, AVX512_BF16, AVX512_VNNI and AMX_BF16 those that this CPU has and the system lets processes use.
// Empty on other architectures, and in a build without Highway, which uses none. Thread-safe.
std::vector<std::string> InstructionSets();

}  // namespace kvlink::kernels

#endif  // KVLINK_KERNELS_CPU_INSTRUCTION_SETS_H_
