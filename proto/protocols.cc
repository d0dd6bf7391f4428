// Holds nothing else; data.h says why.
#include "proto/data.h"

namespace kvlink {

ProtocolRange SpokenProtocols() { return kProtocols; }

}  // namespace kvlink
