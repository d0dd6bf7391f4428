#include "tests/support/cuda_emulation/emulator.h"

#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "base/mutex.h"
#if !defined(__x86_64__)
#include <ucontext.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

namespace kvlink::testing::emulation {

Position position;

namespace {

constexpr int kLanes = 32, kMaxThreads = 1024;
constexpr size_t kStackBytes = 128 << 10;

[[noreturn]] void Die(const char* what) {
  std::fprintf(stderr, "CUDA emulation: block %lld, %lld, thread %d: %s\n", static_cast<long long>(position.block_x),
               static_cast<long long>(position.block_y), position.thread, what);
  std::abort();
}

// A stack and its saved position. swapcontext asks the kernel for the signal mask on each switch, which would take most
// of the time; on x86-64 a dozen instructions replace it.
#if defined(__x86_64__)
struct Context {
  void* stack_pointer = nullptr;
};
extern "C" void KvlinkSwitchStack(void** save, void* load);
asm(R"(
.pushsection .text
.type KvlinkSwitchStack, @function
KvlinkSwitchStack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size KvlinkSwitchStack, .-KvlinkSwitchStack
.popsection
)");
void Prepare(Context& context, char* stack, void (*entry)()) {
  // Six registers, the entry as the return address, and space for entry's own return address.
  void** top = reinterpret_cast<void**>(stack + kStackBytes) - 8;
  std::memset(static_cast<void*>(top), 0, 8 * sizeof(void*));
  top[6] = reinterpret_cast<void*>(entry);
  context.stack_pointer = top;
}
void SwitchTo(Context& from, const Context& to) { KvlinkSwitchStack(&from.stack_pointer, to.stack_pointer); }
#else
using Context = ucontext_t;
void Prepare(Context& context, char* stack, void (*entry)()) {
  getcontext(&context);
  context.uc_stack.ss_sp = stack;
  context.uc_stack.ss_size = kStackBytes;
  makecontext(&context, entry, 0);
}
void SwitchTo(Context& from, const Context& to) { swapcontext(&from, &to); }
#endif

// A point that a number of fibers must reach before any continues.
struct Meeting {
  int arrived = 0;
  uint32_t held = 0;  // how often all have arrived
};

struct Fiber {
  Context context;
  char* stack = nullptr;
  bool done = false;
  const uint32_t* waits_for = nullptr;  // waits while *waits_for == seen
  uint32_t seen = 0;
  bool Runnable() const { return !done && (waits_for == nullptr || *waits_for != seen); }
};

struct Warp {
  Meeting meeting;
  Compute compute = nullptr;
  void* operands[kLanes];
};

class Machine {
 public:
  Machine() {
    void* stacks = mmap(nullptr, kStackBytes * kMaxThreads, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (stacks == MAP_FAILED) Die("no memory for stacks");
    for (int i = 0; i < kMaxThreads; ++i) fibers_[i].stack = static_cast<char*>(stacks) + kStackBytes * i;
  }

  void RunBlock(const std::function<void()>& kernel, bool descending) {
    kernel_ = &kernel;
    const int threads = position.threads;
    barrier_ = {};
    for (int i = 0; i < threads; ++i) {
      fibers_[i].done = false;
      fibers_[i].waits_for = nullptr;
      Prepare(fibers_[i].context, fibers_[i].stack, Enter);
    }
    for (int w = 0; w < threads / kLanes; ++w) warps_[w].meeting = {};
    left_ = threads;
    while (left_ > 0) {
      bool moved = false;
      for (int i = 0; i < threads / kLanes; ++i) {
        while (RunWarp(descending ? threads / kLanes - 1 - i : i, descending)) moved = true;
      }
      if (!moved) Die("threads wait for others that have ended or wait elsewhere");
    }
  }

  void Wait(Meeting& meeting) {
    Fiber& fiber = fibers_[position.thread];
    fiber.waits_for = &meeting.held;
    fiber.seen = meeting.held;
    Leave(fiber);
    fiber.waits_for = nullptr;
  }

  void Barrier() {
    if (++barrier_.arrived < position.threads) return Wait(barrier_);
    barrier_.arrived = 0;
    ++barrier_.held;
  }

  void Collective(Compute compute, void* operands) {
    Warp& warp = warps_[position.thread / kLanes];
    if (warp.meeting.arrived > 0 && warp.compute != compute) Die("lanes of a warp are at different collectives");
    warp.compute = compute;
    warp.operands[position.thread % kLanes] = operands;
    if (++warp.meeting.arrived < kLanes) return Wait(warp.meeting);
    compute(warp.operands);
    warp.meeting.arrived = 0;
    ++warp.meeting.held;
  }

 private:
  static void Enter();

  // Returns whether any lane ran.
  bool RunWarp(int warp, bool descending) {
    bool moved = false;
    for (int i = 0; i < kLanes; ++i) {
      const int thread = warp * kLanes + (descending ? kLanes - 1 - i : i);
      if (!fibers_[thread].Runnable()) continue;
      position.thread = thread;
      Resume(fibers_[thread]);
      moved = true;
    }
    return moved;
  }

#if defined(__SANITIZE_ADDRESS__)
  void Resume(Fiber& fiber) {
    void* fake = nullptr;
    __sanitizer_start_switch_fiber(&fake, fiber.stack, kStackBytes);
    SwitchTo(main_, fiber.context);
    __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
  }
  void Leave(Fiber& fiber) {
    void* fake = nullptr;
    __sanitizer_start_switch_fiber(fiber.done ? nullptr : &fake, main_bottom_, main_bytes_);
    SwitchTo(fiber.context, main_);
    Arrived(fake);
  }
  void Arrived(void* fake) { __sanitizer_finish_switch_fiber(fake, &main_bottom_, &main_bytes_); }
  const void* main_bottom_ = nullptr;
  size_t main_bytes_ = 0;
#else
  void Resume(Fiber& fiber) { SwitchTo(main_, fiber.context); }
  void Leave(Fiber& fiber) { SwitchTo(fiber.context, main_); }
  void Arrived(void*) {}
#endif

  const std::function<void()>* kernel_ = nullptr;
  Context main_;
  int left_ = 0;
  Meeting barrier_;
  Fiber fibers_[kMaxThreads];
  Warp warps_[kMaxThreads / kLanes];
};

Machine& TheMachine() {
  static Machine* machine = new Machine;
  return *machine;
}

void Machine::Enter() {
  Machine& machine = TheMachine();
  machine.Arrived(nullptr);
  (*machine.kernel_)();
  Fiber& fiber = machine.fibers_[position.thread];
  fiber.done = true;
  --machine.left_;
  machine.Leave(fiber);
  Die("an ended thread went on");
}

Mutex& GridMutex() {
  static Mutex* mutex = new Mutex;
  return *mutex;
}

}  // namespace

void RunGrid(int64_t grid_x, int64_t grid_y, int threads, int64_t shared, const std::function<void()>& kernel) {
  MutexLock lock(&GridMutex());
  position = {};
  if (threads < kLanes || threads > kMaxThreads || threads % kLanes != 0) Die("a block is 1 to 32 whole warps");
  if (grid_x < 1 || grid_y < 1 || grid_x > 0x7fffffff || grid_y > 65535) Die("a grid no device takes");
  if (shared > 227 << 10) Die("more shared memory than any device has");
  // From malloc, which aligns to 16 bytes.
  const std::unique_ptr<void, void (*)(void*)> memory(std::malloc(static_cast<size_t>(shared) + (shared == 0)),
                                                      std::free);
  position.threads = threads;
  position.grid_x = grid_x;
  position.shared = static_cast<unsigned char*>(memory.get());
  for (int64_t y = 0; y < grid_y; ++y) {
    for (int64_t x = 0; x < grid_x; ++x) {
      position.block_x = x;
      position.block_y = y;
      std::memset(memory.get(), 0xff, static_cast<size_t>(shared));
      TheMachine().RunBlock(kernel, (x + y) % 2 == 1);
    }
  }
}

void Barrier() { TheMachine().Barrier(); }
void Collective(Compute compute, void* operands) { TheMachine().Collective(compute, operands); }

}  // namespace kvlink::testing::emulation
