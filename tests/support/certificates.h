// Certificates for tests of TLS, made by the openssl program. Thread-safety: yes.
#ifndef KVLINK_TESTS_SUPPORT_CERTIFICATES_H_
#define KVLINK_TESTS_SUPPORT_CERTIFICATES_H_

#include <string>

namespace kvlink::testing {

bool HaveOpenssl();
// Makes in `directory`: two authorities, ca.pem and stranger.pem; node.pem and client.pem with their node.key and
// client.key, of the authority ca, for 127.0.0.1 and localhost. False: a command failed, which is a failure of the
// test.
bool MakeCertificates(const std::string& directory);

}  // namespace kvlink::testing

#endif  // KVLINK_TESTS_SUPPORT_CERTIFICATES_H_
