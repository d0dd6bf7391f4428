// Synthetic encodings in slots chosen by a test, and variants of one name.
#ifndef KVLINK_TESTS_STORE_IN_SLOT_H_
#define KVLINK_TESTS_STORE_IN_SLOT_H_

#include <cstdint>
#include <cstdlib>

#include "proto/slots.h"
#include "tests/store/synthetic.h"

namespace kvlink::testing {

// Number `number` in slot `slot`. Each `variant` has its own bits, and so its own etag.
inline Synthetic MakeInSlot(uint64_t number, int slot, int variant = 0, Codec codec = Codec::kRawBf16,
                            int64_t tokens = 40) {
  Synthetic made = MakeSynthetic(number, 2, tokens, 1, 32, codec);
  made.manifest.identity.bytes[0] = static_cast<uint8_t>(slot >> 8);
  made.manifest.identity.bytes[1] = static_cast<uint8_t>(slot);
  made.slabs[0][5] ^= static_cast<std::byte>(variant);
  if (!made.manifest.ChecksumLayer(0, made.slabs[0]).ok()) std::abort();
  made.manifest.Seal();
  return made;
}

}  // namespace kvlink::testing

#endif  // KVLINK_TESTS_STORE_IN_SLOT_H_
