// ^C as a request to end in good order.
// Thread-safety: CatchInterrupt before other threads start; Interrupted from any thread.
#ifndef KVLINK_WORKER_CLI_INTERRUPT_H_
#define KVLINK_WORKER_CLI_INTERRUPT_H_

namespace kvlink::cli {

// From now on SIGINT no longer ends the process, and interrupts blocked reads.
void CatchInterrupt();
// Whether SIGINT has come since.
bool Interrupted();

}  // namespace kvlink::cli

#endif  // KVLINK_WORKER_CLI_INTERRUPT_H_
