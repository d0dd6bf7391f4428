// ^C and SIGTERM as requests to end in good order.
// Thread-safety: one CatchInterrupt at a time; Interrupted from any thread.
#ifndef KVLINK_WORKER_CLI_INTERRUPT_H_
#define KVLINK_WORKER_CLI_INTERRUPT_H_

#include <functional>

namespace kvlink::cli {

// While the object exists, the first SIGINT and the first SIGTERM do not end the process but interrupt blocked reads;
// the second of either ends it.
class CatchInterrupt {
 public:
  // `then` (may be empty): called in the signal handler, so it must be safe there.
  explicit CatchInterrupt(std::function<void()> then = nullptr);
  ~CatchInterrupt();
  CatchInterrupt(const CatchInterrupt&) = delete;
  CatchInterrupt& operator=(const CatchInterrupt&) = delete;

 private:
  const std::function<void()> then_;
};

// Whether one of them has come while it was caught.
bool Interrupted();

}  // namespace kvlink::cli

#endif  // KVLINK_WORKER_CLI_INTERRUPT_H_
