// Replaces proto/protocols.cc and thereby turns a program of the same libraries into the next build: it speaks one more
// protocol, with the same messages. With KVLINK_FORGETS set it is the build after that, which no longer speaks this
// one's.
#include <cstdlib>

#include "proto/data.h"

namespace kvlink {

ProtocolRange SpokenProtocols() {
  static const bool forgets = std::getenv("KVLINK_FORGETS") != nullptr;
  return {forgets ? kProtocols.max + 1 : kProtocols.min, kProtocols.max + 1};
}

}  // namespace kvlink
