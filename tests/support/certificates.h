// Certificates for tests of TLS, made by the openssl program. Thread-safety: yes.
#ifndef KVLINK_TESTS_SUPPORT_CERTIFICATES_H_
#define KVLINK_TESTS_SUPPORT_CERTIFICATES_H_

#include <string>

namespace kvlink::testing {

bool HaveOpenssl();
// Creates in `directory`: two authorities, ca.pem and stranger.pem; and node.pem and client.pem with node.key and
// client.key, signed by ca, for 127.0.0.1 and localhost. False, with a test failure, if a command fails.
bool MakeCertificates(const std::string& directory);

}  // namespace kvlink::testing

#endif  // KVLINK_TESTS_SUPPORT_CERTIFICATES_H_
