// An address for a server of a test that is ended and comes back. Thread-safety: yes.
#ifndef KVLINK_TESTS_SUPPORT_ADDRESS_H_
#define KVLINK_TESTS_SUPPORT_ADDRESS_H_

#include <string>

namespace kvlink::testing {

// "HOST:PORT", at which nobody listens now; `host` is an IPv4 address of this machine. The port is below those that
// Linux gives to whoever asks for any: one of them could be another's when the server comes back.
std::string UnusedAddress(const std::string& host = "127.0.0.1");

}  // namespace kvlink::testing

#endif  // KVLINK_TESTS_SUPPORT_ADDRESS_H_
