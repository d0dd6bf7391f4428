// ^C and SIGTERM as requests to end in good order.
// Thread-safety: one CatchInterrupt at a time; the functions from any thread.
#ifndef KVLINK_WORKER_CLI_INTERRUPT_H_
#define KVLINK_WORKER_CLI_INTERRUPT_H_

#include "worker/ingest/source/interrupt.h"

namespace kvlink::cli {

// While the object exists, the first SIGINT and the first SIGTERM do not end the process but raise SignalInterrupt();
// the second of either ends it.
class CatchInterrupt {
 public:
  CatchInterrupt();
  ~CatchInterrupt();
  CatchInterrupt(const CatchInterrupt&) = delete;
  CatchInterrupt& operator=(const CatchInterrupt&) = delete;
};

// Whether one of them has come while it was caught.
bool Interrupted();

// Ends the waits for input of whatever is to end with the process. It lives as long as the process, so that a handler
// never meets what is gone.
const ingest::Interrupt& SignalInterrupt();

}  // namespace kvlink::cli

#endif  // KVLINK_WORKER_CLI_INTERRUPT_H_
