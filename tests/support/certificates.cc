#include "tests/support/certificates.h"

#include <cstdio>
#include <cstdlib>
#include <fstream>

namespace kvlink::testing {

bool HaveOpenssl() { return std::system("openssl version > /dev/null 2>&1") == 0; }

bool MakeCertificates(const std::string& directory) {
  const auto run = [&](const std::string& command) {
    const bool done = std::system(("cd " + directory + " && openssl " + command + " > /dev/null 2>&1").c_str()) == 0;
    if (!done) std::fprintf(stderr, "failed: openssl %s\n", command.c_str());
    return done;
  };
  std::ofstream(directory + "/names") << "subjectAltName=IP:127.0.0.1,DNS:localhost\n";
  bool all = true;
  for (const std::string name : {"ca", "stranger"}) {
    all &= run("req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=" + name + " -keyout " + name + ".key -out " +
               name + ".pem");
  }
  for (const std::string name : {"node", "client"}) {
    all &= run("req -newkey rsa:2048 -nodes -subj /CN=" + name + " -keyout " + name + ".key -out " + name + ".csr");
    all &= run("x509 -req -in " + name + ".csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -out " + name +
               ".pem -extfile names");
  }
  return all;
}

}  // namespace kvlink::testing
