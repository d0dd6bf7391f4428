// In place of proto/protocols.cc: what makes a program of these sources the next build. Its protocol is one more, with
// the same messages, and it speaks that of this build, too; where KVLINK_FORGETS is set it does not, and is the build
// after the next.
#include <cstdlib>

#include "proto/data.h"

namespace kvlink {

ProtocolRange SpokenProtocols() {
  static const bool forgets = std::getenv("KVLINK_FORGETS") != nullptr;
  return {forgets ? kProtocols.max + 1 : kProtocols.min, kProtocols.max + 1};
}

}  // namespace kvlink
