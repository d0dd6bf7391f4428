// Runs CUDA kernels on the host, for tests: one block after another, its threads as fibers of one OS thread that yield
// where they wait for each other. Shared memory is a heap block of exactly the launch's size (so that AddressSanitizer
// detects accesses beyond it), filled with 0xff (NaN) before each block. Every other block runs its threads in
// descending order, so that a missing barrier makes one of the two read unwritten data. A barrier or collective that
// some threads never reach, or two different ones at the same time, end the process with a message.
//
// Thread-safety: RunGrid may be called by many threads; one grid runs at a time.
#ifndef KVLINK_TESTS_SUPPORT_CUDA_EMULATION_EMULATOR_H_
#define KVLINK_TESTS_SUPPORT_CUDA_EMULATION_EMULATOR_H_

#include <cstdint>
#include <functional>

namespace kvlink::testing::emulation {

// The position of the running fiber.
struct Position {
  int thread = 0;
  int threads = 0;
  int64_t block_x = 0, block_y = 0, grid_x = 0;
  unsigned char* shared = nullptr;
};
extern Position position;

void RunGrid(int64_t grid_x, int64_t grid_y, int threads, int64_t shared, const std::function<void()>& kernel);

// Waits for all threads of the block.
void Barrier();
// Waits for all lanes of the warp; the last to arrive calls `compute` with the operands of all lanes. `operands` stays
// valid until then, on the stack of a waiting fiber.
using Compute = void (*)(void* const* operands);
void Collective(Compute compute, void* operands);

}  // namespace kvlink::testing::emulation

#endif  // KVLINK_TESTS_SUPPORT_CUDA_EMULATION_EMULATOR_H_
