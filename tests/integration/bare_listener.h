// A listener that accepts connections at a given rate, holds a given number of them, closing the oldest for the next,
// and does nothing else. Shows what a crowd costs other processes on the machine, whatever it connects to.
// Thread-safety: one thread.
#ifndef KVLINK_TESTS_INTEGRATION_BARE_LISTENER_H_
#define KVLINK_TESTS_INTEGRATION_BARE_LISTENER_H_

#include <atomic>
#include <string>

#include "base/descriptor.h"
#include "base/thread.h"

namespace kvlink::testing {

class BareListener {
 public:
  // Empty `path`: at a port of 127.0.0.1; otherwise a Unix socket (SOCK_SEQPACKET) there.
  BareListener(const std::string& path, double connections_per_second, int held);
  ~BareListener();
  // host:port, or the path.
  const std::string& address() const { return address_; }

 private:
  void Run(double connections_per_second, int held);

  Descriptor listening_;
  std::string address_;
  std::atomic<bool> stop_{false};
  Thread thread_;
};

}  // namespace kvlink::testing

#endif  // KVLINK_TESTS_INTEGRATION_BARE_LISTENER_H_
