// An address for a test server that stops and comes back. Thread-safety: yes.
#ifndef KVLINK_TESTS_SUPPORT_ADDRESS_H_
#define KVLINK_TESTS_SUPPORT_ADDRESS_H_

#include <string>

namespace kvlink::testing {

// "HOST:PORT" without a listener; `host` is an IPv4 address of this machine. No other process gets the port before the
// server comes back: it is below Linux's ephemeral range, and other tests are not given it while this process lives.
std::string UnusedAddress(const std::string& host = "127.0.0.1");

}  // namespace kvlink::testing

#endif  // KVLINK_TESTS_SUPPORT_ADDRESS_H_
