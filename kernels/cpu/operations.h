// The operations that work row by row or block by block. Arguments are already validated; errors go to `stream`.
#ifndef KVLINK_KERNELS_CPU_OPERATIONS_H_
#define KVLINK_KERNELS_CPU_OPERATIONS_H_

#include <cstdint>

#include "kernels/cpu/threads.h"
#include "kernels/device/host.h"
#include "kernels/kernels.h"

namespace kvlink::kernels::cpu {

// rows.cc
void Embed(HostStream& stream, const EmbedArgs& args, const Threads& threads);
void AddRmsNorm(const AddRmsNormArgs& args, const Threads& threads);
void QkvFinish(HostStream& stream, const QkvFinishArgs& args, const Threads& threads);
int64_t SampleWorkspaceBytes(int64_t rows, int64_t vocab, int64_t adjusted, const Threads& threads);
void Sample(const SampleArgs& args, const Threads& threads);
void Logprobs(const LogprobsArgs& args, const Threads& threads);

// slabs.cc
void Pack(HostStream& stream, const PackArgs& args, const Threads& threads);
void Decode(const DecodeArgs& args, const Threads& threads);
void ShiftKeys(HostStream& stream, const ShiftKeysArgs& args, const Threads& threads);

// deviation.cc
void KvDeviation(HostStream& stream, const KvDeviationArgs& args, const Threads& threads);

// checksum.cc
void Checksum(const ChecksumArgs& args, const Threads& threads);

}  // namespace kvlink::kernels::cpu

#endif  // KVLINK_KERNELS_CPU_OPERATIONS_H_
