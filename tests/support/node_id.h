// Names of nodes for tests.
#ifndef KVLINK_TESTS_SUPPORT_NODE_ID_H_
#define KVLINK_TESTS_SUPPORT_NODE_ID_H_

#include <cstdint>

#include "proto/node_id.h"

namespace kvlink::testing {

// Every byte is `number`.
inline NodeId NodeOf(uint8_t number) {
  NodeId id = {};
  id.fill(number);
  return id;
}

}  // namespace kvlink::testing

#endif  // KVLINK_TESTS_SUPPORT_NODE_ID_H_
