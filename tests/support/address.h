// An address for a server of a test that is ended and comes back. Thread-safety: yes.
#ifndef KVLINK_TESTS_SUPPORT_ADDRESS_H_
#define KVLINK_TESTS_SUPPORT_ADDRESS_H_

#include <string>

namespace kvlink::testing {

// "127.0.0.1:PORT", at which nobody listens now. The port is below those that Linux gives to whoever asks for any: one
// of them could be another's when the server comes back.
std::string UnusedAddress();

}  // namespace kvlink::testing

#endif  // KVLINK_TESTS_SUPPORT_ADDRESS_H_
