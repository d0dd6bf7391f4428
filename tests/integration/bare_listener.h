// A listener that takes connections as often as it is told, holds so many, the oldest of which it closes for the next,
// and does nothing else: what a crowd costs whoever shares the machine with it, whoever it is that it crowds.
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
  // `path` empty: at a port of 127.0.0.1; else a Unix socket (SOCK_SEQPACKET) there.
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
