// LinkedAttention and KeyMass on the CPU: run a CpuPlan.
#ifndef KVLINK_KERNELS_CPU_ATTENTION_ATTENTION_H_
#define KVLINK_KERNELS_CPU_ATTENTION_ATTENTION_H_

#include "kernels/cpu/attention/attention_plan.h"
#include "kernels/cpu/bf16/tiles.h"
#include "kernels/cpu/threads.h"
#include "kernels/kernels.h"

namespace kvlink::kernels::cpu {

// `tiles` multiplies bf16 segments for groups of several rows; nullptr: everything in f32.
int64_t AttentionWorkspaceBytes(const CpuPlan& plan, const AttentionParams& params, const Threads& threads,
                                MultiplyTiles tiles);

// Arguments are already validated.
void LinkedAttention(const CpuPlan& plan, const LinkedAttentionArgs& args, const Threads& threads, MultiplyTiles tiles);
void KeyMass(const CpuPlan& plan, const KeyMassArgs& args, const Threads& threads, MultiplyTiles tiles);

}  // namespace kvlink::kernels::cpu

#endif  // KVLINK_KERNELS_CPU_ATTENTION_ATTENTION_H_
